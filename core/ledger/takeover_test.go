package ledger

import (
	"errors"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// The journal of a closed owner is written by any replica: that a hold expired unsettled is said after reading it again.
func TestAReleaseForAClosedOwnerReadsItsJournalAgain(t *testing.T) {
	l, a := opened(t, 100)
	now := time.Unix(1000, 0)
	read := func(settled ...Settled) {
		l.TakeOver(Predecessor{Owner: "gone", Closed: true}).LoadJournal(uint64(len(settled)), nil, settled)
	}
	c := &Claim{Owner: "gone", Seq: 3, Amount: 10, Expires: now.Add(-time.Minute), Path: []AccountID{a.ID}}
	read()
	c.Found = &Found{Generation: l.generation}
	late := &Claim{Owner: "gone", Seq: 9, Amount: 10, Expires: now, Path: []AccountID{a.ID}, Found: c.Found}
	queued, _, err := l.Settle(now, late, Entry{Amount: 5})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := l.NextBatch(now, true)
	if e, _, err := l.Release(now, c); e != queued || !errors.Is(err, ErrAgain) {
		t.Fatalf("while a batch of its journal is under way: %v, %v", e, err)
	}
	l.BatchCommitted(b, 1, nil, now)
	if _, _, err := l.Release(now, c); !errors.Is(err, ErrNotTaken) || l.Predecessor("gone") != nil {
		t.Fatalf("with a journal that was read before: %v", err)
	}
	read(Settled{Seq: 3})
	if _, _, err := l.Release(now, c); !errors.Is(err, ErrSettled) {
		t.Errorf("settled by another replica meanwhile: %v", err)
	}
	other := &Claim{Owner: "gone", Seq: 4, Amount: money.Nanos(10), Expires: c.Expires, Path: c.Path, reread: true, Found: &Found{Generation: l.generation}}
	if _, _, err := l.Release(now, other); !errors.Is(err, ErrExpired) {
		t.Errorf("settled by nobody: %v", err)
	}
}

// What was read before a lost transaction of the own grant was resolved does not come back with an earlier read of others.
func TestReloadRestoresAGrantAfterALaterRefresh(t *testing.T) {
	l, a := opened(t, 100)
	now := time.Unix(1000, 0)
	a.own, a.bud, a.read = Grant{Alloc: 40, Rev: 5}, Budget{Ceil: 100, Alloc: 40, Rev: 5}, 5
	a.used = now.Add(-2 * IdleAfter)
	l.Sweep(now)
	if adj, ok := l.NextAdjustment(now); !ok || adj.Changes[0].Grant.Alloc != 0 || a.own.Alloc != 0 {
		t.Fatalf("idle money is not returned: %+v", adj)
	}
	conflict := Opened{ID: a.ID, Own: Grant{Alloc: 40, Rev: 5}, Budget: Budget{Ceil: 100, Alloc: 60, Rev: 6}, Others: map[string]Grant{}, Rev: 6}
	later := conflict
	later.Rev = 7
	l.Refresh([]Opened{later}, now)
	l.Reload([]Opened{conflict}, now)
	if a.own.Alloc != 40 {
		t.Errorf("the grant is %+v; the return never landed", a.own)
	}
}
