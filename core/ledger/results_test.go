package ledger

import (
	"errors"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// holds makes n holds of 1.
func holds(t *testing.T, l *Ledger, a *Account, n int) []*Hold {
	t.Helper()
	now := time.Unix(1000, 0)
	var list []*Hold
	for len(list) < n {
		res := l.Reserve(now, []*Account{a}, []money.Nanos{1}, time.Minute, Call{}, false)
		if res.Wait {
			adj, _ := l.NextAdjustment(now)
			l.AdjustmentCommitted(adj, 1, now)
			continue
		}
		list = append(list, res.Hold)
	}
	return list
}

func commitAll(l *Ledger) {
	for {
		now := time.Unix(1000, 0)
		b, linger := l.NextBatch(now, false)
		if linger > 0 {
			b, _ = l.NextBatch(now.Add(linger), false)
		}
		if b == nil {
			return
		}
		l.BatchCommitted(b, 1, nil, now)
	}
}

// Memory of ended holds goes with the journal, chunk by chunk; a hold that is live goes on.
func TestCollectedChunksAreForgotten(t *testing.T) {
	l, a := opened(t, 1<<40)
	now := time.Unix(1000, 0)
	all := holds(t, l, a, 4*ChunkSize)
	live := all[7]
	for _, h := range all {
		if h != live {
			if _, _, err := l.Settle(now, &Claim{Owner: "E", Seq: h.Seq}, Entry{Amount: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	commitAll(l)
	ask := func(h *Hold) (*Entry, *Journaled, error) {
		return l.Settle(now, &Claim{Owner: "E", Seq: h.Seq, Amount: 1, Expires: h.Expires, Path: []AccountID{a.ID}}, Entry{Amount: 1})
	}
	if _, before, err := ask(all[0]); err != nil || before == nil || before.Mark != 0 {
		t.Fatalf("before it is collected: %+v, %v", before, err)
	}
	end, _ := l.Committed("E")
	for i, n := range []uint64{end/2 - 1, end / 2} { // a batch less keeps a chunk more
		l.Collected("E", n)
		if floor := uint64(i + 1); l.results.floor != floor {
			t.Errorf("%d of %d batches are collected: chunks from %d on are kept, want %d", n, end, l.results.floor, floor)
		}
	}
	if _, _, err := ask(all[0]); !errors.As(err, new(*NotLoadedError)) {
		t.Errorf("collected: %v, want a NotLoadedError", err)
	}
	if _, before, err := ask(all[2*ChunkSize+1]); err != nil || before == nil {
		t.Errorf("not collected: %+v, %v", before, err)
	}
	l.Collected("E", end)
	if e, before, err := ask(live); e == nil || before != nil || err != nil || e.Late {
		t.Errorf("the live hold: %v, %v, %v", e, before, err)
	}
	commitAll(l)
	for more, known := range []bool{true, false} {
		next := end + uint64(more)
		l.Collected("E", next)
		_, before, err := ask(live)
		if unread := errors.As(err, new(*NotLoadedError)); unread == known || known && before == nil {
			t.Errorf("the batches before %d of %d are collected: %+v, %v", next, end+1, before, err)
		}
	}
	if chunks, extra := len(l.results.chunks), len(l.results.extra); chunks != 1 || extra+len(l.results.gone) != 0 || l.results.floor != 4 {
		t.Errorf("all is collected: %d chunks, %d holds and %d gaps are kept from %d on", chunks, extra, len(l.results.gone), l.results.floor)
	}
}

// A hold that was freed at its expiry, in a chunk that is forgotten, is settled late once, whoever has read what when.
func TestLateSettlementOfAForgottenHold(t *testing.T) {
	l, a := opened(t, 1<<40)
	all := holds(t, l, a, ChunkSize)
	now := time.Unix(1000, 0).Add(time.Hour)
	l.Expire(now)
	l.Collected("E", 0)
	if !l.results.forgotten(0) {
		t.Fatal("the chunk is not forgotten")
	}
	claim := func() *Claim {
		return &Claim{Owner: "E", Seq: all[5].Seq, Amount: 1, Expires: all[5].Expires, Path: []AccountID{a.ID}}
	}
	read := func(c *Claim, mark Mark) {
		_, _, err := l.Settle(now, c, Entry{Amount: 3})
		unread, ok := errors.AsType[*NotLoadedError](err)
		if !ok {
			t.Fatalf("%v, want a NotLoadedError", err)
		}
		c.Found = &Found{mark, unread.Generation}
	}
	if err := l.goneError(all[5].Seq); !errors.As(err, new(*NotLoadedError)) {
		t.Errorf("extended: %v", err)
	}
	first, second, third := claim(), claim(), claim()
	read(first, 0)
	read(second, 0)
	read(third, 0)
	e, _, err := l.Settle(now, first, Entry{Amount: 3})
	if err != nil || e == nil || !e.Late || e.Forced != 3 {
		t.Fatalf("%+v, %v", e, err)
	}
	if again, _, err := l.Settle(now, second, Entry{Amount: 3}); again != e || err != nil {
		t.Errorf("while it is queued: %v, %v", again, err)
	}
	commitAll(l)
	if _, before, err := l.Settle(now, second, Entry{Amount: 3}); err != nil || before == nil || before.Mark != 0 {
		t.Errorf("committed: %v, %v", before, err)
	}
	l.Collected("E", 1)
	if again, before, err := l.Settle(now, third, Entry{Amount: 3}); !errors.As(err, new(*NotLoadedError)) {
		t.Fatalf("collected after the chunk was read: %v, %v, %v; want to read again", again, before, err)
	}
	read(third, MarkOf(e))
	if _, before, err := l.Settle(now, third, Entry{Amount: 3}); err != nil || before == nil || before.Mark != MarkOf(e) {
		t.Errorf("read again: %v, %v", before, err)
	}
	if _, _, err := l.Release(now, third); !errors.Is(err, ErrSettled) {
		t.Errorf("release: %v", err)
	}
	if len(l.results.extra)+len(l.results.lates) != 0 {
		t.Errorf("%d and %d late settlements are kept", len(l.results.extra), len(l.results.lates))
	}
	old := claim()
	old.Seq, old.Expires = all[6].Seq, now.Add(-RetryFor-time.Second)
	read(old, 0)
	if _, _, err := l.Settle(now, old, Entry{Amount: 3}); !errors.Is(err, ErrUnknownHold) {
		t.Errorf("a hold that expired more than 7 days ago: %v", err)
	}
}

func TestMarks(t *testing.T) {
	for _, c := range []struct {
		kind   Kind
		amount money.Nanos
		late   bool
		ended  error
	}{
		{KindSettle, 0, false, ErrSettled}, {KindSettle, 1<<63 - 1, true, ErrSettled},
		{KindRelease, 0, false, ErrReleased}, {KindExpiryCharge, 12, false, ErrSettled},
	} {
		m := NewMark(7, c.kind, c.amount, c.late)
		if m == 0 || m.Kind() != c.kind || m.Late() != c.late || !m.Fits(7, c.amount) || !errors.Is(m.Ended(), c.ended) {
			t.Errorf("%+v: kind %d, late %v, %v", c, m.Kind(), m.Late(), m.Ended())
		}
	}
	if Mark(0).Fits(7, 0) || !errors.Is(Mark(0).Ended(), ErrExpired) {
		t.Error("no mark fits")
	}
	// Another amount is missed about once in 8,192 times, whatever the difference.
	for _, diff := range []money.Nanos{1, 1 << 13, 1 << 40, 1_000_000} {
		missed := 0
		for seq := range uint64(1 << 18) {
			if NewMark(seq, KindSettle, 5_000_000, false).Fits(seq, 5_000_000+diff) {
				missed++
			}
		}
		if missed > 64 || missed < 8 { // 32 on average
			t.Errorf("%d more is missed %d times in 2^18, about 32 are due", diff, missed)
		}
	}
}

// A predecessor that is looked after anew: others may have settled and collected in between.
func TestMarksOfAnEarlierTakeoverDoNotCount(t *testing.T) {
	l, a := opened(t, 1<<40)
	p := l.TakeOver(Predecessor{Owner: "D", Closed: true})
	p.LoadJournal(4, nil, []Settled{{Seq: 1, Batch: 3}})
	if n, loaded := l.Committed("D"); n != 4 || !loaded {
		t.Errorf("committed up to %d, %v", n, loaded)
	}
	now := time.Unix(1000, 0)
	c := &Claim{Owner: "D", Seq: 2, Amount: 1, Expires: now, Path: []AccountID{a.ID}}
	_, _, err := l.Settle(now, c, Entry{Amount: 1})
	unread, ok := errors.AsType[*NotLoadedError](err)
	if !ok {
		t.Fatalf("%v, want to read its mark", err)
	}
	c.Found = &Found{0, unread.Generation}
	l.LetGo(p)
	if _, loaded := l.Committed("D"); loaded {
		t.Error("it is let go of, and loaded")
	}
	if _, _, err := l.Settle(now, c, Entry{Amount: 1}); !errors.Is(err, ErrNotTaken) {
		t.Errorf("%v, want to take it over", err)
	}
	l.TakeOver(Predecessor{Owner: "D", Closed: true}).LoadJournal(9, nil, nil)
	if _, _, err := l.Settle(now, c, Entry{Amount: 1}); !errors.As(err, new(*NotLoadedError)) {
		t.Errorf("%v, want to read its mark again", err)
	}
}
