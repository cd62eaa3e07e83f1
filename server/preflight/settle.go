package preflight

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Settlement is the durable record of what a call used.
type Settlement struct {
	Feature, Tier, Model   string
	Cost, Forced, Released money.Nanos
	Late                   bool
	Lines                  []pricing.Line
	Currency               string
	// Time and Journal are not set for a settlement that is repeated after its entry was collected out of etcd.
	Time    time.Time
	Journal string
}

// Settle prices what a call really used, commits it and frees the rest of the hold. model is empty for the decision's.
// The price is the one in force when the call was reserved. Errors: ledger.ErrUnknownHold, ledger.ErrReleased,
// *SettledError, *pricing.UnpricedError, *CurrencyError, usage.ErrInvalid, money.ErrOverflow, *UnavailableError.
func (s *Service) Settle(ctx context.Context, token string, used *usage.Usage, model string, outcome usage.Outcome) (*Settlement, error) {
	start := s.Clock.Boot()
	claim, err := s.claim(token, false)
	if err != nil {
		return nil, err
	}
	call := ledger.Call{}
	if model != "" && model != claim.Call.Model {
		call.Model = model
		if m := s.Control.Snapshot().Catalog().Model(model); m != nil {
			call.Tier = m.Tier
		}
	}
	budgets := "" // a budget that is deleted had the currency of the price that was decided by
	if b := s.Control.Snapshot().Budget(claim.Path[0].Budget); b != nil {
		budgets = b.Currency
	}
	price, cost, lines, err := s.cost(used, cmp.Or(call.Model, claim.Call.Model), budgets, termsOf(&claim.Call))
	if err != nil {
		return nil, err
	}
	entry := ledger.Entry{Amount: cost, Usage: *used, Outcome: outcome, Call: call}
	s.components(&entry, price, claim.Call.Wanted, termsOf(&claim.Call))
	e, err := s.finish(ctx, claim, func(now time.Time) (*ledger.Entry, *ledger.Journaled, error) {
		return s.ledger.Settle(now, claim, entry)
	})
	if err != nil {
		return nil, err
	}
	repeated(e, cost, call)
	if e.Amount != cost || e.Kind == ledger.KindExpiryCharge {
		return nil, &SettledError{e.Amount, e.Kind}
	}
	s.Metrics.SettleSeconds((s.Clock.Boot() - start).Seconds())
	return settlement(e, price, lines), nil
}

// Hold reads the token of a hold for one call. Error: ledger.ErrUnknownHold.
func (s *Service) Hold(token string) (*ledger.Claim, error) { return s.claim(token, false) }

func termsOf(c *ledger.Call) pricing.Terms {
	return pricing.Terms{ServiceTier: c.ServiceTier, Region: c.Region, Time: c.Time}
}

// cost prices usage on a model, in the currency of the budgets if that is known.
func (s *Service) cost(used *usage.Usage, model, currency string, terms pricing.Terms) (*pricing.Price, money.Nanos, []pricing.Line, error) {
	if err := used.Validate(); err != nil {
		return nil, 0, nil, err
	}
	prices := s.Control.Snapshot().Prices()
	price, err := prices.For(model, terms)
	if err != nil {
		return nil, 0, nil, err
	}
	if currency != "" {
		price, err = prices.In(price, currency, terms.Time)
		if noRate, ok := errors.AsType[*pricing.NoRateError](err); ok {
			return nil, 0, nil, &CurrencyError{Model: model, Err: noRate}
		}
		if err != nil {
			return nil, 0, nil, err
		}
	}
	cost, lines, err := price.Lines(used)
	return price, cost, lines, err
}

func settlement(e *ledger.Entry, price *pricing.Price, lines []pricing.Line) *Settlement {
	st := &Settlement{
		Feature: e.Call.Feature, Tier: e.Call.Tier, Model: e.Call.Model, Cost: e.Amount, Forced: e.Forced,
		Released: released(e), Late: e.Late, Lines: lines, Currency: price.Currency,
		Time:    e.Time.Truncate(time.Millisecond), // as the journal keeps it
		Journal: fmt.Sprintf("jr/%s/%d", e.Batch.Owner, e.Batch.N),
	}
	if e.Mark != 0 { // neither is kept
		st.Time, st.Journal = time.Time{}, ""
	}
	return st
}

func released(e *ledger.Entry) money.Nanos {
	if e.Late {
		return 0
	}
	return max(0, e.Held-e.Amount)
}

// Release gives a hold back. Errors: ledger.ErrUnknownHold, *SettledError, *ExpiredError, *UnavailableError.
func (s *Service) Release(ctx context.Context, token string) (money.Nanos, error) {
	claim, err := s.claim(token, false)
	if err != nil {
		return 0, err
	}
	e, err := s.finish(ctx, claim, func(now time.Time) (*ledger.Entry, *ledger.Journaled, error) {
		return s.ledger.Release(now, claim)
	})
	if err != nil {
		return 0, s.over(ctx, claim, err)
	}
	return e.Held, nil
}

// over says more of a hold that is over: when it expired, or what it was settled at.
func (s *Service) over(ctx context.Context, claim *ledger.Claim, err error) error {
	if unread, ok := errors.AsType[*ledger.NotLoadedError](err); ok {
		if err := s.recall(ctx, claim, unread); err != nil {
			return err
		}
		err = claim.Found.Mark.Ended()
	}
	switch {
	case errors.Is(err, ledger.ErrExpired):
		return &ExpiredError{claim.Expires}
	case errors.Is(err, ledger.ErrSettled), errors.Is(err, ledger.ErrReleased): // true once that is committed
		first, err := s.finish(ctx, claim, func(time.Time) (*ledger.Entry, *ledger.Journaled, error) { return s.ledger.Ended(claim) })
		switch {
		case errors.Is(err, ledger.ErrAgain):
			return &UnavailableError{"the end of the hold that was under way was not written"}
		case err != nil:
			return err
		case first.Kind == ledger.KindRelease:
			return ledger.ErrReleased
		}
		return &SettledError{first.Amount, first.Kind}
	}
	return err
}

// Extend makes a live hold last until now+ttl; its new token and expiry. Errors: *TTLError, ledger.ErrUnknownHold,
// ledger.ErrReleased, *SettledError, *ExpiredError, *UnavailableError.
func (s *Service) Extend(ctx context.Context, token string, ttl time.Duration) (*Hold, error) {
	claim, err := s.sealer.open(token)
	if err != nil {
		return nil, err
	}
	if ttl <= 0 || ttl > s.MaxTTL {
		return nil, &TTLError{ttl, s.MaxTTL}
	}
	if err := s.alive(s.Clock.Boot()); err != nil {
		return nil, err
	}
	if claim.Owner != s.ledger.Owner {
		s.mu.Lock()
		mine := s.ledger.Predecessor(claim.Owner) != nil
		s.mu.Unlock()
		if !mine {
			if err := s.lookFor(ctx, claim.Owner); err != nil {
				return nil, err
			}
		}
		// The server that made the hold is gone: its money is set aside until the hold expires, and no longer.
		return nil, &ExpiredError{claim.Expires}
	}
	s.mu.Lock()
	h, err := s.ledger.Extend(s.Clock.Now(), claim.Seq, ttl)
	if err != nil {
		s.mu.Unlock()
		return nil, s.over(ctx, claim, err)
	}
	expires := h.Expires
	s.mu.Unlock()
	return &Hold{s.sealer.seal(s.ledger.Owner, h, expires), h.Amount, expires}, nil
}

// finish queues the end of a hold, opening its accounts and taking over its owner where that is needed, and waits until
// it is committed. It gives the entry that stands in the journal: an earlier one where the hold was ended before.
func (s *Service) finish(ctx context.Context, claim *ledger.Claim, queue func(time.Time) (*ledger.Entry, *ledger.Journaled, error)) (*ledger.Entry, error) {
	for {
		s.mu.Lock()
		if s.failure != nil {
			err := &UnavailableError{s.failure.Error()}
			s.mu.Unlock()
			return nil, err
		}
		e, before, err := queue(s.Clock.Now())
		s.mu.Unlock()
		var unread *ledger.NotLoadedError
		switch {
		case errors.Is(err, ledger.ErrNotOpen):
			if err := s.openPath(ctx, claim.Path); err != nil {
				return nil, err
			}
		case errors.Is(err, ledger.ErrNotTaken):
			if err := s.lookFor(ctx, claim.Owner); err != nil {
				return nil, err
			}
		case errors.Is(err, ledger.ErrStale):
			if err := s.refresh(ctx, claim.Path); err != nil {
				return nil, err
			}
		case errors.As(err, &unread):
			if err := s.recall(ctx, claim, unread); err != nil {
				return nil, err
			}
		case err != nil && e == nil:
			return nil, err
		case before != nil:
			return s.journaled(ctx, claim, before)
		default:
			s.wake()
			if unknown := s.await(ctx, e.Batch.Done, "etcd has not confirmed the settlement: whether it was recorded is unknown"); unknown != nil {
				return nil, unknown
			}
			switch {
			case errors.Is(e.Batch.Err, ledger.ErrAgain), errors.Is(err, ledger.ErrAgain):
			case e.Batch.Err != nil:
				return e, e.Batch.Err
			default:
				return e, err
			}
		}
	}
}

// openPath opens accounts by their ids.
func (s *Service) openPath(ctx context.Context, ids []ledger.AccountID) error {
	snap := s.Control.Snapshot()
	for {
		s.mu.Lock()
		missing := false
		for _, id := range ids {
			if s.ledger.Account(id) == nil {
				missing = true
				s.toOpen[id] = openingOf(snap, id)
			}
		}
		changed := s.changed
		s.mu.Unlock()
		if !missing {
			return nil
		}
		s.wake()
		if err := s.await(ctx, changed, "etcd does not answer, so the budgets' state is not known"); err != nil {
			return err
		}
	}
}

// refresh reads again what other owners have of accounts, openAtOnce at a time.
func (s *Service) refresh(ctx context.Context, ids []ledger.AccountID) error {
	for part := range slices.Chunk(ids, openAtOnce) {
		opened, err := s.Ledger.Open(ctx, part)
		if err != nil {
			return &UnavailableError{err.Error()}
		}
		s.reload(opened)
	}
	return nil
}

func (s *Service) reload(opened []ledger.Opened) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	s.ledger.Refresh(opened, now)
	for i := range opened {
		if a := s.ledger.Account(opened[i].ID); a != nil {
			s.alerts = append(s.alerts, a.Due(now)...)
		}
	}
}

// Use is usage that had no hold.
type Use struct {
	Call      routing.Call // without estimate
	Model     string
	Usage     usage.Usage
	Outcome   usage.Outcome
	RequestID string
	// BodyHash tells one request from another under the same id.
	BodyHash []byte
}

// RecordUsage prices usage that had no hold and commits it as forced spend on every budget of the feature's path. Once
// for each request id. Errors: *FeatureUnknownError, *KeyRequiredError, *pricing.UnpricedError, *CurrencyError,
// *RequestConflictError, usage.ErrInvalid, money.ErrOverflow, *UnavailableError.
func (s *Service) RecordUsage(ctx context.Context, use *Use) (*Settlement, error) {
	mine, err := s.beginUsage(ctx, use.RequestID)
	if err != nil {
		return nil, err
	}
	defer s.endUsage(use.RequestID, mine)
	return s.recordUsage(ctx, use, mine)
}

func (s *Service) recordUsage(ctx context.Context, use *Use, mine *usageUnderWay) (*Settlement, error) {
	snap, now := s.Control.Snapshot(), s.Clock.Now()
	first, err := s.Ledger.Usage(ctx, use.RequestID)
	switch {
	case err == nil && !bytes.Equal(first.RequestHash, use.BodyHash):
		return nil, &RequestConflictError{use.RequestID}
	case err == nil:
		currency := ""
		if c := snap.Charter(use.Call.Feature); c != nil {
			if b := snap.Budget(c.Budget); b != nil {
				currency = b.Currency
			}
		}
		price, cost, lines, err := s.cost(&use.Usage, use.Model, currency, pricing.Terms{ServiceTier: use.Call.ServiceTier, Region: use.Call.Region, Time: first.Call.Time})
		if err != nil {
			return nil, err
		}
		if cost != first.Amount { // the price was changed since: the first answer stands, without its lines
			lines = nil
		}
		return settlement(first, price, lines), nil
	case !errors.Is(err, store.ErrNotFound):
		return nil, &UnavailableError{err.Error()}
	}
	c := snap.Charter(use.Call.Feature)
	if c == nil {
		return nil, &FeatureUnknownError{use.Call.Feature}
	}
	var buf [6]step
	path, _, err := s.path(buf[:0], snap, c, &use.Call, now)
	if e, ok := errors.AsType[*KeyRequiredError](err); ok {
		e.Field = e.Per.String()
	}
	if err != nil {
		return nil, err
	}
	price, cost, lines, err := s.cost(&use.Usage, use.Model, path[0].budget.Currency, pricing.Terms{ServiceTier: use.Call.ServiceTier, Region: use.Call.Region, Time: now})
	if err != nil {
		return nil, err
	}
	if _, _, err := s.accounts(ctx, nil, nil, snap, c.ID, path, now); err != nil {
		return nil, err
	}
	ids := make([]ledger.AccountID, len(path))
	for i := range path {
		ids[i] = path[i].id
	}
	entry := ledger.Entry{
		Amount: cost, Usage: use.Usage, Outcome: use.Outcome, RequestID: use.RequestID, RequestHash: use.BodyHash,
		Call: ledger.Call{
			Feature: c.ID, Model: use.Model, User: use.Call.User, Cohort: use.Call.Cohort, Agent: use.Call.Agent,
			Run: use.Call.Run, PromptPattern: use.Call.PromptPattern, Task: use.Call.Task, ServiceTier: use.Call.ServiceTier, Region: use.Call.Region, Time: now,
		},
	}
	if m := snap.Catalog().Model(use.Model); m != nil {
		entry.Call.Tier = m.Tier
	}
	s.components(&entry, price, "", pricing.Terms{})
	e, err := s.finish(ctx, &ledger.Claim{Path: ids}, func(now time.Time) (*ledger.Entry, *ledger.Journaled, error) {
		if mine.entry != nil { // it was not written: another replica may have recorded the request
			return nil, nil, ledger.ErrAgain
		}
		e, err := s.ledger.Use(now, ids, entry)
		mine.entry = e
		return e, nil, err
	})
	if errors.Is(err, ledger.ErrAgain) {
		mine.entry = nil
		return s.recordUsage(ctx, use, mine)
	}
	if err != nil {
		return nil, err
	}
	return settlement(e, price, lines), nil
}

// usageUnderWay is the one request of its id that may look for an earlier record and queue a new one.
type usageUnderWay struct {
	entry *ledger.Entry // once it is queued
	left  bool          // its caller does not wait any more
	over  chan struct{} // closed when what it queued is committed or given up
}

// beginUsage waits until no other request of the id is under way: its record cannot be found before it is committed.
func (s *Service) beginUsage(ctx context.Context, id string) (*usageUnderWay, error) {
	for {
		s.mu.Lock()
		other := s.usages[id]
		if other == nil {
			mine := &usageUnderWay{over: make(chan struct{})}
			s.usages[id] = mine
			s.mu.Unlock()
			return mine, nil
		}
		s.mu.Unlock()
		if err := s.await(ctx, other.over, "etcd has not confirmed the usage of the same request: whether it was recorded is unknown"); err != nil {
			return nil, err
		}
	}
}

// endUsage lets the next request of the id go on. A caller that does not wait leaves its entry queued: then usagesOver does.
func (s *Service) endUsage(id string, mine *usageUnderWay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mine.entry != nil {
		select {
		case <-mine.entry.Batch.Done:
		default:
			mine.left = true
			return
		}
	}
	delete(s.usages, id)
	close(mine.over)
}

// usagesOver ends the usages of a batch that is committed or given up, whose callers do not wait. Called with the lock.
func (s *Service) usagesOver(b *ledger.Batch) {
	for _, e := range b.Entries {
		if u := s.usages[e.RequestID]; e.RequestID != "" && u != nil && u.left {
			delete(s.usages, e.RequestID)
			close(u.over)
		}
	}
}
