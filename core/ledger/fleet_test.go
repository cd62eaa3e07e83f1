package ledger

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/money"
)

// fleet is two live ledgers on one store. Each has one transaction under way at a time, which lands later, or conflicts;
// what one writes, the other sees some time after. Its checks are those of machine.
type fleet struct {
	*machine
	live   [2]*Ledger
	flight [2]flight
	names  int
	by     map[string]string // successors of owners that are gone
	closed map[string]bool
	terms  map[AccountID]int64
}

// flight is a transaction under way.
type flight struct {
	adj   *Adjustment
	batch *Batch
}

func (f flight) none() bool { return f.adj == nil && f.batch == nil }

func newFleet() *fleet {
	f := &fleet{machine: newMachine(), by: map[string]string{}, closed: map[string]bool{}, terms: map[AccountID]int64{}}
	f.join(0)
	f.join(1)
	f.meet()
	return f
}

func (f *fleet) join(i int) {
	f.names++
	l := New(fmt.Sprint("F", f.names))
	f.live[i], f.flight[i] = l, flight{}
	f.open(l)
}

// open opens the accounts that are not.
func (f *fleet) open(l *Ledger) {
	for i, id := range f.ids {
		if l.Account(id) == nil {
			l.Open(f.store.open(id, l.Owner), Terms{Root: "root", Limit: f.limits[i], Rev: f.edits}, f.now).slice = limit / 3
		}
	}
}

// meet tells both who lives.
func (f *fleet) meet() {
	for _, l := range f.live {
		l.SetRoster([]string{f.live[0].Owner, f.live[1].Owner})
	}
}

func (f *fleet) any(t *rapid.T) int { return rapid.IntRange(0, 1).Draw(t, "ledger") }

func (f *fleet) of(owner string) int {
	return slices.IndexFunc(f.live[:], func(l *Ledger) bool { return l.Owner == owner })
}

func (f *fleet) reserve(t *rapid.T) {
	i := f.any(t)
	x := money.Nanos(rapid.IntRange(0, 400).Draw(t, "amount"))
	leaf := rapid.IntRange(0, 1).Draw(t, "leaf")
	here := rapid.IntRange(0, 9).Draw(t, "home is out of reach") == 0
	for range 3 {
		l := f.live[i]
		path := []*Account{l.Account(f.ids[leaf]), l.Account(f.ids[2])}
		res := l.Reserve(f.now, path, []money.Nanos{x, x / 2}, time.Duration(1+x)*time.Second, Call{}, here)
		switch {
		case res.Forward && here:
			t.Fatal("a call is sent on that has to be answered here")
		case res.Forward:
			if home := f.of(l.Home("root")); home >= 0 && home != i {
				i, here = home, true
				continue
			}
			here = true // its home is gone
		case res.Wait:
			f.propose(t, i)
			f.land(t, i)
		case res.Hold != nil:
			f.tokens = append(f.tokens, &token{settled: -1, claim: Claim{
				Owner: l.Owner, Seq: res.Hold.Seq, Amount: res.Hold.Amount, Expires: res.Hold.Expires, Path: []AccountID{f.ids[leaf], f.ids[2]},
			}})
			return
		case res.Refused.Account == nil:
			t.Fatal("neither held, nor waiting, nor sent on, nor refused")
		default:
			return
		}
	}
}

// end settles or releases a hold through any ledger, as a server would: sent on to its owner or that one's successor, or
// taken over.
func (f *fleet) end(t *rapid.T) {
	if len(f.tokens) == 0 {
		return
	}
	i, k := f.any(t), f.tokens[rapid.IntRange(0, len(f.tokens)-1).Draw(t, "token")]
	e := Entry{Amount: money.Nanos(rapid.IntRange(0, 400).Draw(t, "cost")), Time: f.now, Kind: KindSettle}
	if rapid.IntRange(0, 4).Draw(t, "release") == 0 {
		e.Kind, e.Amount = KindRelease, 0
	}
	owner := k.claim.Owner
	if at := f.of(owner); at >= 0 {
		i = at
	} else if at := f.of(f.by[owner]); at >= 0 && !f.closed[owner] {
		i = at
	}
	l := f.live[i]
	k.claim.Found = nil // what another ledger has read
	k.claim.reread = true
	for range 4 {
		entry := e
		queued, before, err := l.finish(f.now, &k.claim, &entry)
		unread, notLoaded := errors.AsType[*NotLoadedError](err)
		switch {
		case notLoaded: // nothing is collected here
			k.claim.Found = &Found{Generation: unread.Generation}
			continue
		case errors.Is(err, ErrNotTaken):
			f.takeOver(i, owner)
			continue
		case errors.Is(err, ErrStale):
			f.refresh(i)
			continue
		case queued != nil && f.closed[owner]: // another may have written it meanwhile: the append tells
			f.queued[queued] = k
		case f.closed[owner] && errors.Is(err, ErrExpired): // nor need the answer to a release be the newest
		case k.settled >= 0 && before == nil && !errors.Is(err, ErrSettled):
			t.Fatalf("settled at %d, then: entry %v, %v", k.settled, queued, err)
		case k.over && before == nil && !errors.Is(err, ErrReleased):
			t.Fatalf("released, then: entry %v, %v", queued, err)
		case err != nil && !errors.Is(err, ErrSettled) && !errors.Is(err, ErrReleased) && !errors.Is(err, ErrExpired):
			t.Fatal(err)
		case queued != nil:
			f.queued[queued] = k
		}
		return
	}
	t.Fatal("the hold of an owner that is gone stays out of reach")
}

func (f *fleet) takeOver(i int, owner string) {
	var settled []Settled
	for _, e := range f.store.journal[owner] {
		settled = append(settled, Settled{Seq: e.Seq, Batch: e.Batch.N, Released: e.Kind == KindRelease})
	}
	p := Predecessor{Owner: owner, Closed: f.closed[owner]}
	if !p.Closed {
		f.by[owner] = f.live[i].Owner
		f.store.rev++
		p.Rev, p.Ready = f.store.rev, f.now.Add(Quarantine(DefaultMaxTTL))
	}
	f.live[i].TakeOver(p).LoadJournal(f.batches(owner), nil, settled)
}

func (f *fleet) refresh(i int) {
	var opened []Opened
	for _, id := range f.ids {
		opened = append(opened, f.store.open(id, f.live[i].Owner))
	}
	f.live[i].Refresh(opened, f.now)
}

// propose makes the next transaction.
func (f *fleet) propose(t *rapid.T, i int) {
	if !f.flight[i].none() {
		return
	}
	if rapid.Bool().Draw(t, "adjust first") {
		if adj, ok := f.live[i].NextAdjustment(f.now); ok {
			f.flight[i].adj = adj
			return
		}
	}
	b, _ := f.live[i].NextBatch(f.now, false)
	f.flight[i].batch = b
}

// land gives the transaction to the store, and its answer to the ledger.
func (f *fleet) land(t *rapid.T, i int) {
	if f.flight[i].none() {
		return
	}
	l, changes, b := f.live[i], []AccountChange(nil), f.flight[i].batch
	if b != nil {
		changes = b.Changes
	} else {
		changes = f.flight[i].adj.Changes
	}
	landed := f.send(t, i)
	f.flight[i] = flight{}
	switch {
	case b != nil && landed:
		l.BatchCommitted(b, f.store.rev, nil, f.now)
		for _, e := range b.Entries {
			if k := f.queued[e]; k != nil && e.Kind == KindRelease {
				k.over = true
			} else if k != nil {
				k.settled, k.late, k.forced = e.Amount, e.Late, e.Forced
			}
		}
	case b != nil && f.batches(b.Owner) != b.N: // somebody else's is there
		l.LetGo(l.Predecessor(b.Owner))
	case landed:
		l.AdjustmentCommitted(&Adjustment{Changes: changes}, f.store.rev, f.now)
	default:
		var opened []Opened
		for _, c := range changes {
			opened = append(opened, f.store.open(c.ID, l.Owner))
		}
		l.Reload(opened, f.now)
		if b != nil {
			l.BatchRetry(b)
		}
	}
}

// send gives the transaction to the store.
func (f *fleet) send(t *rapid.T, i int) (landed bool) {
	b := f.flight[i].batch
	if b != nil {
		if f.batches(b.Owner) != b.N || b.Owner != f.live[i].Owner && !f.closed[b.Owner] && f.by[b.Owner] != f.live[i].Owner {
			return false
		}
		if !f.store.commit(b.Changes) {
			return false
		}
		f.store.journal[b.Owner] = append(f.store.journal[b.Owner], b.Entries...)
		return true
	}
	changes := f.flight[i].adj.Changes
	before := map[AccountID]Budget{}
	for _, c := range changes {
		before[c.ID] = f.store.budgets[c.ID]
	}
	if !f.store.commit(changes) {
		return false
	}
	for n, id := range f.ids {
		old, is := before[id], f.store.budgets[id]
		if _, ok := before[id]; !ok {
			continue
		}
		if is.Alloc > old.Alloc {
			f.ceil[n] = max(f.ceil[n], is.Ceil)
			if is.Alloc > is.Ceil+is.Forced {
				t.Fatalf("%s: %d is granted under a ceiling of %d, %d forced", id, is.Alloc, is.Ceil, is.Forced)
			}
		}
		if is.TermsRev < old.TermsRev {
			t.Fatalf("%s: a ceiling of revision %d replaces one of %d", id, is.TermsRev, old.TermsRev)
		}
	}
	return true
}

func (f *fleet) crash(t *rapid.T) {
	if rapid.IntRange(0, 2).Draw(t, "crash") > 0 {
		return
	}
	i := f.any(t)
	if !f.flight[i].none() && rapid.Bool().Draw(t, "its last transaction lands") {
		f.send(t, i)
	}
	f.join(i)
	for owner, by := range f.by { // whom it looked after is looked after by nobody
		if f.of(by) < 0 {
			delete(f.by, owner)
		}
	}
}

// leave is an orderly end.
func (f *fleet) leave(t *rapid.T) {
	i := f.any(t)
	l := f.live[i]
	f.land(t, i)
	if len(l.Predecessors()) > 0 {
		return
	}
	for range 20 {
		l.Drain(f.now)
		if f.propose(t, i); f.flight[i].none() {
			if b, _ := l.NextBatch(f.now.Add(MaxLinger), false); b != nil {
				f.flight[i].batch = b
			}
		}
		f.land(t, i)
	}
	if !l.Clean() {
		return
	}
	for _, id := range f.ids {
		if g, ok := f.store.grants[id][l.Owner]; ok {
			t.Fatalf("%s leaves in order and keeps %+v of %s", l.Owner, g, id)
		}
	}
	f.closed[l.Owner] = true
	f.join(i)
}

func (f *fleet) pass(t *rapid.T) {
	f.now = f.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 40, 300, 1200}).Draw(t, "seconds")) * time.Second)
	for i, l := range f.live {
		l.Expire(f.now)
		l.Sweep(f.now)
		if l.CloseIdle(f.now) > 0 {
			f.open(l)
		}
		if !f.flight[i].none() {
			continue // one transaction at a time
		}
		for _, p := range slices.Clone(l.Predecessors()) {
			if p.Closed {
				continue
			}
			if !p.Known {
				for _, id := range f.ids {
					if _, ok := f.store.grants[id][p.Owner]; ok {
						p.Accounts = append(p.Accounts, id)
					}
				}
				p.Known = true
			}
			if len(l.Missing(p, 10)) > 0 {
				f.refresh(i)
			}
			changes, done := l.NextReclaim(f.now, p)
			switch {
			case done:
				for _, id := range f.ids {
					if g, ok := f.store.grants[id][p.Owner]; ok {
						t.Fatalf("%s is closed and keeps %+v of %s", p.Owner, g, id)
					}
				}
				f.closed[p.Owner] = true
				delete(f.by, p.Owner)
				l.LetGo(p)
			case len(changes) > 0 && f.store.commit(changes):
				l.Reclaimed(p, changes, f.store.rev, f.now)
			case len(changes) > 0:
				var opened []Opened
				for _, c := range changes {
					opened = append(opened, f.store.open(c.ID, l.Owner))
				}
				l.Reload(opened, f.now)
			}
		}
	}
}

// edit changes a limit, of which one ledger hears at once.
func (f *fleet) edit(t *rapid.T) {
	n := rapid.IntRange(0, 2).Draw(t, "budget")
	f.limits[n] = money.Nanos(rapid.IntRange(0, 2*limit).Draw(t, "limit"))
	f.edits++
	f.terms[f.ids[n]] = f.edits
	f.live[f.any(t)].Account(f.ids[n]).SetTerms(Terms{Root: "root", Limit: f.limits[n], Rev: f.edits})
}

// hear tells a ledger of the limits, of who lives, or of what the other has written.
func (f *fleet) hear(t *rapid.T) {
	l := f.live[f.any(t)]
	switch rapid.IntRange(0, 2).Draw(t, "news") {
	case 0:
		for n, id := range f.ids {
			if rev := f.terms[id]; rev > l.Account(id).Terms().Rev {
				l.Account(id).SetTerms(Terms{Root: "root", Limit: f.limits[n], Rev: rev})
			}
		}
	case 1:
		l.SetRoster([]string{f.live[0].Owner, f.live[1].Owner})
	default:
		for _, id := range f.ids {
			l.Observe(id, f.store.budgets[id], f.now)
		}
	}
}

func (f *fleet) check(t *rapid.T) {
	f.checkStore(t)
	for _, l := range f.live {
		for _, id := range f.ids {
			if a := l.Account(id); a.own.Spent+a.held > a.own.Alloc || a.held < 0 {
				t.Fatalf("%s at %s: spent %d + held %d of a grant of %d", id, l.Owner, a.own.Spent, a.held, a.own.Alloc)
			}
		}
	}
}

func TestInvariantsHoldForTwoLedgers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFleet()
		step := func(do func(*rapid.T, int)) func(*rapid.T) { return func(t *rapid.T) { do(t, f.any(t)) } }
		t.Repeat(map[string]func(*rapid.T){
			"reserve": f.reserve, "reserve2": f.reserve, "end": f.end, "end2": f.end, "propose": step(f.propose), "land": step(f.land),
			"land2": step(f.land), "pass": f.pass, "edit": f.edit, "hear": f.hear, "hear2": f.hear, "crash": f.crash, "leave": f.leave, "": f.check,
		})
	})
}
