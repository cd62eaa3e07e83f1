package preflight_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// eventuallySettled settles through a replica as soon as it can answer for the hold.
func (c *cluster) eventuallySettled(name, token string, in, out int64) (s *preflight.Settlement) {
	c.t.Helper()
	c.eventually("the hold is settled at "+name, func() bool {
		var err error
		s, err = c.trySettle(name, token, in, out)
		_, unavailable := errors.AsType[*preflight.UnavailableError](err)
		if err != nil && !unavailable && !errors.Is(err, errGone) {
			c.t.Fatalf("settle at %s: %v", name, err)
		}
		return err == nil
	})
	return s
}

// afterQuarantine closes an owner that is gone: what its longest hold would have waited for is over.
func (c *cluster) afterQuarantine(owner string) {
	c.t.Helper()
	c.eventually("it is taken over", func() bool { return c.count("qt/"+owner, "") == 1 })
	c.revoke("qt/" + owner)
	c.clock.advance(ledger.Quarantine(10*time.Minute) + time.Second)
	c.eventually("it is closed", func() bool {
		w, err := c.reader().Find(context.Background(), owner)
		return err == nil && w.Closed
	})
}

// The holds of a replica that is gone are settled by the others, before it is closed and after. A settlement that is
// repeated gives its first answer, on every replica.
func TestReplicasTakeOver(t *testing.T) {
	c := newCluster(t, 3, 100*price)
	first := c.replicas["a"].owner
	answers := map[string]*preflight.Settlement{} // by token
	before := c.holdAt("a", oneCall())
	answers[before.Token] = c.settleAt("a", before.Token, 500, 100)
	inTime, late, released, expired := c.holdAt("a", oneCall()), c.holdAt("a", oneCall()), c.holdAt("a", oneCall()), c.holdAt("a", oneCall())
	c.crash("a")

	s := c.eventuallySettled("b", inTime.Token, 500, 200)
	if s.Late || s.Forced != 0 || s.Cost != 900_000 {
		t.Errorf("before the close: %+v", s)
	}
	answers[inTime.Token] = s
	c.eventually("it is released at c", func() bool {
		free, err := at(c, "c", func(ctx context.Context, s *preflight.Service) (money.Nanos, error) {
			return s.Release(ctx, released.Token)
		})
		return err == nil && free == price
	})
	if _, err := at(c, "b", func(ctx context.Context, s *preflight.Service) (*preflight.Hold, error) {
		return s.Extend(ctx, expired.Token, time.Minute)
	}); !errors.Is(err, ledger.ErrExpired) {
		t.Errorf("extend a hold of a replica that is gone: %v", err)
	}
	if st := c.statusAt("b", "budgets/chat"); st.Quarantined < 2*price || st.Held < st.Quarantined {
		t.Errorf("in quarantine: %+v", st.State)
	}
	c.afterQuarantine(first)
	s = c.eventuallySettled("c", late.Token, 500, 100)
	if !s.Late || s.Forced != 700_000 {
		t.Errorf("after the close: %+v", s)
	}
	answers[late.Token] = s
	c.join("d")
	for token, want := range answers {
		for _, name := range []string{"b", "c", "d"} {
			out := int64(100)
			if token == inTime.Token {
				out = 200
			}
			again := c.eventuallySettled(name, token, 500, out)
			if again.Journal != want.Journal || again.Cost != want.Cost || again.Forced != want.Forced || !again.Time.Equal(want.Time) {
				t.Errorf("again at %s: %+v, first %+v", name, again, want)
			}
			_, err := c.trySettle(name, token, 1, 1)
			if e, ok := errors.AsType[*preflight.SettledError](err); !ok || e.First != want.Cost {
				t.Errorf("another amount at %s: %v", name, err)
			}
		}
	}
	for _, name := range []string{"b", "c", "d"} {
		if _, err := c.trySettle(name, released.Token, 1, 1); !errors.Is(err, ledger.ErrReleased) {
			t.Errorf("settle after release at %s: %v", name, err)
		}
		if st := c.statusAt(name, "budgets/chat"); st.Settled != 2_300_000 || st.Forced != 700_000 || st.Quarantined != 0 {
			t.Errorf("at the end %s has %+v", name, st.State)
		}
	}
	if o := c.record(today("chat")); o.Others[first] != (ledger.Grant{}) {
		t.Errorf("a grant of the first is left: %+v", o)
	}
}

// Whichever replicas a repeated settlement reaches at once, it counts once: of an owner that is taken over, and of one
// that is closed, for which anybody may write.
func TestReplicasSettleOnceForAGoneOwner(t *testing.T) {
	c := newCluster(t, 3, 1000*price)
	const count = 20
	var holds []*preflight.Hold
	for range 2 * count {
		holds = append(holds, c.holdAt("a", oneCall()))
	}
	gone := c.replicas["a"].owner
	c.crash("a")
	check := func(when string, holds []*preflight.Hold, settled money.Nanos) {
		t.Helper()
		journals := make([]map[string]bool, len(holds))
		var mu sync.Mutex
		var all sync.WaitGroup
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for i, h := range holds {
			journals[i] = map[string]bool{}
			for try := range 4 {
				all.Go(func() {
					for {
						s, err := c.trySettle([]string{"b", "c"}[try%2], h.Token, 500, 100)
						if _, again := errors.AsType[*preflight.UnavailableError](err); again || errors.Is(err, errGone) {
							<-tick.C
							continue
						}
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							t.Errorf("%s: %v", when, err)
							return
						}
						journals[i][s.Journal] = true
						return
					}
				})
			}
		}
		all.Wait()
		for i, j := range journals {
			if len(j) != 1 {
				t.Errorf("%s: hold %d is settled in %v", when, i, j)
			}
		}
		for _, name := range []string{"b", "c"} {
			if st := c.statusAt(name, "budgets/chat"); st.Settled != settled {
				t.Errorf("%s: %s has settled %d, want %d", when, name, st.Settled, settled)
			}
		}
	}
	check("taken over", holds[:count], count*700_000)
	c.afterQuarantine(gone)
	check("closed", holds[count:], 2*count*700_000)
	if o := c.record(today("chat")); o.Budget.Forced != count*700_000 {
		t.Errorf("%d is forced, want what came after the close", o.Budget.Forced)
	}
}

// A takeover whose answer was lost goes on: what the replica that is gone held comes back, though nobody asks for it.
func TestReplicasGoOnAfterALostTakeover(t *testing.T) {
	c := newCluster(t, 2, 100*price)
	c.holdAt("a", oneCall())
	gone, takeover := c.replicas["a"].owner, "tk/"
	c.replicas["b"].link.lose.Store(&takeover)
	c.crash("a")
	c.eventually("the answer is lost", func() bool { return c.replicas["b"].link.lose.Load() == nil })
	c.eventually("b looks after it", func() bool { return c.replicas["b"].gate.LooksAfter(gone) })
	c.afterQuarantine(gone)
	c.eventually("nothing is held", func() bool { return c.statusAt("b", "budgets/chat").Held == 0 })
}

// A successor that goes too has a successor.
func TestReplicasTakeOverFromASuccessor(t *testing.T) {
	c := newCluster(t, 3, 100*price)
	h := c.holdAt("a", oneCall())
	gone := c.replicas["a"].owner
	c.crash("a")
	var by string
	c.eventually("it is taken over", func() bool {
		w, err := c.reader().Find(context.Background(), gone)
		by = c.nameOf(w.Successor)
		return err == nil && by != ""
	})
	c.crash(by)
	other := map[string]string{"b": "c", "c": "b"}[by]
	if s := c.eventuallySettled(other, h.Token, 500, 100); s.Late || s.Forced != 0 {
		t.Errorf("settled as %+v", s)
	}
	if st := c.statusAt(other, "budgets/chat"); st.Settled != 700_000 {
		t.Errorf("status %+v", st.State)
	}
}

// Usage that is reported through two replicas at once under one request id counts once.
func TestReplicasRecordUsageOnce(t *testing.T) {
	c := newCluster(t, 3, 1000*price)
	var all sync.WaitGroup
	const ids = 20
	for i := range ids {
		use := &preflight.Use{
			Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 100}, RequestID: string(rune('A' + i)), BodyHash: []byte("x"),
		}
		var mu sync.Mutex
		journals := map[string]bool{}
		var tries sync.WaitGroup
		for n := range 6 {
			tries.Go(func() {
				s, err := c.replicas[names[n%3]].gate.RecordUsage(context.Background(), use)
				if err != nil {
					t.Errorf("usage %d at %s: %v", i, names[n%3], err)
					return
				}
				mu.Lock()
				journals[s.Journal] = true
				mu.Unlock()
			})
		}
		all.Go(func() {
			tries.Wait()
			if len(journals) != 1 {
				t.Errorf("usage %d stands in %v", i, journals)
			}
		})
	}
	all.Wait()
	other := &preflight.Use{Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 101}, RequestID: "A", BodyHash: []byte("y")}
	for _, name := range names {
		_, err := c.replicas[name].gate.RecordUsage(context.Background(), other)
		if _, ok := errors.AsType[*preflight.RequestConflictError](err); !ok {
			t.Errorf("another body under the same id at %s: %v", name, err)
		}
		if st := c.statusAt(name, "budgets/chat"); st.Settled != ids*price || st.Forced != ids*price {
			t.Errorf("%s has %+v; want %d", name, st.State, ids*price)
		}
	}
}

// A replica that ends in order and has nothing held is closed at once. One that has is looked after by the others.
func TestReplicasLeave(t *testing.T) {
	c := newCluster(t, 3, 100*price)
	c.settleAt("c", c.holdAt("c", oneCall()).Token, 500, 100)
	live := c.holdAt("b", oneCall())
	find := func(name string) (known, closed bool) {
		t.Helper()
		w, err := c.reader().Find(context.Background(), c.replicas[name].owner)
		if err != nil || w.Addr != "" {
			t.Errorf("%s is found as %+v, %v", name, w, err)
		}
		return w.Known, w.Closed
	}
	c.replicas["c"].stop()
	if known, closed := find("c"); !known || !closed {
		t.Errorf("known %v, closed %v after it left with nothing held", known, closed)
	}
	if n := c.count("gr/", c.replicas["c"].owner); n != 0 {
		t.Errorf("%d of its grants are left", n)
	}
	c.replicas["b"].stop()
	if known, closed := find("b"); !known || closed {
		t.Errorf("known %v, closed %v after it left with a live hold", known, closed)
	}
	if st := c.statusAt("a", "budgets/chat"); st.Quarantined > price {
		t.Errorf("more than the hold is out of reach: %+v", st.State)
	}
	if s := c.eventuallySettled("a", live.Token, 500, 250); s.Late || s.Forced != 0 {
		t.Errorf("the live hold is settled as %+v", s)
	}
	if st := c.statusAt("a", "budgets/chat"); st.Settled != 700_000+price || st.Held != 0 || st.Quarantined != 0 {
		t.Errorf("at the end: %+v", st.State)
	}
	if n := c.count("qt/", c.replicas["c"].owner); n != 0 {
		t.Error("the replica that left with nothing held was quarantined")
	}
}

// Without etcd a replica holds what was granted until its deadline, then nothing, or what the configuration says.
func TestReplicasWithoutEtcd(t *testing.T) {
	for name, offline := range map[string]money.Nanos{"refuse": 0, "some": 3 * price} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, 1000*price, func(cfg *preflight.Config) { cfg.Offline = offline })
			var holds []*preflight.Hold
			for range 8 {
				holds = append(holds, c.holdAt("a", oneCall()))
			}
			for _, h := range holds { // what they held stays granted
				c.settleAt("a", h.Token, 0, 0)
			}
			a := c.replicas["a"]
			a.link.down.Store(true)
			c.holdAt("a", oneCall())
			c.eventually("the deadline passes", func() bool { return a.gate.Deadline() == 0 })
			held, err := money.Nanos(0), error(nil)
			var last *preflight.Hold
			for err == nil {
				var r reserved
				if r, err = c.tryReserve("a", oneCall()); err == nil && r.Hold != nil {
					held, last = held+r.Amount, r.Hold
				} else if err == nil {
					t.Fatalf("without etcd it answers %+v", r.Decision)
				}
			}
			if _, ok := errors.AsType[*preflight.UnavailableError](err); !ok || held != offline {
				t.Errorf("held %d without etcd, want %d; then %v", held, offline, err)
			}
			a.link.down.Store(false)
			c.eventually("it goes on when etcd is back", func() bool {
				r, err := c.tryReserve("a", oneCall())
				return err == nil && r.Hold != nil
			})
			if last != nil {
				if s := c.settleAt("a", last.Token, 500, 250); s.Forced != 0 {
					t.Errorf("a hold made without etcd is settled as %+v", s)
				}
			}
			c.record(today("chat"))
		})
	}
}

// Without etcd a call that needs more than is granted gets an answer soon, though its caller would wait for ever.
func TestReplicasWithoutEtcdAnswerSoon(t *testing.T) {
	c := newCluster(t, 2, 20*price)
	home := c.nameOf(c.replicas["a"].gate.HomeOf("org"))
	c.holdAt(home, oneCall())
	c.replicas[home].link.down.Store(true)
	began := time.Now()
	for err := error(nil); err == nil; {
		if _, _, err = c.replicas[home].gate.Reserve(preflight.Here(context.Background()), oneCall(), 0); err != nil {
			if _, ok := errors.AsType[*preflight.UnavailableError](err); !ok {
				t.Errorf("error %v", err)
			}
		}
	}
	if waited := time.Since(began); waited > 15*time.Second {
		t.Errorf("the answer took %s", waited)
	}
	c.replicas[home].link.down.Store(false)
}
