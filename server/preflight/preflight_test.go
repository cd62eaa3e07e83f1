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
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// clock is moved by the test; it goes on by itself at the rate of real time, so that heartbeats count.
type clock struct {
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

// world is a gate on a real etcd.
type world struct {
	t       testing.TB
	dir     string
	clock   *clock
	metrics *metrics
	etcd    *embedded.Server
	control *etcd.Control
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
	decider, err := policy.NewDecider()
	if err != nil {
		w.t.Fatal(err)
	}
	w.gate, err = preflight.Start(ctx, preflight.Config{
		Control: w.control, Ledger: etcd.NewLedger(w.etcd.Client(), true, w.clock.Now, nil), Decider: decider,
		Clock: w.clock, Metrics: w.metrics, Log: log, MaxTTL: 10 * time.Minute,
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

func TestReserveHoldsOnEveryBudgetAndSettleFreesTheRest(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	d, h := w.reserve(call(1000, 500))
	if d.Effect != routing.Allow || d.Model != "small" || d.Cost != 2_000_000 || h == nil || h.Amount != 2_000_000 {
		t.Fatalf("decision %+v, hold %+v; want small allowed at 2,000,000 nanos", d, h)
	}
	for _, name := range []string{"budgets/chat", "budgets/org"} {
		if s := w.status(name); s.Held != 2_000_000 || s.Settled != 0 {
			t.Errorf("%s after reserve: %+v", name, s.State)
		}
	}
	s := w.settle(h.Token, 1000, 100)
	if s.Cost != 1_200_000 || s.Released != 800_000 || s.Forced != 0 || s.Late || s.Model != "small" {
		t.Errorf("settlement %+v", s)
	}
	var lines money.Nanos
	for _, l := range s.Lines {
		lines += l.Cost
	}
	if lines != s.Cost {
		t.Errorf("the lines add up to %d, the cost is %d", lines, s.Cost)
	}
	for _, name := range []string{"budgets/chat", "budgets/org"} {
		if s := w.status(name); s.Held != 0 || s.Settled != 1_200_000 {
			t.Errorf("%s after settle: %+v", name, s.State)
		}
	}
}

func TestSettleIsIdempotentAndAnotherAmountIsAnError(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	first := w.settle(h.Token, 1000, 100)
	if again := w.settle(h.Token, 1000, 100); again.Cost != first.Cost || again.Journal != first.Journal {
		t.Errorf("again %+v, first %+v", again, first)
	}
	_, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0)
	if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.First != first.Cost {
		t.Errorf("another amount: %v; want a SettledError with the first", err)
	}
	if _, err := w.gate.Release(context.Background(), h.Token); !errors.Is(err, ledger.ErrSettled) {
		t.Errorf("release after settle: %v", err)
	}
	if s := w.status("budgets/chat"); s.Settled != first.Cost {
		t.Errorf("settled %d, want %d once", s.Settled, first.Cost)
	}
}

func TestReleaseFreesAndEndsTheHold(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	for range 2 { // again gives the first answer
		if freed, err := w.gate.Release(context.Background(), h.Token); err != nil || freed != h.Amount {
			t.Errorf("release: %d, %v", freed, err)
		}
	}
	if _, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0); !errors.Is(err, ledger.ErrReleased) {
		t.Errorf("settle after release: %v", err)
	}
	if s := w.status("budgets/chat"); s.Held != 0 || s.Settled != 0 {
		t.Errorf("after release: %+v", s.State)
	}
}

func TestForcedSpendIsRecordedAndBlocksLaterReserves(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000)
	_, h := w.reserve(call(1000, 500))
	s := w.settle(h.Token, 9_500, 0) // 9.5M on a hold of 2M
	if s.Cost != 9_500_000 || s.Forced != 7_500_000 {
		t.Fatalf("settlement %+v", s)
	}
	if st := w.status("budgets/chat"); st.Settled != 9_500_000 || st.Forced != 7_500_000 || st.Remaining() != 500_000 {
		t.Errorf("status %+v", st.State)
	}
	d, h := w.reserve(call(1000, 500))
	if h != nil || d.Effect != routing.Deny || d.RetryDelay <= 0 {
		t.Errorf("a call of 2M with 0.5M left: %+v", d)
	}
	if d, h := w.reserve(call(400, 50)); h == nil {
		t.Errorf("a call of 0.5M with 0.5M left: %+v", d)
	}
}

func TestExpiredHoldIsReleasedAndALateSettlementIsForced(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	d, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil || h == nil {
		t.Fatal(d, err)
	}
	w.clock.advance(time.Minute + ledger.Grace + 2*time.Second)
	w.eventually("the hold is freed", func() bool { return w.status("budgets/chat").Held == 0 })
	if _, err := w.gate.Extend(context.Background(), h.Token, time.Minute); !errors.Is(err, ledger.ErrExpired) {
		t.Errorf("extend: %v", err)
	}
	if _, err := w.gate.Release(context.Background(), h.Token); !errors.Is(err, ledger.ErrExpired) {
		t.Errorf("release: %v", err)
	}
	s := w.settle(h.Token, 1000, 0)
	if !s.Late || s.Forced != 1_000_000 {
		t.Errorf("late settlement %+v", s)
	}
	if again := w.settle(h.Token, 1000, 0); again.Journal != s.Journal {
		t.Errorf("again %+v", again)
	}
	if st := w.status("budgets/chat"); st.Settled != 1_000_000 || st.Forced != 1_000_000 {
		t.Errorf("status %+v", st.State)
	}
}

func TestExpiredHoldIsChargedWhereTheBudgetSaysSo(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	org := *w.control.Snapshot().Budget("org")
	org.OnExpiry = charter.OnExpiryCharge
	w.apply(&org)
	_, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.clock.advance(time.Minute + ledger.Grace + 2*time.Second)
	w.eventually("the hold is charged", func() bool { return w.status("budgets/chat").Settled == h.Amount })
	_, err = w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1}, "", 0)
	if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.Kind != ledger.KindExpiryCharge {
		t.Errorf("settle after the charge: %v", err)
	}
}

func TestExtendKeepsAHold(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h, err := w.gate.Reserve(context.Background(), call(1000, 500), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	longer, err := w.gate.Extend(context.Background(), h.Token, 5*time.Minute)
	if err != nil || !longer.Expires.After(h.Expires) {
		t.Fatal(longer, err)
	}
	w.clock.advance(2 * time.Minute)
	if s := w.settle(longer.Token, 1000, 0); s.Late || s.Forced != 0 {
		t.Errorf("settlement %+v", s)
	}
	if _, err := w.gate.Extend(context.Background(), h.Token, time.Hour); err == nil {
		t.Error("extended beyond the longest hold")
	}
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

func TestTheBestTierThatFitsServes(t *testing.T) {
	w := newWorld(t)
	w.company(20_000_000)
	c := call(1000, 500) // 20M on large, 8M on middle, 2M on small
	c.Model, c.Tier, c.Complexity = "", "", 100
	d, h := w.reserve(c)
	if h == nil || d.Model != "large" {
		t.Fatalf("%+v", d)
	}
	w.settle(h.Token, 1000, 0) // 10M; 10M are left
	d, h = w.reserve(c)
	if h == nil || d.Model != "middle" || d.Effect != routing.Downgrade || h.Amount != 8_000_000 {
		t.Fatalf("%+v", d)
	}
	if len(d.Reasons) == 0 {
		t.Error("a downgrade without a reason")
	}
	for _, r := range d.Reasons {
		if r.Code == preflight.CodeFittedToBudget && r.Budget != "budgets/chat" {
			t.Errorf("bound by %s", r.Budget)
		}
	}
	if d, h = w.reserve(c); h == nil || d.Model != "small" {
		t.Fatalf("%+v", d)
	}
	if d, h = w.reserve(c); h != nil || d.Effect != routing.Throttle || d.RetryDelay <= 0 {
		t.Errorf("with all money held: %+v; want a throttle, as it may come back", d)
	}
}

func TestThrottleAt100Percent(t *testing.T) {
	exhaust := func(w *world) {
		_, h := w.reserve(call(1000, 0))
		if h == nil {
			w.t.Fatal("no hold")
		}
		w.settle(h.Token, 1_000_000, 0) // 1 USD
	}
	t.Run("deny", func(t *testing.T) {
		w := newWorld(t)
		w.company(money.Unit)
		exhaust(w)
		d, h := w.reserve(call(1000, 500))
		if h != nil || d.Effect != routing.Deny || d.RetryDelay < 11*time.Hour {
			t.Errorf("%+v; want deny until midnight", d)
		}
	})
	t.Run("downgrade", func(t *testing.T) {
		w := newWorld(t)
		c := *w.company(money.Unit)
		c.Exhausted = charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: 5_000_000}
		w.apply(&c)
		exhaust(w)
		asked := call(1000, 500)
		asked.Model, asked.Tier, asked.Complexity = "", "", 100
		for i := range 2 {
			d, h := w.reserve(asked)
			if h == nil || d.Effect != routing.Downgrade || d.Model != "small" {
				t.Fatalf("call %d: %+v", i, d)
			}
			w.settle(h.Token, 1000, 500)
		}
		if d, h := w.reserve(asked); h != nil || d.Effect != routing.Deny {
			t.Errorf("beyond the allowance: %+v", d)
		}
		if st := w.status("budgets/chat/overflow/chat"); st.Settled != 4_000_000 || st.Ceil != 5_000_000 {
			t.Errorf("overflow: %+v", st.State)
		}
		if chat, org := w.status("budgets/chat"), w.status("budgets/org"); org.Settled != chat.Settled+4_000_000 {
			t.Errorf("org %d, chat %d and overflow 4,000,000", org.Settled, chat.Settled)
		}
	})
	t.Run("trickle", func(t *testing.T) {
		w := newWorld(t)
		c := *w.company(money.Unit)
		c.Exhausted = charter.Exhausted{Mode: charter.ExhaustedTrickle, OverflowAllowance: money.Unit, RequestsPerMinute: 2}
		w.apply(&c)
		exhaust(w)
		if d, h := w.reserve(call(1000, 500)); h == nil {
			t.Fatalf("the first: %+v", d)
		}
		d, h := w.reserve(call(1000, 500))
		if h != nil || d.Effect != routing.Throttle || d.RetryDelay <= 0 || d.RetryDelay > 30*time.Second {
			t.Fatalf("the second: %+v", d)
		}
		w.clock.advance(30 * time.Second)
		if d, h := w.reserve(call(1000, 500)); h == nil {
			t.Errorf("half a minute later: %+v", d)
		}
	})
}

func TestAlertIsRecordedOnce(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000)
	for range 9 {
		_, h := w.reserve(call(900, 50))
		w.settle(h.Token, 1000, 0)
	}
	w.eventually("the alert is recorded", func() bool { return len(w.status("budgets/chat").Alerted) == 1 })
	alerts, err := w.gate.Alerts(context.Background(), "chat", 10)
	if err != nil || len(alerts) != 1 || alerts[0].Permille != 800 || alerts[0].Settled != 8_000_000 || alerts[0].OwnerName != "Ada" {
		t.Fatalf("alerts %+v, %v", alerts, err)
	}
	w.stop()
	w.open()
	_, h := w.reserve(call(900, 50))
	w.settle(h.Token, 1000, 0)
	if alerts, err := w.gate.Alerts(context.Background(), "", 10); err != nil || len(alerts) != 1 {
		t.Errorf("after a restart: %+v, %v", alerts, err)
	}
	w.metrics.mu.Lock()
	defer w.metrics.mu.Unlock()
	if w.metrics.alerts != 1 {
		t.Errorf("the metric counts %d alerts", w.metrics.alerts)
	}
}

func TestPerKeyCeilings(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	run := budget(t, "run", "chat", 3_000_000)
	run.Per = charter.PerRun
	c := *w.control.Snapshot().Charter("chat")
	c.Budget = "run"
	w.apply(run, &c)
	if _, _, err := w.gate.Reserve(context.Background(), call(1000, 500), 0); err == nil {
		t.Error("a call without a run was answered")
	} else if e, ok := errors.AsType[*preflight.KeyRequiredError](err); !ok || e.Per != charter.PerRun {
		t.Error(err)
	}
	in := func(run string) *routing.Call { c := call(1000, 500); c.Run = run; return c }
	if _, h := w.reserve(in("a")); h == nil {
		t.Error("the first of run a")
	}
	if d, h := w.reserve(in("a")); h != nil {
		t.Errorf("the second of run a: %+v", d)
	}
	d, h := w.reserve(in("b/#"))
	if h == nil {
		t.Fatalf("the first of run b: %+v", d)
	}
	w.settle(h.Token, 1000, 0)
	list, err := w.gate.Statuses(context.Background(), "chat", "", 10)
	if err != nil || len(list) != 3 || list[1].Name != "budgets/run/keys/a" || list[2].Name != "budgets/run/keys/b/#" || list[2].Settled != 1_000_000 {
		t.Errorf("statuses %+v, %v", list, err)
	}
}

func TestRestartSettlesWhatWasHeldBefore(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, before := w.reserve(call(1000, 500))
	_, settled := w.reserve(call(1000, 500))
	w.settle(settled.Token, 1000, 100)
	w.stop()
	w.open()
	st := w.status("budgets/chat")
	if st.Settled != 1_200_000 || st.Held != 2_000_000 || st.Quarantined != 2_000_000 {
		t.Errorf("after the restart: %+v; want the open hold quarantined", st.State)
	}
	if again := w.settle(settled.Token, 1000, 100); again.Cost != 1_200_000 {
		t.Errorf("again: %+v", again)
	}
	if s := w.settle(before.Token, 1000, 500); s.Late || s.Forced != 0 {
		t.Errorf("the hold of before: %+v", s)
	}
	if st := w.status("budgets/chat"); st.Settled != 3_200_000 || st.Held != 0 {
		t.Errorf("at the end: %+v", st.State)
	}
}

func TestUsageWithoutAHoldIsForcedSpendOnce(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	use := &preflight.Use{Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 100}, RequestID: "r1", BodyHash: []byte("x")}
	first, err := w.gate.RecordUsage(context.Background(), use)
	if err != nil || first.Cost != 1_000_000 || first.Forced != 1_000_000 || first.Tier != "premium" {
		t.Fatal(first, err)
	}
	w.stop()
	w.open()
	again, err := w.gate.RecordUsage(context.Background(), use)
	if err != nil || again.Journal != first.Journal {
		t.Errorf("again: %+v, %v; first %+v", again, err, first)
	}
	other := *use
	other.BodyHash = []byte("y")
	if _, err := w.gate.RecordUsage(context.Background(), &other); err == nil {
		t.Error("another body under the same id was taken")
	}
	if st := w.status("budgets/chat"); st.Settled != 1_000_000 || st.Forced != 1_000_000 {
		t.Errorf("status %+v", st.State)
	}
}

func TestLoweredCeilingBindsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	w.settle(h.Token, 1000, 500)
	b := *w.control.Snapshot().Budget("chat")
	b.Limit = 3_000_000
	w.apply(&b)
	w.eventually("the ceiling is lowered", func() bool { return w.status("budgets/chat").Ceil == 3_000_000 })
	if d, h := w.reserve(call(1000, 500)); h != nil {
		t.Errorf("2M with 1M left: %+v", d)
	}
	if d, h := w.reserve(call(800, 100)); h == nil {
		t.Errorf("1M with 1M left: %+v", d)
	}
}

func TestRollover(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000)
	b := *w.control.Snapshot().Budget("chat")
	b.RolloverCap = 4_000_000
	w.apply(&b)
	_, h := w.reserve(call(1000, 500))
	w.settle(h.Token, 8000, 0) // 8M of 10M: 2M are left
	w.clock.advance(24 * time.Hour)
	if st := w.status("budgets/chat"); st.Rollover != 2_000_000 || st.Ceil != 12_000_000 || st.Settled != 0 {
		t.Errorf("the next day: %+v", st.State)
	}
	w.clock.advance(24 * time.Hour)
	if st := w.status("budgets/chat"); st.Rollover != 4_000_000 {
		t.Errorf("the day after, nothing spent: %+v", st.State)
	}
}

func TestNoPriceIsDenied(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	c := call(1000, 500)
	c.Model, c.Tier, c.Capabilities = "", "", []string{"magic"}
	d, h := w.reserve(c)
	if h != nil || d.Effect != routing.Deny {
		t.Fatalf("%+v", d)
	}
	c = call(1000, 500)
	c.Estimate.ToolCalls = map[string]int64{"search": 1}
	d, h = w.reserve(c)
	found := false
	for _, r := range d.Reasons {
		found = found || r.Code == preflight.CodeNoPrice
	}
	if h != nil || d.Effect != routing.Deny || !found {
		t.Errorf("a tool without a price: %+v", d)
	}
	_, h = w.reserve(call(1000, 500))
	_, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1, AudioInputTokens: 5}, "", 0)
	if e, ok := errors.AsType[*pricing.UnpricedError](err); !ok || e.Unit != "audio_input_tokens" {
		t.Errorf("settle with a unit that has no price: %v", err)
	}
	if s := w.settle(h.Token, 1, 0); s.Cost != 1000 {
		t.Errorf("the hold is settled after all: %+v", s)
	}
}

func TestForgedTokensAreUnknown(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	_, h := w.reserve(call(1000, 500))
	forged := []byte(h.Token)
	forged[30] ^= 1
	for _, token := range []string{"", "x", "AAAA", string(forged), h.Token + "A", h.Token[:len(h.Token)-4]} {
		if _, err := w.gate.Settle(context.Background(), token, &usage.Usage{}, "", 0); !errors.Is(err, ledger.ErrUnknownHold) {
			t.Errorf("token %.20q: %v", token, err)
		}
	}
}

// Many callers at once spend a budget to its end: not a nano more is admitted, and both sums of what was settled agree.
func TestCeilingHoldsUnderConcurrency(t *testing.T) {
	w := newWorld(t)
	w.company(500_000_000)
	var mu sync.Mutex
	var sum money.Nanos
	refused := 0
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := range 60 {
				in := int64(300 + (worker*61+i*37)%900)
				_, h, err := w.gate.Reserve(context.Background(), call(in, 200), 0)
				if err != nil {
					t.Error(err)
					return
				}
				if h == nil {
					mu.Lock()
					refused++
					mu.Unlock()
					continue
				}
				s, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: in, OutputTokens: 100}, "", 0)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				sum += s.Cost
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for _, name := range []string{"budgets/chat", "budgets/org"} {
		if st := w.status(name); st.Settled != sum || st.Held != 0 || st.Forced != 0 {
			t.Errorf("%s: %+v; the callers settled %d", name, st.State, sum)
		}
	}
	if st := w.status("budgets/chat"); refused == 0 || st.Settled < 498_000_000 {
		t.Errorf("refused %d, settled %d: the budget should be all but used up", refused, st.Settled)
	}
}
