package preflight_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/server/preflight"
)

// price of call(500, 250).
const price money.Nanos = 1_000_000

func oneCall() *routing.Call { return call(500, 250) }

var names = []string{"a", "b", "c"}

// Everything up to the ceiling can be held, through any replica, and nothing beyond it. A call is refused only where
// what is settled and held leaves no room for it.
func TestReplicasHoldUpToTheCeiling(t *testing.T) {
	const calls = 60
	c := newCluster(t, 3, calls*price)
	var holds []*preflight.Hold
	early := 0
	fill := func(want int) {
		t.Helper()
		for i := 0; len(holds) < want; i++ {
			r := c.reserveAt(names[i%3], oneCall())
			if r.Hold != nil {
				holds = append(holds, r.Hold)
				continue
			}
			if early++; early > 3 {
				t.Fatalf("%d calls are held of %d that fit: %+v", len(holds), want, r.Decision)
			}
		}
		for _, name := range names {
			if r := c.reserveAt(name, oneCall()); r.Hold != nil {
				t.Fatalf("%s holds %d beyond the ceiling", name, r.Amount)
			} else if r.Effect != routing.Throttle || r.RetryDelay <= 0 {
				t.Errorf("all is held: %+v; want a throttle, as it may come back", r.Decision)
			}
		}
	}
	fill(calls)
	if c.forwards.Load() == 0 {
		t.Error("nothing was sent to the home replica")
	}
	for i, h := range holds { // for half of the price, each through another replica than before
		c.settleAt(names[(i+1)%3], h.Token, 500, 0)
	}
	holds = nil
	fill(calls / 2)
	for i, h := range holds {
		c.settleAt(names[(i+2)%3], h.Token, 500, 250)
	}
	for _, name := range names {
		c.eventually(name+" says that all is settled", func() bool {
			r := c.reserveAt(name, call(1, 0))
			if r.Hold != nil {
				t.Fatalf("%s holds %d beyond the ceiling", name, r.Amount)
			}
			return r.Effect == routing.Deny
		})
		if st := c.statusAt(name, "budgets/chat"); st.Settled != calls*price || st.Held != 0 || st.Forced != 0 || !st.Tight {
			t.Errorf("at %s: %+v", name, st.State)
		}
	}
	c.record(today("chat"))
	c.record(today("org"))
	t.Logf("%d calls were refused although there was room, %d sent on", early, c.forwards.Load())
}

// Many callers of three replicas spend one budget to its end at once.
func TestReplicasShareAHotBudget(t *testing.T) {
	c := newCluster(t, 3, 300*price)
	var mu sync.Mutex
	var sum money.Nanos
	refused := 0
	var group sync.WaitGroup
	for worker := range 12 {
		group.Go(func() {
			for i := range 60 {
				name, in := names[(worker+i)%3], int64(300+(worker*61+i*37)%900)
				r, err := c.tryReserve(name, call(in, 200))
				if err != nil {
					t.Error(err)
					return
				}
				if r.Hold == nil {
					mu.Lock()
					refused++
					mu.Unlock()
					continue
				}
				s, err := c.trySettle(names[(worker+i+1)%3], r.Token, in, 100)
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
	const dearest = 1_600_000
	for budget, ceiling := range map[string]money.Nanos{"chat": 300 * price, "org": 300_000 * price} {
		o := c.record(today(budget))
		settled := o.Budget.Base
		for _, g := range o.Others {
			settled += g.Spent
		}
		if settled != sum || o.Budget.Forced != 0 || settled > ceiling {
			t.Errorf("%s: %d settled, %d forced of %d; the callers settled %d", budget, settled, o.Budget.Forced, ceiling, sum)
		}
	}
	if refused == 0 || sum < 300*price-2*dearest {
		t.Errorf("refused %d, settled %d of %d: the budget should be all but used up", refused, sum, 300*price)
	}
	home := c.nameOf(c.replicas["a"].gate.HomeOf("org"))
	c.eventually("nothing is held", func() bool { return c.statusAt(home, "budgets/chat").Held == 0 })
	t.Logf("%d refused, %d sent on, %s of %s settled", refused, c.forwards.Load(), sum, 300*price)
}

// Near the ceiling the replicas that do not hold what is left give back what they do not use.
func TestReplicasReturnIdleMoneyNearTheCeiling(t *testing.T) {
	c := newCluster(t, 3, 400*price)
	home := c.nameOf(c.replicas["a"].gate.HomeOf("org"))
	for _, name := range names { // each takes a slice
		for range 5 {
			c.settleAt(name, c.holdAt(name, oneCall()).Token, 500, 250)
		}
	}
	for range 384 { // at home, all but a call
		c.settleAt(home, c.holdAt(home, oneCall()).Token, 500, 250)
	}
	c.holdAt(home, oneCall())
	for _, name := range names {
		c.eventually(name+" has nothing idle", func() bool {
			st := c.statusAt(name, "budgets/chat")
			return st.Idle == 0 && st.Tight
		})
	}
	o := c.record(today("chat"))
	for owner, g := range o.Others {
		if owner != c.replicas[home].owner && g.Alloc != g.Spent {
			t.Errorf("%s keeps %d", c.nameOf(owner), g.Alloc-g.Spent)
		}
	}
}

// nameOf names a replica by its owner.
func (c *cluster) nameOf(owner string) string {
	for name, r := range c.replicas {
		if r.owner == owner {
			return name
		}
	}
	return ""
}

// A lowered ceiling binds at once everywhere, drains as calls end, and is acknowledged by all who have a grant.
func TestReplicasDrainALoweredCeiling(t *testing.T) {
	c := newCluster(t, 3, 100*price)
	holds := map[string][]*preflight.Hold{}
	for i := range 60 {
		name := names[i%3]
		holds[name] = append(holds[name], c.holdAt(name, oneCall()))
	}
	c.limit(30 * price)
	for _, name := range names {
		c.eventually(name+" sees what has to drain", func() bool {
			st := c.statusAt(name, "budgets/chat")
			return st.Ceil == 30*price && st.Drain == 30*price
		})
		if r := c.reserveAt(name, call(1, 0)); r.Hold != nil {
			t.Errorf("%s holds beyond the lowered ceiling", name)
		}
	}
	for name, list := range holds {
		for _, h := range list[:15] {
			c.settleAt(name, h.Token, 0, 0)
		}
	}
	for _, name := range names {
		c.eventually(name+" sees it drained and acknowledged", func() bool {
			st := c.statusAt(name, "budgets/chat")
			return st.Drain == 0 && st.Pending == 0
		})
	}
	if o := c.record(today("chat")); o.Budget.Ceil != 30*price || o.Budget.Alloc > 30*price {
		t.Errorf("the record is %+v", o.Budget)
	}
	for i := range 15 {
		if r := c.reserveAt(names[i%3], oneCall()); r.Hold == nil {
			for _, n := range names {
				t.Logf("%s home %v: %+v", n, c.replicas[n].gate.HomeOf("org") == c.replicas[n].owner, c.statusAt(n, "budgets/chat").State)
			}
			t.Fatalf("%d: %+v", i, r.Decision)
		}
	}
	if r := c.reserveAt("a", oneCall()); r.Hold != nil {
		t.Error("more than the lowered ceiling is held")
	}
}

// A replica that has not heard of a lowered ceiling yet does not restore the old one, and stops when it may have missed
// a change for too long; once it has caught up it goes on.
func TestReplicasWithAnOldViewOfTheCeiling(t *testing.T) {
	c := newCluster(t, 2, 1000*price)
	for _, name := range []string{"a", "b"} {
		c.settleAt(name, c.holdAt(name, oneCall()).Token, 500, 250)
	}
	b := c.replicas["b"]
	b.view.freeze()
	c.limit(20 * price)
	c.eventually("the ceiling is stored and b has heard of it", func() bool {
		return c.record(today("chat")).Budget.Ceil == 20*price && c.statusAt("b", "budgets/chat").Ceil == 20*price
	})
	rev := c.record(today("chat")).Budget.TermsRev
	held := 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; b.gate.Deadline() > 0; <-tick.C {
		r, err := c.tryReserve("b", oneCall())
		if err != nil {
			break
		}
		if r.Hold != nil {
			held++
		}
		if bud := c.record(today("chat")).Budget; bud.Ceil != 20*price || bud.TermsRev != rev {
			t.Fatalf("b restored the ceiling: %+v", bud)
		}
	}
	if held != 18 {
		t.Errorf("b held %d calls, 18 fit", held)
	}
	c.eventually("b stops", func() bool {
		_, _, err := b.gate.Reserve(preflight.Here(context.Background()), oneCall(), 0)
		var gone *preflight.UnavailableError
		return errors.As(err, &gone)
	})
	if c.replicas["a"].gate.Deadline() == 0 {
		t.Error("a has stopped, too")
	}
	c.limit(1000 * price)
	c.eventually("a grants again", func() bool {
		r, err := c.tryReserve("a", oneCall())
		return err == nil && r.Hold != nil
	})
	b.view.thaw()
	c.eventually("b goes on", func() bool {
		r, err := c.tryReserve("b", oneCall())
		return err == nil && r.Hold != nil
	})
}

// The rest of a period is rolled over once. Its money cannot be held any more, not even by a replica whose clock is slow;
// holds of before settle into the period that they were made in.
func TestReplicasRollOver(t *testing.T) {
	slow := newClock(noon)
	c := newCluster(t, 2, 100*price)
	b := *c.control.Snapshot().Budget("chat")
	b.RolloverCap = 80 * price
	c.apply(&b)
	c.replicas["b"].stop()
	c.join("b", func(cfg *preflight.Config) { cfg.Clock = slow })
	c.eventually("they know of each other", func() bool {
		return len(c.replicas["a"].gate.Owners()) == 2 && len(c.replicas["b"].gate.Owners()) == 2
	})
	toMidnight := noon.Truncate(24*time.Hour).AddDate(0, 0, 1).Sub(c.clock.Now()) - time.Minute
	c.clock.advance(toMidnight)
	slow.advance(toMidnight)

	settled := 0
	var holds []*preflight.Hold
	for _, name := range []string{"a", "b"} {
		for range 10 {
			c.settleAt(name, c.holdAt(name, oneCall()).Token, 500, 250)
			settled++
		}
		for range 5 {
			holds = append(holds, c.holdAt(name, oneCall()))
		}
	}
	c.clock.advance(2 * time.Minute) // b's clock still shows the old day
	next := ledger.AccountID{Budget: "chat", Start: today("chat").End, End: today("chat").End + 86400}
	st := c.statusAt("a", "budgets/chat")
	old := c.record(today("chat"))
	if st.ID != next || !old.Budget.Sealed || st.Rollover <= 0 || st.Rollover > 70*price || st.Ceil != 100*price+st.Rollover {
		t.Fatalf("the next day begins with %+v, the old one ends with %+v", st.State, old.Budget)
	}
	if want := 100*price - old.Budget.Alloc; st.Rollover != want {
		t.Errorf("%d is rolled over, %d was not granted", st.Rollover, want)
	}
	more := 0
	for { // what it sent on to a would be a call of the new day
		_, h, err := c.replicas["b"].gate.Reserve(preflight.Here(context.Background()), oneCall(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if h == nil {
			break
		}
		holds = append(holds, h)
		more++
	}
	if used := money.Nanos(settled+len(holds)) * price; used+st.Rollover > 100*price {
		t.Errorf("%d of the old day is used and %d rolled over, of %d", used, st.Rollover, 100*price)
	}
	for i, h := range holds {
		if s := c.settleAt([]string{"a", "b"}[i%2], h.Token, 500, 250); s.Late || s.Forced != 0 {
			t.Errorf("a hold of the old day is settled as %+v", s)
		}
	}
	slow.advance(2 * time.Minute)
	c.eventually("both agree on the new day", func() bool {
		a, b := c.statusAt("a", "budgets/chat"), c.statusAt("b", "budgets/chat")
		return a.ID == next && b.ID == next && a.Rollover == st.Rollover && b.Rollover == st.Rollover && a.Settled == 0 && b.Settled == 0
	})
	after := c.record(today("chat"))
	sum := after.Budget.Base
	for _, g := range after.Others {
		sum += g.Spent
	}
	if want := money.Nanos(settled+len(holds)) * price; sum != want || after.Budget.Forced != 0 {
		t.Errorf("the old day has %d settled, %d forced; want %d", sum, after.Budget.Forced, want)
	}
	t.Logf("%d calls fitted into what the slow replica had, %s was rolled over", more, st.Rollover)
}

// An alert is recorded once, by whichever replica finds it first, also where no replica alone has settled that much.
func TestReplicasAlertOnce(t *testing.T) {
	c := newCluster(t, 3, 30*price)
	for i := range 27 {
		c.settleAt(names[i%3], c.holdAt(names[i%3], oneCall()).Token, 500, 250)
	}
	for _, name := range names {
		c.eventually("the alert is recorded at "+name, func() bool { return len(c.statusAt(name, "budgets/chat").Alerted) == 1 })
	}
	alerts, err := c.replicas["b"].gate.Alerts(context.Background(), "", 10)
	if err != nil || len(alerts) != 1 || alerts[0].Permille != 800 || alerts[0].Settled < 24*price {
		t.Errorf("alerts %+v, %v", alerts, err)
	}
	counted := 0
	for _, r := range c.replicas {
		r.metrics.mu.Lock()
		counted += r.metrics.alerts
		r.metrics.mu.Unlock()
	}
	if counted != 1 {
		t.Errorf("the metrics count %d alerts", counted)
	}
}

// Keys that nobody uses any more leave no grant behind, only their budget's record.
func TestReplicasForgetIdleKeys(t *testing.T) {
	c := newCluster(t, 2, 1000*price)
	run := budget(t, "run", "chat", 3*price)
	run.Per = charter.PerRun
	chat := *c.control.Snapshot().Charter("chat")
	chat.Budget = "run"
	c.apply(run, &chat)
	for _, r := range c.replicas {
		c.eventually("the charter is known", func() bool { return r.view.Snapshot().Charter("chat").Budget == "run" })
	}
	const keys = 60
	for i := range keys {
		x := oneCall()
		x.Run = "run/" + string(rune('A'+i))
		for _, name := range []string{"a", "b"} {
			c.settleAt(name, c.holdAt(name, x).Token, 500, 250)
		}
	}
	if n := c.count("gr/run/", ""); n == 0 {
		t.Fatal("no grants: the test shows nothing")
	}
	c.clock.advance(ledger.CloseAfter + time.Minute)
	c.eventually("idle money is returned", func() bool { return c.idle("run") == 0 })
	c.clock.advance(2 * time.Minute)
	c.eventually("the grants are folded", func() bool { return c.count("gr/", "") == 0 })
	if n := c.count("bud/run/", ""); n != keys {
		t.Errorf("%d keys are known, want %d", n, keys)
	}
	id := today("run")
	id.Key = "run/A"
	if o := c.record(id); o.Budget.Base != 2*price || o.Budget.Alloc != 2*price {
		t.Errorf("a key has %+v", o.Budget)
	}
	x := oneCall()
	x.Run = "run/A"
	c.holdAt("a", x)
	if r := c.reserveAt("b", x); r.Hold != nil {
		t.Error("what a key has spent is forgotten with its grant")
	}
}

// idle is what is granted of a budget's keys and not settled.
func (c *cluster) idle(budget string) (sum money.Nanos) {
	c.t.Helper()
	l := c.reader()
	ids, err := l.Keys(context.Background(), budget, today(budget).Start)
	if err != nil {
		c.t.Fatal(err)
	}
	opened, err := l.Open(context.Background(), ids)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, o := range opened {
		for _, g := range o.Others {
			sum += g.Alloc - g.Spent
		}
	}
	return sum
}
