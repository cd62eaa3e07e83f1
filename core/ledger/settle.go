package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/money"
)

// Claim identifies a hold to Settle and Release: what its token says.
type Claim struct {
	Owner   string
	Seq     uint64
	Amount  money.Nanos
	Expires time.Time
	Call    Call
	Path    []AccountID
	Found   *Found // after NotLoadedError

	reread bool // the journal of its owner, which is closed, was read for it
}

// Journaled says where the entry of a hold stands that was settled or released before: in a batch of the journal, or,
// when that was collected, as a mark.
type Journaled struct {
	Owner string
	Batch uint64
	Mark  Mark
}

// Settle queues the settlement of a hold at a cost. It returns the entry, whose Batch must be committed, or, when the
// hold was settled before, where its entry stands, for the caller to compare. ErrReleased and ErrSettled come with the
// entry where that is under way: they are true once it is committed. Errors: ErrReleased, ErrSettled, ErrUnknownHold,
// money.ErrOverflow, ErrNotOpen when an account of the claim is not open, ErrNotTaken when the claim's owner is gone and
// not taken over yet, *NotLoadedError when the claim's chunk record must be read first.
func (l *Ledger) Settle(now time.Time, c *Claim, e Entry) (*Entry, *Journaled, error) {
	e.Kind, e.Time = KindSettle, now
	return l.finish(now, c, &e)
}

// Release queues the release of a hold. As Settle; a hold that has expired gives ErrExpired, and ErrAgain with an entry
// says to ask again once that is committed.
func (l *Ledger) Release(now time.Time, c *Claim) (*Entry, *Journaled, error) {
	return l.finish(now, c, &Entry{Kind: KindRelease, Time: now})
}

// Ended finds the entry with which a hold has ended or is about to end, and queues nothing. Errors: ErrAgain when the hold
// is live again, because that entry was not written; ErrNotTaken and *NotLoadedError as Settle.
func (l *Ledger) Ended(c *Claim) (*Entry, *Journaled, error) {
	var r result
	var known bool
	var under *Entry
	if c.Owner == l.Owner {
		if h := l.holds[c.Seq]; h != nil {
			under, known = h.entry, true
		} else {
			under = l.results.late(c.Seq)
			r, known = l.results.get(c.Seq)
		}
	} else {
		p := l.Predecessor(c.Owner)
		if p == nil || p.results == nil {
			return nil, nil, ErrNotTaken
		}
		under = p.pending[c.Seq]
		r, known = p.results[c.Seq]
	}
	switch {
	case under != nil:
		return under, nil, nil
	case r.batch > 0:
		return nil, &Journaled{Owner: c.Owner, Batch: r.batch - 1}, nil
	case known:
		return nil, nil, ErrAgain
	case !l.current(c.Found):
		return nil, nil, &NotLoadedError{c.Owner, c.Seq, l.generation}
	case c.Found.Mark == 0:
		return nil, nil, ErrAgain
	}
	return nil, &Journaled{Owner: c.Owner, Mark: c.Found.Mark}, nil
}

func (l *Ledger) finish(now time.Time, c *Claim, e *Entry) (*Entry, *Journaled, error) {
	if c.Owner != l.Owner {
		return l.finishDead(now, c, e)
	}
	if h := l.holds[c.Seq]; h != nil {
		switch {
		case h.entry == nil:
			if e.Kind == KindRelease && now.After(h.Expires) {
				return nil, nil, ErrExpired
			}
			if err := checkSum(h.Path, e.Amount); err != nil {
				return nil, nil, err
			}
			return l.queueHold(h, e, now), nil, nil
		case (h.entry.Kind == KindRelease) != (e.Kind == KindRelease):
			return h.entry, nil, entryError(h.entry)
		}
		return h.entry, nil, nil // under way: the caller compares amounts once it is committed
	}
	if c.Seq == 0 || c.Seq > l.seq {
		return nil, nil, ErrUnknownHold
	}
	r, ok := l.results.get(c.Seq)
	if !ok {
		if before, err := l.ended(c, e.Kind); before != nil || err != nil {
			return nil, before, err
		}
	}
	switch {
	case r.released && e.Kind != KindRelease:
		return nil, nil, ErrReleased
	case r.batch > 0 && !r.released && e.Kind == KindRelease:
		return nil, nil, ErrSettled
	case r.batch > 0:
		return nil, &Journaled{Owner: l.Owner, Batch: r.batch - 1}, nil
	case e.Kind == KindRelease:
		return nil, nil, ErrExpired
	case l.results.late(c.Seq) != nil:
		return l.results.late(c.Seq), nil, nil
	case c.tooOld(now):
		return nil, nil, ErrUnknownHold
	}
	// The hold was freed at its expiry: late, so all of it is forced.
	path, err := l.path(c.Path)
	if err != nil {
		return nil, nil, err
	}
	if err := checkSum(path, e.Amount); err != nil {
		return nil, nil, err
	}
	e.Seq, e.Held, e.Forced, e.Late, e.Call, e.Path = c.Seq, c.Amount, e.Amount, true, merged(c.Call, e.Call), c.Path
	l.results.setLate(c.Seq, e)
	l.journal.queue(e, now)
	return e, nil, nil
}

// merged keeps what the settlement says of the call where it differs from the hold: the model that was really used.
func merged(hold, settle Call) Call {
	if settle.Model != "" {
		hold.Model, hold.Tier = settle.Model, settle.Tier
	}
	return hold
}

func (l *Ledger) queueHold(h *Hold, e *Entry, now time.Time) *Entry {
	e.Seq, e.Held, e.hold, e.Call = h.Seq, h.Amount, h, merged(h.Call, e.Call)
	e.Forced = max(0, e.Amount-h.Amount)
	e.Path = make([]AccountID, len(h.Path))
	for i, a := range h.Path {
		e.Path[i] = a.ID
	}
	h.entry = e
	if !guard.HeldUntilCommitted {
		l.free(h)
	}
	l.journal.queue(e, now)
	return e
}

// Use queues usage that had no hold: forced spend. Errors: ErrNotOpen, money.ErrOverflow.
func (l *Ledger) Use(now time.Time, path []AccountID, e Entry) (*Entry, error) {
	accounts, err := l.path(path)
	if err != nil {
		return nil, err
	}
	if err := checkSum(accounts, e.Amount); err != nil {
		return nil, err
	}
	e.Kind, e.Time, e.Path, e.Forced = KindUsage, now, path, e.Amount
	l.journal.queue(&e, now)
	return &e, nil
}

// ErrNotOpen says that an account must be opened first.
var ErrNotOpen = errors.New("an account is not open")

func (l *Ledger) path(ids []AccountID) ([]*Account, error) {
	path := make([]*Account, len(ids))
	for i, id := range ids {
		if path[i] = l.accounts[id]; path[i] == nil {
			return nil, fmt.Errorf("%w: %s", ErrNotOpen, id)
		}
	}
	return path, nil
}

// checkSum refuses an amount that an account's sums could not hold, with room for what is queued before it.
func checkSum(path []*Account, x money.Nanos) error {
	const most = money.Nanos(1<<63-1) / 4 // 2.3 billion currency units
	if x < 0 || x > most/MaxBatchEntries {
		return fmt.Errorf("one call settles at most %s: %w", most/MaxBatchEntries, money.ErrOverflow)
	}
	for _, a := range path {
		if a.bud.Alloc > most || a.bud.Forced > most {
			return money.ErrOverflow
		}
	}
	return nil
}
