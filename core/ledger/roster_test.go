package ledger

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/money"
)

var t0 = time.Unix(1_800_000_000, 0)

// shared opens an account of an owner among others, with what the others were granted of it.
func shared(limit money.Nanos, roster []string, others map[string]Grant) (*Ledger, *Account) {
	l := New(roster[0])
	l.SetRoster(roster)
	o := Opened{ID: AccountID{Budget: "b", End: 1 << 40}, Others: others, Rev: 1, Budget: Budget{Ceil: limit, Rev: 1}}
	for _, g := range others {
		o.Budget.Alloc += g.Alloc
	}
	return l, l.Open(o, Terms{Root: "root", Limit: limit}, t0)
}

// rosterWith gives a roster of three whose first owner is the home of "root", or is not.
func rosterWith(home bool) []string {
	for i := 0; ; i++ {
		l := New(fmt.Sprint("E", i))
		roster := []string{l.Owner, "F", "G"}
		l.SetRoster(roster)
		if (l.Home("root") == l.Owner) == home {
			return roster
		}
	}
}

// Trees are spread over the owners, all agree where, and only the trees of an owner that comes or goes move.
func TestHomesAreSpreadAndStable(t *testing.T) {
	const trees = 6000
	rosters := [][]string{{"a"}, {"a", "b"}, {"c", "a", "b"}, {"b", "d", "c", "a"}}
	var before []string
	for _, roster := range rosters {
		l, other := New(roster[0]), New(roster[len(roster)-1])
		l.SetRoster(roster)
		other.SetRoster(roster)
		homes, count := make([]string, trees), map[string]int{}
		for i := range homes {
			root := fmt.Sprint("org-", i)
			homes[i] = l.Home(root)
			count[homes[i]]++
			if other.Home(root) != homes[i] {
				t.Fatalf("%s: %s says %s, %s says %s", root, l.Owner, homes[i], other.Owner, other.Home(root))
			}
		}
		for _, owner := range roster {
			if fair := trees / len(roster); count[owner] < fair*9/10 || count[owner] > fair*11/10 {
				t.Errorf("%v: %s is home to %d trees of %d", roster, owner, count[owner], trees)
			}
		}
		for i := range before {
			if before[i] != homes[i] && homes[i] != map[int]string{2: "b", 3: "c", 4: "d"}[len(roster)] {
				t.Fatalf("org-%d moved from %s to %s, which did not come", i, before[i], homes[i])
			}
		}
		before = homes
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct {
		name  string
		count int
		home  bool
		set   Budget
		want  money.Nanos
	}{
		{"alone", 1, true, Budget{}, 600},
		{"of three", 3, false, Budget{}, 100},
		{"of three, at home", 3, true, Budget{}, 100},
		{"tight, at home", 3, true, Budget{Tight: true}, 600},
		{"tight, elsewhere", 3, false, Budget{Tight: true}, 0},
		{"sealed, at home", 3, true, Budget{Tight: true, Sealed: true}, 0},
		{"alone, sealed", 1, true, Budget{Sealed: true}, 0},
		{"granted beyond a lowered ceiling", 3, true, Budget{Alloc: 700}, -16},
	} {
		_, a := shared(600, rosterWith(c.home)[:c.count], nil)
		c.set.Ceil = 600
		a.bud = c.set
		if got := a.share(); got != c.want {
			t.Errorf("%s: the share is %d, want %d", c.name, got, c.want)
		}
	}
}

// An account gets tight where a fair share is less than two calls, and is so until it is more than eight; only the home
// replica ends it.
func TestTightOnAndOff(t *testing.T) {
	const usual = 10
	for _, c := range []struct {
		free  money.Nanos // a share is a sixth of it
		home  bool
		tight bool
		delta money.Nanos
		want  bool
	}{
		{6*2*usual + 5, true, false, 1, false},
		{6*2*usual - 5, true, false, 1, true},
		{6*2*usual - 5, false, false, 1, true},
		{6*2*usual + 5, false, false, 30, true}, // once that is granted
		{6*2*usual - 5, true, false, 0, false},  // nobody asks
		{6*2*usual - 5, true, false, -1, false},
		{6 * 3 * usual, true, true, 0, true},
		{6 * 8 * usual, true, true, 0, true},
		{6*8*usual + 6, true, true, 0, false},
		{6*8*usual + 6, false, true, 0, true},
	} {
		_, a := shared(10_000, rosterWith(c.home), nil)
		a.usual = usual
		a.bud.Alloc, a.bud.Tight = 10_000-c.free, c.tight
		if got := a.shouldBeTight(c.delta); got != c.want {
			t.Errorf("%+v: tight %v", c, got)
		}
	}
	_, a := shared(100, []string{"E"}, nil)
	if a.tighten = true; a.shouldBeTight(100) {
		t.Error("an owner that lives alone makes an account tight")
	}
}

// The home replica waits for idle money of others for TightWait and no longer, and for none where there is none.
func TestRecallWaitsAtMostTightWait(t *testing.T) {
	l, a := shared(100, rosterWith(true), map[string]Grant{"F": {Alloc: 100, Rev: 1}})
	reserve := func(now time.Time) Result {
		return l.Reserve(now, []*Account{a}, []money.Nanos{10}, time.Minute, Call{}, false)
	}
	if res := reserve(t0); !res.Wait || res.AtMost != TightWait || res.Forward {
		t.Fatalf("%+v; want to wait for at most %s", res, TightWait)
	}
	adj, ok := l.NextAdjustment(t0)
	if !ok || !adj.Changes[0].Budget.Tight {
		t.Fatalf("the adjustment is %+v; want it tight", adj)
	}
	l.AdjustmentCommitted(adj, 2, t0)
	for after, want := range map[time.Duration]time.Duration{0: TightWait, TightWait / 3: TightWait - TightWait/3, TightWait: 0, time.Hour: 0, -time.Minute: 0} {
		if res := reserve(t0.Add(after)); res.Wait != (want > 0) || res.AtMost != want || res.Choice != -1 {
			t.Errorf("after %s: %+v; want to wait for at most %s", after, res, want)
		}
	}
	// Some of it comes back.
	b := a.bud
	b.Alloc, b.Rev = 80, 3
	if !l.Observe(a.ID, b, t0) {
		t.Error("a newer record is no news")
	}
	if res := reserve(t0); !res.Wait || res.AtMost != 0 || res.Choice != 0 {
		t.Errorf("with 20 that are free: %+v; want to wait for a grant", res)
	}

	for name, set := range map[string]func(*Account){
		"all is settled here":     func(a *Account) { a.own, a.others = Grant{Alloc: 100, Spent: 100, Rev: 1}, nil },
		"the period is sealed":    func(a *Account) { a.bud.Sealed = true },
		"nobody else is there":    func(a *Account) { a.all.set(nil) },
		"it was never written to": func(a *Account) { a.bud = Budget{Ceil: 5} },
	} {
		l, a := shared(100, rosterWith(true), map[string]Grant{"F": {Alloc: 100, Rev: 1}})
		if set(a); a.bud.Rev == 0 {
			a.SetTerms(Terms{Root: "root", Limit: 5})
		}
		if res := l.Reserve(t0, []*Account{a}, []money.Nanos{10}, time.Minute, Call{}, false); res.Wait || res.Choice != -1 {
			t.Errorf("%s: %+v; want a refusal", name, res)
		}
		if wait, _ := l.Recall(t0, []*Account{a}); wait {
			t.Errorf("%s: recalls", name)
		}
	}

	// Elsewhere the call is sent home, unless it cannot be.
	l, a = shared(100, rosterWith(false), map[string]Grant{"F": {Alloc: 100, Rev: 1}})
	if res := reserve(t0); !res.Forward || res.Wait {
		t.Errorf("away from home: %+v", res)
	}
	if res := l.Reserve(t0, []*Account{a}, []money.Nanos{10}, time.Minute, Call{}, true); res.Forward || !res.Wait {
		t.Errorf("away from home, which is out of reach: %+v", res)
	}
}

// Whatever an owner asks for, it is no more than its share, and nobody takes more than there is. For a call that needs
// more only the home replica goes beyond, or one that cannot reach it.
func TestAskStaysWithinTheShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		home, here, tight := rapid.Bool().Draw(t, "home"), rapid.Bool().Draw(t, "here"), rapid.Bool().Draw(t, "tight")
		_, a := shared(100_000, rosterWith(home), nil)
		a.bud.Alloc, a.bud.Tight, a.here = money.Nanos(rapid.IntRange(0, 100_000).Draw(t, "granted")), tight, here
		a.slice = money.Nanos(rapid.IntRange(1, 5000).Draw(t, "slice"))
		need := money.Nanos(rapid.IntRange(0, 100_000).Draw(t, "need"))
		free, share := a.ungranted(), a.share()
		got := a.ask(need)
		switch {
		case got < 0 || got > free:
			t.Fatalf("asks for %d of %d", got, free)
		case got > share && !home && !here:
			t.Fatalf("asks for %d beyond its share of %d", got, share)
		case got > max(share, need):
			t.Fatalf("asks for %d, needs %d, its share is %d", got, need, share)
		case (home || here) && need <= free && got < need:
			t.Fatalf("asks for %d of the %d that it needs and could have", got, need)
		case a.here:
			t.Fatal("the next call counts as one that cannot be sent on")
		}
	})
}

// Only where many entries came at once a batch waits for more, and not for long.
func TestLinger(t *testing.T) {
	l, a := opened(t, 1<<40)
	queue := func(n int, now time.Time) {
		for range n {
			if _, err := l.Use(now, []AccountID{a.ID}, Entry{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit := func(now time.Time) int {
		t.Helper()
		b, wait := l.NextBatch(now, false)
		if b == nil {
			t.Fatalf("no batch, for %s", wait)
		}
		l.BatchCommitted(b, 1, nil, now)
		return len(b.Entries)
	}
	for range 3 { // a lone client waits for nothing
		queue(1, t0)
		commit(t0)
	}
	queue(20, t0)
	commit(t0)
	queue(5, t0)
	if b, wait := l.NextBatch(t0, false); b != nil || wait != MaxLinger {
		t.Errorf("after a batch of 20: batch %v, waiting %s; want %s", b, wait, MaxLinger)
	}
	if b, wait := l.NextBatch(t0.Add(MaxLinger/2), false); b != nil || wait != MaxLinger/2 {
		t.Errorf("half way: batch %v, waiting %s", b, wait)
	}
	if n := commit(t0.Add(MaxLinger)); n != 5 {
		t.Errorf("then a batch of %d comes", n)
	}
	queue(20, t0)
	commit(t0)
	queue(1, t0)
	if b, _ := l.NextBatch(t0.Add(-time.Second), false); b == nil {
		t.Error("a clock that was set back makes a batch wait")
	}
}
