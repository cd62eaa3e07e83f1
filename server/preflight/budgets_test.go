package preflight_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

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

func TestALoweredLimitAlertsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000)
	_, h := w.reserve(call(900, 50))
	w.settle(h.Token, 1000, 0)
	b := *w.control.Snapshot().Budget("chat")
	b.Limit = 1_100_000
	w.apply(&b)
	w.eventually("the alert is recorded", func() bool { return len(w.status("budgets/chat").Alerted) == 1 })
}

func TestNoRetryDelayWhereTimeChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.company(1_000_000)
	if d, h := w.reserve(call(1000, 500)); h != nil || d.Effect != routing.Deny || d.RetryDelay != 0 {
		t.Errorf("a call dearer than the whole limit: %+v", d)
	}
	window, err := charter.NewPeriod(charter.Window, "", noon.Add(-time.Hour), noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	b := budget(t, "event", "org", 2_000_000)
	b.Period = window
	c := *w.control.Snapshot().Charter("chat")
	c.Budget = "event"
	w.apply(b, &c)
	if d, h := w.reserve(call(1000, 500)); h == nil {
		t.Fatalf("the window is open and has room: %+v", d)
	} else {
		w.settle(h.Token, 1000, 500)
	}
	if d, h := w.reserve(call(500, 250)); h != nil || d.Effect != routing.Deny || d.RetryDelay != 0 {
		t.Errorf("a window that is used up: %+v", d)
	}
	w.clock.advance(2 * time.Hour)
	if d, h := w.reserve(call(1, 1)); h != nil || d.Effect != routing.Deny || d.RetryDelay != 0 {
		t.Errorf("a window that is over: %+v", d)
	}
}

func TestALesserTierForWantOfContextIsADowngrade(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	catalog := *w.control.Snapshot().Catalog()
	catalog.Models = append([]charter.Model{}, catalog.Models...)
	for i := range catalog.Models {
		if catalog.Models[i].Tier != "economy" {
			catalog.Models[i].ContextTokens = 1000
		}
	}
	w.apply(&catalog)
	c := call(5000, 100)
	c.Model, c.Tier, c.Complexity = "", "", 100
	d, h := w.reserve(c)
	if h == nil || d.Model != "small" || d.Effect != routing.Downgrade {
		t.Fatalf("%+v", d)
	}
	found := false
	for _, r := range d.Reasons {
		found = found || r.Code == preflight.CodeContextTooLong
	}
	if !found {
		t.Errorf("no reason says that the context is too long: %+v", d.Reasons)
	}
}
