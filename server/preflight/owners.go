package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
)

// ForwardError says that another replica has to answer: the one that made the hold or looks after it, or the one that
// holds what is left of a budget.
type ForwardError struct{ Owner, Addr string }

func (e *ForwardError) Error() string {
	return fmt.Sprintf("replica %s at %s has to answer this", e.Owner, e.Addr)
}

type hereKey struct{}

// Here marks a call that must not be forwarded: it was, or it could not be. Near a ceiling this replica then takes what
// it can.
func Here(ctx context.Context) context.Context { return context.WithValue(ctx, hereKey{}, true) }

func isHere(ctx context.Context) bool { return ctx.Value(hereKey{}) != nil }

// forward is the error that sends a call to another replica, or says that it cannot be sent on again.
func forward(ctx context.Context, owner, addr string) error {
	if isHere(ctx) {
		return &UnavailableError{"the hold is another server's, and which one changes right now"}
	}
	return &ForwardError{owner, addr}
}

// toHome sends a call to the home replica of its budgets; nil where that is this one, or cannot be reached. Called with
// the lock.
func (s *Service) toHome(ctx context.Context, q *query) error {
	home := s.ledger.Home(q.accounts[0].Terms().Root)
	addr := s.addr(home)
	if home == s.ledger.Owner || addr == "" || isHere(ctx) {
		return nil
	}
	return &ForwardError{home, addr}
}

// lookFor finds who answers for the holds of another owner: nil once this replica does. Errors: *ForwardError,
// ledger.ErrUnknownHold, *UnavailableError.
func (s *Service) lookFor(ctx context.Context, owner string) error {
	s.mu.Lock()
	if addr := s.addr(owner); addr != "" {
		s.mu.Unlock()
		return forward(ctx, owner, addr)
	}
	if by := s.roster.Successors[owner]; by != "" && by != s.ledger.Owner {
		if addr := s.addr(by); addr != "" {
			s.mu.Unlock()
			return forward(ctx, by, addr)
		}
	}
	if other := s.taking[owner]; other != nil {
		s.mu.Unlock()
		return s.await(ctx, other, "etcd does not answer, so the holds of a server that is gone are not known")
	}
	mine := make(chan struct{})
	s.taking[owner] = mine
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.taking, owner)
		s.mu.Unlock()
		close(mine)
	}()
	return s.seek(ctx, owner)
}

// seek is lookFor by the store's word.
func (s *Service) seek(ctx context.Context, owner string) error {
	w, err := s.Ledger.Find(ctx, owner)
	switch {
	case err != nil:
		return &UnavailableError{err.Error()}
	case !w.Known:
		return ledger.ErrUnknownHold
	case w.Addr != "" && guard.OwnerGone:
		return forward(ctx, owner, w.Addr)
	case w.Closed:
		return s.loadJournal(ctx, ledger.Predecessor{Owner: owner, Closed: true})
	case w.Successor != "" && w.Successor != s.ledger.Owner:
		other, err := s.Ledger.Find(ctx, w.Successor)
		if err != nil || other.Addr == "" {
			return &UnavailableError{"the server that looks after the hold does not answer"}
		}
		return forward(ctx, w.Successor, other.Addr)
	}
	return s.takeOver(ctx, owner)
}

// takeOver looks after an owner that is gone from now on.
func (s *Service) takeOver(ctx context.Context, owner string) error {
	// gofail: var beforeTakeOver struct{}
	t, err := s.Ledger.TakeOver(ctx, owner, ledger.Quarantine(s.MaxTTL))
	if err != nil { // another replica may have been faster: the next look tells
		return &UnavailableError{err.Error()}
	}
	// gofail: var afterTakeOver struct{}
	if err := s.loadJournal(ctx, ledger.Predecessor{Owner: owner, Ready: t.Ready, Rev: t.Rev}); err != nil {
		return err
	}
	if s.Meter != nil { // its server may not have counted the last of them
		if err := s.Ledger.Batches(ctx, owner, s.Meter.Left); err != nil {
			s.Log.Debug("what a server that is gone has settled is counted as it leaves etcd", "owner", owner, "reason", err)
		}
	}
	s.Metrics.Event(EventTakeover)
	s.Log.Info("took over the holds of a server that is gone", "owner", owner, "quarantined_until", t.Ready)
	return nil
}

// loadJournal reads what an owner has settled, which nobody else writes any more or every append finds out.
func (s *Service) loadJournal(ctx context.Context, p ledger.Predecessor) error {
	next, hash, settled, err := s.Ledger.Journal(ctx, p.Owner)
	if err != nil {
		return &UnavailableError{err.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ledger.Predecessor(p.Owner) == nil {
		p.Used = s.Clock.Now()
		s.ledger.TakeOver(p).LoadJournal(next, hash, settled)
	}
	return nil
}

// takeOverGone takes over owners that are gone: at once those that hashing gives to this replica, after two rosters also
// those that their replica did not take.
func (s *Service) takeOverGone(ctx context.Context) {
	s.mu.Lock()
	var gone []string
	for _, owner := range s.roster.Gone {
		p := s.ledger.Predecessor(owner)
		if (p == nil || p.Closed) && (s.roster.Successors[owner] == s.ledger.Owner || s.ledger.Home(owner) == s.ledger.Owner || s.seen[owner] > 2) {
			gone = append(gone, owner)
		}
	}
	for owner, by := range s.roster.Successors { // a takeover of ours whose answer was lost
		if by == s.ledger.Owner && s.ledger.Predecessor(owner) == nil {
			gone = append(gone, owner)
		}
	}
	slices.Sort(gone)
	s.roster.Gone = nil
	s.mu.Unlock()
	for _, owner := range gone {
		if err := s.lookFor(Here(ctx), owner); err != nil && ctx.Err() == nil {
			s.Log.Debug("a server that is gone was not taken over", "owner", owner, "reason", err)
		}
	}
}

// closedFor is how long what a closed owner has settled stays in memory after a late settlement asked for it.
const closedFor = time.Minute

// reclaim frees the grants of owners whose quarantine is over.
func (s *Service) reclaim(ctx context.Context, now time.Time) error {
	snap := s.Control.Snapshot()
	s.mu.Lock()
	var ready []*ledger.Predecessor
	for _, p := range append([]*ledger.Predecessor(nil), s.ledger.Predecessors()...) {
		switch {
		case p.Closed && now.Sub(p.Used) > closedFor:
			s.ledger.LetGo(p)
		case !p.Closed && !now.Before(p.Ready):
			ready = append(ready, p)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, p := range ready { // one that cannot be reclaimed does not hold up the others
		errs = append(errs, s.reclaimOf(ctx, snap, p, now))
	}
	return errors.Join(errs...)
}

func (s *Service) reclaimOf(ctx context.Context, snap *charter.Snapshot, p *ledger.Predecessor, now time.Time) error {
	if !p.Known {
		ids, err := s.Ledger.Grants(ctx, p.Owner)
		if err != nil {
			return err
		}
		p.Accounts, p.Known = ids, true
	}
	s.mu.Lock()
	missing := s.ledger.Missing(p, openAtOnce)
	for _, id := range missing {
		s.toOpen[id] = openingOf(snap, id)
	}
	s.mu.Unlock()
	if len(missing) > 0 {
		if _, err := s.openAccounts(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	changes, done := s.ledger.NextReclaim(now, p)
	s.mu.Unlock()
	switch {
	case len(changes) > 0:
		// gofail: var beforeReclaim struct{}
		rev, err := s.Ledger.Reclaim(ctx, p.Owner, changes)
		// gofail: var afterReclaim struct{}
		// err = store.ErrUnavailable
		if errors.Is(err, store.ErrQuarantined) {
			return nil
		}
		if err != nil {
			return s.resolve(ctx, changes, err)
		}
		s.mu.Lock()
		s.ledger.Reclaimed(p, changes, rev, now)
		s.announce()
		s.mu.Unlock()
	case done:
		// gofail: var beforeCloseOwner struct{}
		if err := s.Ledger.CloseOwner(ctx, p.Owner); err != nil {
			return err
		}
		// gofail: var afterCloseOwner struct{}
		s.mu.Lock()
		s.ledger.LetGo(p)
		s.mu.Unlock()
		s.Metrics.Event(EventReclaim)
		s.Log.Info("reclaimed the grants of a server that is gone", "owner", p.Owner)
	}
	return nil
}
