package preflight

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/store"
)

// Slice is money set aside for many calls of one client. Durations count from before Lease was called.
type Slice struct {
	Hold
	Price *pricing.Price
	// ReserveWithin is how long the client may hold for new calls: no longer than this owner may, and a few seconds.
	ReserveWithin time.Duration
	// ExpireWithin is when all its calls must have ended: a little before the hold does, for clock rates.
	ExpireWithin time.Duration
	// Charge says that calls which are not settled by then are charged what was held for them.
	Charge bool
}

// forRates shortens a duration that another clock counts, which may be 2% slower.
func forRates(d time.Duration) time.Duration { return d - d/50 }

// Lease decides as Reserve, for calls no larger than the given one, and holds money for a number of them. ttl is how
// long such a call may take; 0 is ledger.DefaultTTL. An overflow allowance is not leased. Errors: those of Reserve.
func (s *Service) Lease(ctx context.Context, call *routing.Call, calls int64, ttl time.Duration) (*Decision, *Slice, error) {
	start := s.Clock.Boot()
	ttl, err := s.admit(start, ttl)
	if err != nil {
		return nil, nil, err
	}
	within := time.Duration(s.deadline.Load()) - start
	if within <= 0 { // what may be held without etcd is held call by call
		return nil, nil, &UnavailableError{"etcd has not confirmed this server's ownership in time"}
	}
	lasts := min(within+ttl+ttl/49+1, s.MaxTTL) // of which ttl is left for the last call
	d, h, err := s.decide(ctx, call, lasts, true, calls)
	if err != nil {
		return nil, nil, err
	}
	var slice *Slice
	if h != nil {
		slice = &Slice{
			Hold: Hold{s.sealer.seal(s.ledger.Owner, h, h.Expires), h.Amount, h.Expires}, Price: d.Price,
			ReserveWithin: forRates(within), ExpireWithin: forRates(lasts), Charge: h.Charge,
		}
	}
	if err := s.alive(s.Clock.Boot()); err != nil { // the answer may come too late to be ours to give
		return nil, nil, err
	}
	s.Metrics.Decision(d.Effect)
	return d, slice, nil
}

// claim reads the token of a hold for one call or, leased, of a slice. Error: ledger.ErrUnknownHold, for the other too.
func (s *Service) claim(token string, leased bool) (*ledger.Claim, error) {
	c, err := s.sealer.open(token)
	if err == nil && c.Call.Leased != leased {
		return nil, ledger.ErrUnknownHold
	}
	return c, err
}

// Report takes what the calls of a slice have used so far, to be settled if the client does not. Of a slice of another
// owner, or one that is over, nothing is kept. Errors: ledger.ErrUnknownHold, ledger.ErrUse, usage.ErrInvalid,
// money.ErrOverflow.
func (s *Service) Report(token string, use *ledger.Use) error {
	claim, err := s.claim(token, true)
	if err != nil {
		return err
	}
	if err := use.Validate(); err != nil {
		return err
	}
	if claim.Owner != s.ledger.Owner {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Report(claim.Seq, *use)
}

// SettleSlice commits what the calls of a slice used and frees the rest. A slice that was settled at its expiry, for
// less, is settled for the difference, as forced spend. Errors: those of Report, *SettledError, *UnavailableError.
func (s *Service) SettleSlice(ctx context.Context, token string, use *ledger.Use) (*Settlement, error) {
	claim, err := s.claim(token, true)
	if err != nil {
		return nil, err
	}
	if err := use.Validate(); err != nil {
		return nil, err
	}
	entry := ledger.Entry{Amount: use.Amount, Usage: use.Usage, Counts: use.Counts}
	s.sliceComponents(&entry, claim)
	e, err := s.finish(ctx, claim, func(now time.Time) (*ledger.Entry, *ledger.Journaled, error) {
		if use.Calls == 0 {
			return s.ledger.Release(now, claim)
		}
		return s.ledger.Settle(now, claim, entry)
	})
	if err == nil && e.Mark != 0 { // known by its mark alone: what it was settled at, if it is one of these
		e.Amount = ledger.AmountUnknown
		for _, x := range []money.Nanos{use.Amount, claim.Amount} {
			if e.Mark.Fits(claim.Seq, x) {
				e.Amount = x
				break
			}
		}
		if e.Kind == ledger.KindRelease {
			e.Amount = 0
		}
	}
	switch {
	case use.Calls == 0 && errors.Is(err, ledger.ErrExpired): // released already
		return &Settlement{Feature: claim.Call.Feature, Tier: claim.Call.Tier, Model: claim.Call.Model, Late: true, Time: s.Clock.Now()}, nil
	case use.Calls == 0 && errors.Is(err, ledger.ErrSettled): // charged in full
		return nil, s.over(ctx, claim, err)
	case err != nil:
		return nil, err
	case e.Amount == ledger.AmountUnknown:
		return nil, &SettledError{e.Amount, e.Kind}
	case e.Kind == ledger.KindExpiryCharge && e.Amount < use.Amount:
		rest, err := s.settleRest(ctx, claim, e, use)
		if err != nil {
			return nil, err
		}
		sum := s.sliceSettlement(rest)
		sum.Cost += e.Amount
		sum.Forced += e.Forced
		return sum, nil
	case e.Kind != ledger.KindExpiryCharge && e.Amount != use.Amount:
		return nil, &SettledError{e.Amount, e.Kind}
	}
	return s.sliceSettlement(e), nil
}

// settleRest records what a slice used beyond what was settled at its expiry. Once: it is found by the slice again.
func (s *Service) settleRest(ctx context.Context, claim *ledger.Claim, first *ledger.Entry, use *ledger.Use) (*ledger.Entry, error) {
	id := fmt.Sprintf("slice/%s/%d", claim.Owner, claim.Seq)
	mine, err := s.beginUsage(ctx, id)
	if err != nil {
		return nil, err
	}
	defer s.endUsage(id, mine)
	before, err := s.Ledger.Usage(ctx, id)
	switch {
	case err == nil && before.Amount != use.Amount-first.Amount:
		return nil, &SettledError{first.Amount + before.Amount, before.Kind}
	case err == nil:
		before.Path, before.Late = claim.Path, true
		return before, nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, &UnavailableError{err.Error()}
	}
	entry := ledger.Entry{
		Amount: use.Amount - first.Amount, Usage: use.Usage.Minus(&first.Usage), RequestID: id, Call: claim.Call, Late: true,
		Counts: ledger.Counts{
			Calls: max(0, use.Calls-first.Calls), Successes: max(0, use.Successes-first.Successes), Failures: max(0, use.Failures-first.Failures),
		},
	}
	s.sliceComponents(&entry, claim)
	return s.finish(ctx, &ledger.Claim{Path: claim.Path}, func(now time.Time) (*ledger.Entry, *ledger.Journaled, error) {
		if mine.entry != nil { // it was not written: another replica may have recorded it
			return nil, nil, &UnavailableError{"another server records the same"}
		}
		e, err := s.ledger.Use(now, claim.Path, entry)
		mine.entry = e
		return e, nil, err
	})
}

// sliceComponents is components for a slice, by the price that its client has.
func (s *Service) sliceComponents(e *ledger.Entry, claim *ledger.Claim) {
	if price, err := s.Control.Snapshot().Prices().For(claim.Call.Model, termsOf(&claim.Call)); err == nil {
		s.components(e, price, claim.Call.Wanted, termsOf(&claim.Call))
	}
}

// sliceSettlement is a settlement without lines. The currency is that of the budgets, if the leaf is still there.
func (s *Service) sliceSettlement(e *ledger.Entry) *Settlement {
	currency := ""
	if b := s.Control.Snapshot().Budget(e.Path[0].Budget); b != nil {
		currency = b.Currency
	}
	return settlement(e, &pricing.Price{Currency: currency}, nil)
}
