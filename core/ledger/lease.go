package ledger

import (
	"errors"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// A slice is a hold for many calls of one client, which checks and holds in its own process against it. To the ledger
// it is a hold like any other; only what becomes of it at its expiry is different.

// Counts is how many calls an entry stands for.
type Counts struct {
	Calls               int64
	Successes, Failures int64 // the outcome of the others is not known
}

// Use is what the calls of a slice have used, in sum.
type Use struct {
	Amount money.Nanos
	Usage  usage.Usage
	Counts
}

// ErrUse says that a use cannot be.
var ErrUse = errors.New("a slice has used an amount below 0, or has more outcomes than calls")

// Validate refuses a use that cannot be.
func (u *Use) Validate() error {
	if u.Amount < 0 || u.Calls < 0 || u.Successes < 0 || u.Failures < 0 || u.Successes > u.Calls-u.Failures {
		return ErrUse
	}
	return u.Usage.Validate()
}

// Limits of a slice, so that money which one client keeps from the others is little, and less near the ceiling. A 400th
// is a quarter of what a grant may be: a slice is about the usual hold, and grants have room for four.
const (
	sliceOfCeiling = 400
	sliceOfRoom    = 16
)

// SliceAmount is how much to hold at once for a number of calls that cost at most one each: at least one, even where
// it does not fit.
func SliceAmount(path []*Account, one money.Nanos, calls int64) money.Nanos {
	most := money.Nanos(1<<63 - 1)
	if calls < int64(most/max(one, 1)) {
		most = one * money.Nanos(calls)
	}
	for _, a := range path {
		_, room := a.room()
		most = min(most, a.ceiling()/sliceOfCeiling, room/sliceOfRoom)
	}
	return max(most, one)
}

// Report takes what the calls of a slice have used so far. Reports of holds that are over or no slices, and older ones
// that come late, change nothing. Error: money.ErrOverflow.
func (l *Ledger) Report(seq uint64, u Use) error {
	h := l.holds[seq]
	if h == nil || h.entry != nil || !h.Call.Leased || h.use != nil && (u.Calls < h.use.Calls || u.Amount < h.use.Amount) {
		return nil
	}
	if err := checkSum(h.Path, u.Amount); err != nil {
		return err
	}
	h.use = &u
	return nil
}

// atExpiry is the entry that a hold leaves when it expires unsettled; nil: it is released. Of a slice what was reported
// is settled in any case.
func (h *Hold) atExpiry() *Entry {
	switch {
	case h.use == nil && !h.Charge:
		return nil
	case h.use == nil:
		return &Entry{Kind: KindExpiryCharge, Amount: h.Amount}
	case !h.Charge && h.use.Calls == 0:
		return nil
	}
	e := &Entry{Kind: KindExpiryCharge, Amount: h.use.Amount, Usage: h.use.Usage, Counts: h.use.Counts}
	if h.Charge {
		e.Amount = max(e.Amount, h.Amount)
	}
	return e
}

// attribute makes the components of the cost add up to the amount.
func (e *Entry) attribute() {
	if total, err := e.Cost.Total(); err != nil {
		e.Cost = usage.Cost{Other: e.Amount}
	} else {
		e.Cost.Other += e.Amount - total
	}
}

// count fills in the counts of an entry that stands for one call.
func (e *Entry) count() {
	if e.Kind == KindRelease || e.Call.Leased {
		return
	}
	e.Calls = 1
	switch e.Outcome {
	case usage.OutcomeSuccess:
		e.Successes = 1
	case usage.OutcomeFailure:
		e.Failures = 1
	}
}
