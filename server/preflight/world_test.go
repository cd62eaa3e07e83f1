package preflight_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// clock is moved by the test; it goes on by itself at the rate of real time, so that heartbeats count.
type clock struct {
	preflight.Waiter
	mu    sync.Mutex
	start time.Time
	base  time.Time
}

func newClock(at time.Time) *clock { return &clock{start: time.Now(), base: at} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.start))
}

// Boot does not move with the wall clock that the test sets.
func (c *clock) Boot() time.Duration { return time.Since(c.start) }

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = c.base.Add(d)
}

type metrics struct {
	mu      sync.Mutex
	effects map[routing.Effect]int
	alerts  int
	failed  []routing.PolicyFailure
}

func (m *metrics) Decision(e routing.Effect) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.effects == nil {
		m.effects = map[routing.Effect]int{}
	}
	m.effects[e]++
}
func (m *metrics) ReserveSeconds(float64) {}
func (m *metrics) SettleSeconds(float64)  {}
func (m *metrics) Alert()                 { m.mu.Lock(); m.alerts++; m.mu.Unlock() }
func (m *metrics) Batch(int, float64)     {}
func (m *metrics) Event(preflight.Event)  {}

func (m *metrics) RefusedElsewhere(money.Nanos) {}
func (m *metrics) PolicyFailed(why routing.PolicyFailure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failed = append(m.failed, why)
}

// world is a gate on a real etcd.
type world struct {
	t       testing.TB
	dir     string
	clock   *clock
	metrics *metrics
	outbox  store.Outbox
	etcd    *embedded.Server
	control *etcd.Control
	decider *policy.Decider
	gate    *preflight.Service
	stop    func()
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), clock: newClock(noon), metrics: &metrics{}}
	w.open()
	t.Cleanup(func() { w.stop() })
	return w
}

// open starts everything on the directory.
func (w *world) open() {
	w.t.Helper()
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if w.etcd, err = embedded.Start(ctx, w.dir, log); err != nil {
		w.t.Fatal(err)
	}
	if w.control, err = etcd.OpenControl(ctx, w.etcd.Client(), log, w.clock.Now); err != nil {
		w.t.Fatal(err)
	}
	if w.decider, err = policy.NewDecider(); err != nil {
		w.t.Fatal(err)
	}
	w.gate, err = preflight.Start(ctx, preflight.Config{
		Control: w.control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: w.etcd.Client(), Lease: w.etcd.Client(), Watcher: w.etcd.Client(), Exclusive: true, Now: w.clock.Now}), Decider: w.decider,
		Clock: w.clock, Metrics: w.metrics, Log: log, MaxTTL: 10 * time.Minute, Outbox: w.outbox,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.gate.Run(running) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run: %v", err)
		}
		w.control.Close()
		if err := w.etcd.Close(); err != nil {
			w.t.Error(err)
		}
	})
}

// apply commits control records.
func (w *world) apply(records ...charter.Record) {
	w.t.Helper()
	_, err := w.control.Commit(context.Background(), func(*charter.Snapshot) ([]charter.Change, error) {
		var changes []charter.Change
		for _, r := range records {
			changes = append(changes, charter.Set(r))
		}
		return changes, nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func period(t testing.TB, c charter.Calendar) charter.Period {
	t.Helper()
	p, err := charter.NewPeriod(c, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func budget(t testing.TB, id, parent string, limit money.Nanos) *charter.Budget {
	return &charter.Budget{ID: id, Parent: parent, Owner: charter.Owner{Name: "Ada"}, Limit: limit, Currency: "USD", Period: period(t, charter.Day)}
}

// A call of `chat` with in tokens and at most out tokens costs in*1000 + out*2000 nanos on the small model and ten times
// that on the large.
func (w *world) company(limit money.Nanos) *charter.Charter {
	w.t.Helper()
	past := noon.AddDate(-1, 0, 0)
	catalog := &charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "standard"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "small", Provider: "lab", Tier: "economy", Capabilities: []string{"chat"}, ContextTokens: 100_000, MaxOutputTokens: 10_000},
			{ID: "middle", Provider: "lab", Tier: "standard", Capabilities: []string{"chat", "tools"}, ContextTokens: 100_000, MaxOutputTokens: 10_000},
			{ID: "large", Provider: "lab", Tier: "premium", Capabilities: []string{"chat", "tools", "vision"}, ContextTokens: 100_000, MaxOutputTokens: 10_000},
			{ID: "unpriced", Provider: "lab", Tier: "premium", Capabilities: []string{"chat", "magic"}, ContextTokens: 100_000, MaxOutputTokens: 10_000},
		},
	}
	price := func(model string, factor money.Nanos) *pricing.Price {
		return pricing.New(model, past, "USD", map[pricing.Unit]money.Nanos{pricing.Input: factor * money.Unit, pricing.Output: 2 * factor * money.Unit})
	}
	book := &charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{price("small", 1), price("middle", 4), price("large", 10)}}
	c := &charter.Charter{ID: "chat", Owner: charter.Owner{Name: "Ada"}, Team: "chat", Stage: charter.StageProduction, Budget: "chat"}
	w.apply(catalog, book, budget(w.t, "org", "", 1000*limit), budget(w.t, "chat", "org", limit), c)
	return c
}

func call(in, out int64) *routing.Call {
	return &routing.Call{Feature: "chat", TaskClass: "chat", Tier: "economy", Model: "small", Estimate: routing.Estimate{InputTokens: in, MaxOutputTokens: out}}
}

func (w *world) reserve(c *routing.Call) (*preflight.Decision, *preflight.Hold) {
	w.t.Helper()
	d, h, err := w.gate.Reserve(context.Background(), c, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return d, h
}

func (w *world) settle(token string, in, out int64) *preflight.Settlement {
	w.t.Helper()
	s, err := w.gate.Settle(context.Background(), token, &usage.Usage{InputTokens: in, OutputTokens: out}, "", usage.OutcomeUnknown)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) status(name string) *preflight.Status {
	w.t.Helper()
	s, err := w.gate.Status(context.Background(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.Settled+s.Held > s.Ceil+s.Forced {
		w.t.Errorf("%s: settled %s + held %s > ceiling %s + forced %s", name, s.Settled, s.Held, s.Ceil, s.Forced)
	}
	return s
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			w.t.Fatalf("did not happen: %s", what)
		case <-tick.C:
		}
	}
}
