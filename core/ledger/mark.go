package ledger

import (
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// KeepFor is how long the record of an ended hold is kept after it was last written: through every retry of a
// settlement of the longest hold (24 h), with an hour for clocks that differ.
const KeepFor = RetryFor + 25*time.Hour

// Mark is what is left of the journal entry of a hold once its batch has left the store: the kind in bits 0-1 (0: the
// hold was neither settled nor released), whether it was late in bit 2, and a fingerprint of the amount in bits 3-15.
// Another amount than the first has the same fingerprint once in 8,192 times.
type Mark uint16

const (
	markKind    = 1<<2 - 1
	markLate    = 1 << 2
	amountShift = 3
)

// MarkOf is the mark of a hold's entry.
func MarkOf(e *Entry) Mark { return NewMark(e.Seq, e.Kind, e.Amount, e.Late) }

// NewMark is the mark of a settlement, release or expiry charge. It is never 0.
func NewMark(seq uint64, kind Kind, amount money.Nanos, late bool) Mark {
	m := Mark(kind)&markKind | Mark(fingerprint(seq, amount)<<amountShift)
	if late {
		m |= markLate
	}
	return m
}

// fingerprint is 13 bits of a mix of both (the finalizer of SplitMix64): an amount that is wrong in the same way in
// every call is not missed in every call.
func fingerprint(seq uint64, amount money.Nanos) uint64 {
	x := uint64(amount) + seq*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x ^ x>>31) >> (64 - 16 + amountShift)
}

// Kind is how the hold ended; KindUnspecified when it has not.
func (m Mark) Kind() Kind { return Kind(m & markKind) }

// Late says that the hold had expired when it was settled.
func (m Mark) Late() bool { return m&markLate != 0 }

// Fits says whether the hold ended at this amount: wrongly so once in 8,192 times.
func (m Mark) Fits(seq uint64, amount money.Nanos) bool {
	return m != 0 && m>>amountShift == Mark(fingerprint(seq, amount))
}

// NotLoadedError says that memory has let go of what became of a hold: read the mark of Seq in the chunk record
// Seq/ChunkSize of Owner, put it into Claim.Found with Generation, and ask again.
type NotLoadedError struct {
	Owner      string
	Seq        uint64
	Generation uint64
}

func (e *NotLoadedError) Error() string {
	return fmt.Sprintf("what became of hold %d of %s is not in memory", e.Seq, e.Owner)
}

// Found is the mark of a hold as it was read from the store after NotLoadedError. It counts only while nothing was
// collected since: a settlement that was queued, committed and collected meanwhile is in the store alone.
type Found struct {
	Mark       Mark
	Generation uint64
}

// current says that a mark was read, and nothing was collected since.
func (l *Ledger) current(f *Found) bool {
	return f != nil && f.Generation == l.generation
}

// ended says what the store has of a hold that memory has let go of; nothing when the hold has not ended.
func (l *Ledger) ended(c *Claim, kind Kind) (*Journaled, error) {
	if !l.current(c.Found) {
		return nil, &NotLoadedError{c.Owner, c.Seq, l.generation}
	}
	m := c.Found.Mark
	switch {
	case m == 0:
		return nil, nil
	case m.Kind() == KindRelease && kind != KindRelease:
		return nil, ErrReleased
	case m.Kind() != KindRelease && kind == KindRelease:
		return nil, ErrSettled
	}
	return &Journaled{Owner: c.Owner, Mark: m}, nil
}

// Ended says how a hold has ended by its mark: ErrSettled, ErrReleased, or ErrExpired for one that nobody ended and
// memory let go of.
func (m Mark) Ended() error {
	switch m.Kind() {
	case KindUnspecified:
		return ErrExpired
	case KindRelease:
		return ErrReleased
	}
	return ErrSettled
}

// tooOld says that a hold expired so long ago that whether it was settled is not kept any more.
func (c *Claim) tooOld(now time.Time) bool { return now.Sub(c.Expires) > RetryFor }

// AmountUnknown is the Amount of a settlement that is known by its mark alone.
const AmountUnknown money.Nanos = -1

// Marked is the entry of a claim's hold as far as its mark tells: without time, usage and outcome.
func (c *Claim) Marked(m Mark) *Entry {
	e := &Entry{
		Seq: c.Seq, Kind: m.Kind(), Held: c.Amount, Late: m.Late(), Path: c.Path, Call: c.Call, Mark: m,
		Batch: &Batch{Owner: c.Owner},
	}
	switch {
	case e.Kind == KindSettle:
		e.Amount = AmountUnknown
	case e.Kind == KindExpiryCharge:
		e.Amount = c.Amount
	}
	return e
}

// At completes an entry that is known by its mark with the cost that it is settled at again. It stays at AmountUnknown
// where that is not the first.
func (e *Entry) At(cost money.Nanos, call Call) {
	if e.Kind != KindSettle || !e.Mark.Fits(e.Seq, cost) {
		return
	}
	e.Amount, e.Call, e.Forced = cost, merged(e.Call, call), max(0, cost-e.Held)
	if e.Late {
		e.Forced = cost
	}
}
