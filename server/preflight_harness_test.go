package server

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/etcd"
)

// testClock stands still until it is moved. Boot goes on: ownership is proven in real time.
type testClock struct {
	preflight.Waiter
	nanos atomic.Int64
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func (c *testClock) Now() time.Time          { return time.Unix(0, c.nanos.Load()).UTC() }
func (c *testClock) Boot() time.Duration     { return time.Since(bootTime) }
func (c *testClock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

var bootTime = time.Now()

// gateRig is a running server that decides, holds and settles, with nothing in it that the command does not wire too.
type gateRig struct {
	*rig
	clock        *testClock
	gate         *preflight.Service
	meter        *metering.Meter // nil: nothing is counted
	decider      *policy.Decider
	preflight    chartergatev1.PreflightServiceClient
	usage        chartergatev1.UsageServiceClient
	leaseService *LeaseService
	// stopWriter ends the ledger's writer, as a shutdown does.
	stopWriter func()
}

// maxHold is the longest hold of the rig.
const maxHold = 10 * time.Minute

// startGate runs a server with an empty ledger at noon, until the test ends.
func startGate(t *testing.T, change ...func(*Config)) *gateRig {
	t.Helper()
	emptyLedger(t)
	g := &gateRig{clock: &testClock{}}
	g.clock.nanos.Store(noon.UnixNano())
	var err error
	if g.decider, err = policy.NewDecider(); err != nil {
		t.Fatal(err)
	}
	registry, quiet := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	g.gate, err = preflight.Start(t.Context(), preflight.Config{
		Control: control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: etcdServer.Client(), Lease: etcdServer.Client(), Watcher: etcdServer.Client(), Exclusive: true, Now: g.clock.Now}), Decider: g.decider,
		Clock: g.clock, Metrics: NewMetrics(registry), Log: quiet, MaxTTL: maxHold,
	})
	if err != nil {
		t.Fatal(err)
	}
	writing, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.gate.Run(writing) }()
	g.stopWriter = sync.OnceFunc(func() {
		stop()
		<-ended
	})
	t.Cleanup(g.stopWriter)
	requests := NewIdempotency(g.clock.Now)
	g.rig = start(t, append([]func(*Config){func(c *Config) {
		c.Preflight = NewPreflightService(g.gate, validator(t), requests, NewPeers(), quiet)
		c.Usage, c.Statuses = NewUsageService(g.gate, g.meter), NewBudgetStatusService(g.gate)
		c.Operations = NewOperationsService(g.gate, "v0.0.0-test", NewPeers(), serving(g.decider))
		g.leaseService = NewLeaseService(g.gate, requests, NewPeers(), quiet)
		c.Leases = g.leaseService
		c.Requests, c.Now, c.Registry, c.BuiltinPolicy = requests, g.clock.Now, registry, g.decider.Builtin()
	}}, change...)...)
	g.preflight, g.usage = chartergatev1.NewPreflightServiceClient(g.conn), chartergatev1.NewUsageServiceClient(g.conn)
	return g
}

func serving(d *policy.Decider) func() PolicyServing {
	return func() PolicyServing { return PolicyServing(*d.Serving()) }
}

// emptyLedger deletes all but the control records.
func emptyLedger(t *testing.T) {
	t.Helper()
	client := etcdServer.Client()
	keys, err := client.Get(t.Context(), etcd.Prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range keys.Kvs {
		if k := strings.TrimPrefix(string(kv.Key), etcd.Prefix); k == "epoch" || strings.HasPrefix(k, "ctl/") {
			continue
		}
		if _, err := client.Delete(t.Context(), string(kv.Key)); err != nil {
			t.Fatal(err)
		}
	}
}

// daily is a budget of a UTC day.
func daily(id, parent string, limit int64, change ...func(*chartergatev1.Budget)) *chartergatev1.Budget {
	b := aBudget(id, parent)
	b.LimitNanos, b.Period = limit, &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_DAY}
	for _, f := range change {
		f(b)
	}
	return b
}

func perKey(per chartergatev1.BudgetKey) func(*chartergatev1.Budget) {
	return func(b *chartergatev1.Budget) { b.Per = per }
}

func allTiers(id, budget string, change ...func(*chartergatev1.Charter)) *chartergatev1.Charter {
	c := aCharter(id, budget)
	c.PermittedTiers = []string{"economy", "premium"}
	for _, f := range change {
		f(c)
	}
	return c
}

// lab has a model of each tier, and some that cannot be paid: without a price, in another currency, and at a price
// that nobody can pay. A call of small costs 1,000 nanos for a token in, 2,000 for one out; large ten times that.
func lab() []resource {
	catalog := &chartergatev1.Catalog{Tiers: []*chartergatev1.Tier{{Id: "economy"}, {Id: "premium"}, {Id: "exotic"}}}
	for _, m := range [][2]string{{"small", "economy"}, {"large", "premium"}, {"unpriced", "exotic"}, {"foreign", "exotic"}, {"dear", "exotic"}} {
		catalog.Models = append(catalog.Models, &chartergatev1.Model{
			Id: m[0], Provider: "acme", Tier: m[1], ContextTokens: 100_000, MaxOutputTokens: 4000, Capabilities: []string{"chat"},
		})
	}
	price := func(model string, input, output int64) *chartergatev1.Price {
		return &chartergatev1.Price{
			Model: model, EffectiveTime: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			InputNanos: &input, OutputNanos: &output,
		}
	}
	euros := &chartergatev1.PriceBook{Name: "priceBooks/euros", Currency: "EUR", Prices: []*chartergatev1.Price{price("foreign", 1e9, 2e9)}}
	dollars := &chartergatev1.PriceBook{Name: "priceBooks/dollars", Prices: []*chartergatev1.Price{
		price("small", 1e9, 2e9), price("large", 10e9, 20e9), price("dear", 1<<63-1, 1<<63-1),
	}}
	dollars.Prices[0].ToolCallNanos = map[string]int64{"web_search": 10e12}
	dollars.Prices[2].ToolCallNanos = map[string]int64{"telephone": 1<<63 - 1, "telegraph": 1<<63 - 1}
	return []resource{catalog, dollars, euros}
}

// apply applies records to a lab.
func (g *gateRig) apply(t *testing.T, records ...resource) {
	t.Helper()
	if _, err := g.manifests.Apply(t.Context(), apply(append(lab(), records...)...)); err != nil {
		t.Fatal(err)
	}
}

// chat applies the charter chat on budgets acme > support, with a ceiling for support.
func (g *gateRig) chat(t *testing.T, limit int64, more ...resource) {
	t.Helper()
	g.apply(t, append([]resource{daily("acme", "", 1000e9), daily("support", "acme", limit), allTiers("chat", "support")}, more...)...)
}

// aCall of the feature chat that small serves, at 1,000 nanos a token in and 2,000 out.
func aCall(in, out int64) *chartergatev1.Call {
	return &chartergatev1.Call{Feature: "chat", Tier: "economy", Estimate: &chartergatev1.Estimate{InputTokens: in, MaxOutputTokens: out}}
}

func (g *gateRig) reserve(t *testing.T, call *chartergatev1.Call) *chartergatev1.ReserveResponse {
	t.Helper()
	resp, err := g.preflight.Reserve(t.Context(), &chartergatev1.ReserveRequest{Call: call})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// hold reserves what must be granted and gives the token.
func (g *gateRig) hold(t *testing.T, call *chartergatev1.Call) string {
	t.Helper()
	resp := g.reserve(t, call)
	if resp.Hold == nil {
		t.Fatalf("refused: %v", resp.Decision)
	}
	return resp.Hold.Token
}

func used(in, out int64) *chartergatev1.Usage {
	return &chartergatev1.Usage{InputTokens: in, OutputTokens: out}
}

func (g *gateRig) settle(t *testing.T, token string, usage *chartergatev1.Usage) *chartergatev1.Settlement {
	t.Helper()
	resp, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: token, Usage: usage})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Settlement
}

func (g *gateRig) status(t *testing.T, name string) *chartergatev1.BudgetStatus {
	t.Helper()
	st, err := g.budgets.GetBudgetStatus(t.Context(), &chartergatev1.GetBudgetStatusRequest{Name: name})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return st
}

// soon ends a stream that should have said something within 20 s.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, for at most 10 s.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(10*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
