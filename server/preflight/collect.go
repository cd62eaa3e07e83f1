package preflight

import (
	"context"
	"errors"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
)

// When settlements leave the journal for the outbox.
const (
	collectAfter = time.Minute      // after they were made
	collectEvery = 10 * time.Second // so that marks are written for many at once
	collectBytes = 16 << 20         // beyond these in the own journal, at once
	othersEvery  = time.Minute      // for the journals of owners that are gone
	tidyEvery    = time.Hour        // from the end of one round to the next
)

// Collect moves settlements out of etcd into the outbox, and deletes what was kept for its time, until ctx ends or the
// ownership is lost. Without an outbox it does nothing.
func (s *Service) Collect(ctx context.Context) {
	if s.Outbox == nil {
		return
	}
	var own, others, tidied time.Time
	for !s.pause(ctx, time.Second) {
		now := s.Clock.Now()
		before := time.Time{} // by volume alone
		if now.Sub(own) >= collectEvery {
			before, own = now.Add(-collectAfter), now
		}
		// gofail: var collectAtOnce struct{}
		// before = now
		err := s.collect(ctx, s.ledger.Owner, before)
		if err == nil && now.Sub(others) >= othersEvery {
			others = now
			err = s.collectOthers(ctx, now.Add(-collectAfter))
		}
		if err == nil && now.Sub(tidied) >= tidyEvery {
			var done bool
			if done, err = s.Ledger.Tidy(ctx); done {
				tidied = now
			}
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, store.ErrFenced):
			return
		case errors.Is(err, store.ErrConflict): // read again in the next round
		case err != nil:
			batches, bytes := s.Ledger.Lag()
			s.Log.Warn("settlements are not collected out of etcd; trying again", "batches", batches, "bytes", bytes, "error", err)
		}
	}
}

// collectOthers collects what owners that are gone have left.
func (s *Service) collectOthers(ctx context.Context, before time.Time) error {
	owners, err := s.Ledger.Journals(ctx)
	for _, owner := range owners {
		if err == nil {
			err = s.collect(ctx, owner, before)
		}
	}
	return err
}

// collect moves what is due of one journal.
func (s *Service) collect(ctx context.Context, owner string, before time.Time) error {
	for ctx.Err() == nil {
		s.mu.Lock()
		below, loaded := s.ledger.Committed(owner)
		s.mu.Unlock()
		if !loaded {
			below = 1<<64 - 1
		}
		// gofail: var beforeCollect struct{}
		done, err := s.Ledger.Collect(ctx, s.Outbox, store.Collection{Owner: owner, Below: below, Before: before, Keep: collectBytes})
		// gofail: var afterCollect struct{}
		if done.Next > 0 {
			s.mu.Lock()
			s.ledger.Collected(owner, done.Next)
			s.mu.Unlock()
		}
		if err != nil || !done.More {
			return err
		}
	}
	return ctx.Err()
}

// JournalLag says what the own journal holds that is not collected yet.
func (s *Service) JournalLag() (batches int, bytes int64) { return s.Ledger.Lag() }

// recall reads how a hold ended that memory has let go of, for the ledger to be asked again.
func (s *Service) recall(ctx context.Context, claim *ledger.Claim, unread *ledger.NotLoadedError) error {
	m, err := s.Ledger.Mark(ctx, claim.Owner, claim.Seq)
	if err != nil {
		return &UnavailableError{err.Error()}
	}
	claim.Found = &ledger.Found{Mark: m, Generation: unread.Generation}
	return nil
}

// journaled reads the entry of a hold that ended before. Where its batch was collected it is known by its mark alone.
func (s *Service) journaled(ctx context.Context, claim *ledger.Claim, before *ledger.Journaled) (*ledger.Entry, error) {
	m := before.Mark
	if m == 0 {
		e, err := s.Ledger.Entry(ctx, before.Owner, before.Batch, claim.Seq)
		if err == nil {
			return e, nil
		}
		if errors.Is(err, store.ErrNotFound) { // collected meanwhile
			m, err = s.Ledger.Mark(ctx, claim.Owner, claim.Seq)
		}
		if err != nil {
			return nil, &UnavailableError{err.Error()}
		}
	}
	if m == 0 {
		return nil, ledger.ErrUnknownHold // older than the marks
	}
	return claim.Marked(m), nil
}

// repeated completes the first settlement of a hold, where that is known by its mark alone, with the cost at which it is
// settled again.
func repeated(e *ledger.Entry, cost money.Nanos, call ledger.Call) {
	if e.Mark != 0 {
		e.At(cost, call)
	}
}
