package preflight

import (
	"context"
	"errors"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
)

// rollOver begins accounts that are new with the unspent rest of the period before, up to the budget's cap. What is held
// then counts as spent. found takes the records that were written.
func (s *Service) rollOver(ctx context.Context, found []ledger.Opened, batch map[ledger.AccountID]opening) error {
	for i := range found {
		o := &found[i]
		b := batch[o.ID].budget
		if o.Budget.Rev != 0 || b == nil || b.RolloverCap == 0 || o.ID.Overflow != "" {
			continue
		}
		span, ok := b.Period.Before(batch[o.ID].span)
		if !ok || !b.Created.Before(span.End) {
			continue
		}
		before := o.ID
		before.Start, before.End = span.Start.Unix(), span.End.Unix()
		if err := s.rollOverFrom(ctx, before, o, batch[o.ID]); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) rollOverFrom(ctx context.Context, before ledger.AccountID, o *ledger.Opened, opening opening) error {
	for {
		read, err := s.Ledger.Open(ctx, []ledger.AccountID{before, o.ID})
		if err != nil {
			return err
		}
		prev := &read[0]
		*o = read[1]
		if prev.Budget.Rev == 0 && o.ID.Key != "" {
			return nil // nobody of that key was seen
		}
		s.mu.Lock()
		changes, ok := s.ledger.RollOver(o, prev, opening.terms, terms(s.Control.Snapshot(), before, ""), opening.budget.RolloverCap)
		s.mu.Unlock()
		if !ok {
			return nil
		}
		rev, err := s.Ledger.Adjust(ctx, changes)
		if err == nil {
			s.mu.Lock()
			if s.ledger.Account(before) != nil {
				s.ledger.AdjustmentCommitted(&ledger.Adjustment{Changes: changes[:1]}, rev, s.Clock.Now())
			}
			s.mu.Unlock()
			o.Budget, o.Rev = changes[1].Budget, rev
			o.Budget.Rev = rev
			return nil
		}
		if err := s.resolve(ctx, changes, err); err != nil {
			return err
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnavailable) {
			return err
		}
	}
}
