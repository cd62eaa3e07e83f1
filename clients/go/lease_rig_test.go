package chartergate

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// house is a real server on a directory, wired as the command does, which can stop and start again on its port. Its
// wall clock can be moved.
type house struct {
	preflight.Waiter
	t     testing.TB
	dir   string
	addr  string
	ahead atomic.Int64 // of its wall clock, in nanoseconds
	stop  func()       // in peace
	admin *Client
}

func (h *house) Now() time.Time       { return time.Now().Add(time.Duration(h.ahead.Load())) }
func (*house) Boot() time.Duration    { return time.Since(booted) }
func (h *house) skip(d time.Duration) { h.ahead.Add(int64(d)) }

var booted = time.Now()

type compiler struct{ server.PolicyCompiler }

func (compiler) Hash(modules map[string]string) string { return policy.Hash(modules) }
func (compiler) Vet(_ context.Context, modules map[string]string) (int, error) {
	_, err := policy.Compile(modules)
	return 0, err
}

func newHouse(t testing.TB, change ...func(*chartergatev1.Budget)) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), addr: freeAddr(t)}
	h.start()
	t.Cleanup(func() { h.stop() })
	h.admin = h.dial()
	money := func(id, parent string, limit int64) *chartergatev1.Budget {
		b := &chartergatev1.Budget{
			Name: "budgets/" + id, Owner: &chartergatev1.Owner{Name: "Ada"}, LimitNanos: limit, Currency: "USD",
			Period: &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_YEAR},
		}
		if parent != "" {
			b.Parent = "budgets/" + parent
		}
		for _, f := range change {
			f(b)
		}
		return b
	}
	_, err := h.admin.Manifests.Apply(t.Context(), &chartergatev1.ApplyRequest{Resources: []*chartergatev1.Resource{
		{Resource: &chartergatev1.Resource_Catalog{Catalog: &chartergatev1.Catalog{
			Tiers: []*chartergatev1.Tier{{Id: "economy"}},
			Models: []*chartergatev1.Model{
				{Id: "small", Provider: "lab", Tier: "economy", ContextTokens: 100_000, MaxOutputTokens: 4000, Capabilities: []string{"chat"}},
				{Id: "other", Provider: "lab", Tier: "economy", ContextTokens: 100_000, MaxOutputTokens: 4000, Capabilities: []string{"chat"}},
			},
		}}},
		{Resource: &chartergatev1.Resource_PriceBook{PriceBook: &chartergatev1.PriceBook{
			Name: "priceBooks/lab", Prices: []*chartergatev1.Price{price("small", 1), price("other", 3)},
		}}},
		{Resource: &chartergatev1.Resource_Budget{Budget: money("acme", "", 1e13)}},
		{Resource: &chartergatev1.Resource_Budget{Budget: money("chat", "acme", 4e12)}},
		{Resource: &chartergatev1.Resource_Charter{Charter: &chartergatev1.Charter{
			Name: "charters/chat", Owner: &chartergatev1.Owner{Name: "Ada"}, Team: "chat", Budget: "budgets/chat",
			Stage: chartergatev1.Stage_STAGE_PRODUCTION, PermittedTiers: []string{"economy"},
		}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// price has rates that no count of tokens divides evenly: every call is rounded.
func price(model string, factor int64) *chartergatev1.Price {
	in, cached, out, reasoning, request := 1_234_567*factor, 345_678*factor, 4_567_891*factor, 5_678_912*factor, 111_111*factor
	return &chartergatev1.Price{
		Model: model, EffectiveTime: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), InputNanos: &in, CacheReadNanos: &cached,
		OutputNanos: &out, ReasoningNanos: &reasoning, RequestNanos: &request, OverheadPpm: 33_333,
		ToolCallNanos: map[string]int64{"search": 7_777_777},
	}
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (h *house) start() {
	h.t.Helper()
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	check := func(err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
	}
	store, err := embedded.Start(ctx, h.dir, log)
	check(err)
	control, err := etcd.OpenControl(ctx, store.Client(), log, h.Now)
	check(err)
	decider, err := policy.NewDecider()
	check(err)
	registry := prometheus.NewRegistry()
	gate, err := preflight.Start(ctx, preflight.Config{
		Control: control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: store.Client(), Lease: store.Client(), Watcher: store.Client(), Exclusive: true, Now: h.Now}), Decider: decider, Clock: h,
		Metrics: server.NewMetrics(registry), Log: log,
	})
	check(err)
	validator, err := server.NewValidator()
	check(err)
	requests := server.NewIdempotency(h.Now)
	listeners, err := server.Listen(h.addr, "127.0.0.1:0")
	check(err)
	s, err := server.New(server.Config{
		Listeners: listeners, Control: control, Compiler: compiler{}, BuiltinPolicy: decider.Builtin(),
		Preflight: server.NewPreflightService(gate, validator, requests, server.NewPeers(), log), Usage: server.NewUsageService(gate, nil),
		Statuses: server.NewBudgetStatusService(gate), Leases: server.NewLeaseService(gate, requests, server.NewPeers(), log),
		Requests: requests, Validator: validator, Logger: log, Registry: registry, Now: h.Now,
	})
	check(err)
	serving, stopServing := context.WithCancel(ctx)
	writing, stopWriting := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { _ = gate.Run(writing) })
	served := make(chan error, 1)
	go func() { served <- s.Serve(serving) }()
	h.stop = sync.OnceFunc(func() {
		stopServing()
		if err := <-served; err != nil {
			h.t.Errorf("serve: %v", err)
		}
		stopWriting()
		ended.Wait()
		control.Close()
		if err := store.Close(); err != nil {
			h.t.Error(err)
		}
	})
}

// restart stops the server in peace and starts it again.
func (h *house) restart() {
	h.stop()
	h.start()
}

func (h *house) dial(opts ...Option) *Client {
	h.t.Helper()
	c, err := Dial(h.addr, opts...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// lease dials a client with a lease that is ready.
func (h *house) lease(like *chartergatev1.ReserveRequest) (*Client, *Lease) {
	h.t.Helper()
	c := h.dial()
	l, err := c.Lease(like)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := l.Ready(ctx); err != nil {
		h.t.Fatal(err)
	}
	return c, l
}

func (h *house) status(budget string) *chartergatev1.BudgetStatus {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	st, err := retry(ctx, h.admin, &chartergatev1.GetBudgetStatusRequest{Name: "budgets/" + budget}, h.admin.Budgets.GetBudgetStatus)
	if err != nil {
		h.t.Fatal(err)
	}
	return st
}

// sums checks what both budgets of the path have settled, and that nothing is held.
func (h *house) sums(what string, settled, forced int64) {
	h.t.Helper()
	for _, budget := range []string{"chat", "acme"} {
		st := h.status(budget)
		if st.SettledNanos != settled || st.ForcedNanos != forced || st.HeldNanos != 0 {
			h.t.Errorf("%s: %s has settled %d, forced %d, held %d; clients were told %d and %d", what, budget, st.SettledNanos, st.ForcedNanos, st.HeldNanos, settled, forced)
		}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// chat is a call with all that a call may have, of at most in input tokens and out output tokens.
func chat(in, out int64) *chartergatev1.ReserveRequest {
	return &chartergatev1.ReserveRequest{Ttl: durationpb.New(time.Minute), Call: &chartergatev1.Call{
		Feature: "chat", TaskClass: "chat", Complexity: 20, User: "u-1", Cohort: "pro", PromptPattern: "p", Labels: map[string]string{"a": "b"},
		Estimate: &chartergatev1.Estimate{InputTokens: in, CachedInputTokens: in / 10, MaxOutputTokens: out, ToolCalls: map[string]int64{"search": 3}},
	}}
}
