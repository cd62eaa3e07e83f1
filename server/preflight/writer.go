package preflight

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
)

// How often the writer looks after what no call asks for.
const (
	expireEvery = time.Second
	sweepEvery  = 3 * time.Second
	closeEvery  = time.Minute
	alarmEvery  = 5 * time.Second // each time every account near a threshold is read
	retryAfter  = 100 * time.Millisecond
)

// Run keeps the session alive, commits what calls queue, one transaction at a time, and follows what other replicas
// grant themselves, until ctx ends; then it returns all idle money and resigns. Error: store.ErrFenced when the ownership
// is lost; the process must stop then.
func (s *Service) Run(ctx context.Context) error {
	live, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.Beat(live) })
	running.Go(func() { s.Watch(live) })
	running.Go(func() { s.Collect(live) })
	err := s.Write(ctx)
	stop()
	running.Wait()
	return err
}

// Write commits what calls queue until ctx ends; then it drains.
func (s *Service) Write(ctx context.Context) error {
	var last housekept
	for {
		worked, linger, err := s.work(ctx)
		switch {
		case errors.Is(err, store.ErrFenced):
			return s.fail(err)
		case err != nil && ctx.Err() == nil:
			s.Log.Warn("etcd does not take a transaction; trying again", "error", err)
			s.pause(ctx, retryAfter)
		}
		s.mu.Lock()
		failure := s.failure
		s.mu.Unlock()
		if failure != nil {
			return failure
		}
		if ctx.Err() != nil {
			return s.drain()
		}
		if now := s.Clock.Boot(); now-last.at >= expireEvery {
			last.at = now
			s.housekeep(ctx, &last)
		} else if !worked && err == nil {
			wait := expireEvery - (now - last.at)
			if linger > 0 {
				wait = min(wait, linger)
			}
			s.hurry = s.Clock.Wait(ctx, s.kick, wait) != nil && linger > 0
		}
	}
}

// pause waits; ended says that ctx has.
func (s *Service) pause(ctx context.Context, d time.Duration) (ended bool) {
	return !errors.Is(s.Clock.Wait(ctx, nil, d), ErrWaited)
}

// Beat sends heartbeats until ctx ends or the ownership is lost.
func (s *Service) Beat(ctx context.Context) {
	every := ledger.HeartbeatEvery
	for !s.pause(ctx, every) {
		err := s.heartbeat(ctx)
		switch {
		case errors.Is(err, store.ErrFenced):
			_ = s.fail(err) // Write returns it
			s.wake()
			return
		case err != nil && ctx.Err() == nil:
			s.Log.Warn("the heartbeat got no answer", "error", err)
			every = ledger.HeartbeatEvery / 4
		default:
			every = ledger.HeartbeatEvery
		}
	}
}

// Watch follows the budgets that other replicas write until ctx ends.
func (s *Service) Watch(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.Ledger.Watch(ctx, func(id ledger.AccountID, b ledger.Budget) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.ledger.Observe(id, b, s.Clock.Now()) {
				s.announce()
				s.wake()
			}
		})
		if ctx.Err() != nil {
			return
		}
		s.Log.Warn("the watch of the budgets broke; they are read again", "error", err)
		s.mu.Lock()
		var ids []ledger.AccountID
		for _, a := range s.ledger.Accounts() {
			ids = append(ids, a.ID)
		}
		s.mu.Unlock()
		_ = s.refresh(ctx, ids) // best effort: every write is compared with what etcd has
		s.pause(ctx, retryAfter)
	}
}

// fail stops the service for good: nobody gets another answer from it.
func (s *Service) fail(err error) error {
	s.deadline.Store(0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = err
	s.ledger.Abandon(&UnavailableError{err.Error()})
	s.announce()
	return err
}

// housekept is when the writer last did what it does rarely.
type housekept struct {
	at                     time.Duration // by Clock.Boot
	swept, closed, alarmed time.Time
}

// due says whether something is to be done again, and takes that it is done.
func due(last *time.Time, now time.Time, every time.Duration) bool {
	if since := now.Sub(*last); since >= 0 && since < every {
		return false
	}
	*last = now
	return true
}

// housekeep frees what has expired, and more rarely sweeps, closes and reclaims.
func (s *Service) housekeep(ctx context.Context, last *housekept) {
	now := s.Clock.Now()
	s.mu.Lock()
	freed, charged := s.ledger.Expire(now)
	if freed > 0 {
		s.announce()
	}
	if due(&last.swept, now, sweepEvery) {
		s.ledger.Sweep(now)
	}
	if due(&last.closed, now, closeEvery) {
		s.ledger.CloseIdle(now)
	}
	var alarming []ledger.AccountID
	if due(&last.alarmed, now, alarmEvery) {
		alarming = s.ledger.Alarming(now)
	}
	s.mu.Unlock()
	if freed+charged > 0 {
		s.Log.Info("holds expired unsettled", "released", freed, "charged", charged)
	}
	_ = s.refresh(ctx, alarming) // those that are missed are alarming still
	s.takeOverGone(ctx)
	if err := s.reclaim(ctx, now); err != nil && ctx.Err() == nil {
		s.Log.Warn("the grants of a server that is gone could not be reclaimed yet", "error", err)
	}
}

// work does one round: accounts to open, grants, one batch, alerts. worked says that there may be more; linger, that a
// batch waits for more entries.
func (s *Service) work(ctx context.Context) (worked bool, linger time.Duration, err error) {
	if s.unresolved != nil { // ctx ended before: what became of a transaction must be known before its accounts are used
		if err := s.resolve(ctx, s.unresolved, store.ErrUnavailable); err != nil {
			return false, 0, err
		}
	}
	opened, err := s.openAccounts(ctx)
	if err != nil {
		return false, 0, err
	}
	adjusted, err := s.adjust(ctx)
	if err != nil {
		return false, 0, err
	}
	appended, linger, err := s.append(ctx)
	if err != nil {
		return false, 0, err
	}
	return opened || adjusted || appended, linger, s.recordAlerts(ctx)
}

// openAtOnce bounds one round, so that settlements do not wait for many openings.
const openAtOnce = 200

func (s *Service) openAccounts(ctx context.Context) (bool, error) {
	s.mu.Lock()
	batch := make(map[ledger.AccountID]opening, min(len(s.toOpen), openAtOnce))
	ids := make([]ledger.AccountID, 0, len(batch))
	for id, o := range s.toOpen {
		if len(ids) == openAtOnce {
			break
		}
		batch[id] = o
		ids = append(ids, id)
	}
	s.mu.Unlock()
	slices.SortFunc(ids, ledger.AccountID.Compare) // what happens does not depend on the order of a map
	if len(ids) == 0 {
		return false, nil
	}
	found, err := s.Ledger.Open(ctx, ids)
	if err != nil {
		return false, err
	}
	if err := s.rollOver(ctx, found, batch); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock.Now()
	for _, o := range found {
		a := s.ledger.Open(o, batch[o.ID].terms, now)
		s.alerts = append(s.alerts, a.Due(now)...)
		delete(s.toOpen, o.ID)
	}
	s.announce()
	return true, nil
}

func (s *Service) adjust(ctx context.Context) (bool, error) {
	s.mu.Lock()
	looked := s.ledger.WantsAdjustment()
	adj, ok := s.ledger.NextAdjustment(s.Clock.Now())
	if looked && !ok {
		s.announce() // no grant will come: who waits has to look again
	}
	s.mu.Unlock()
	if !ok {
		return false, nil
	}
	// gofail: var afterDebit struct{}
	rev, err := s.Ledger.Adjust(ctx, adj.Changes)
	// gofail: var afterAdjust struct{}
	// err = store.ErrUnavailable
	if err == nil {
		s.mu.Lock()
		s.ledger.AdjustmentCommitted(adj, rev, s.Clock.Now())
		s.announce()
		s.mu.Unlock()
		return true, nil
	}
	return true, s.resolve(ctx, adj.Changes, err)
}

// resolve finds out what became of a transaction, for as long as it takes: until then its accounts must not be written.
func (s *Service) resolve(ctx context.Context, changes []ledger.AccountChange, err error) error {
	ids := make([]ledger.AccountID, len(changes))
	for i, c := range changes {
		ids[i] = c.ID
	}
	s.unresolved = changes
	switch {
	case errors.Is(err, store.ErrConflict):
		s.Metrics.Event(EventConflict)
	case !errors.Is(err, store.ErrFenced):
		s.Metrics.Event(EventUnknown)
	}
	for {
		var opened []ledger.Opened
		var rerr error
		switch {
		case errors.Is(err, store.ErrFenced):
			return err
		case errors.Is(err, store.ErrConflict): // it has not landed, and never will
			opened, rerr = s.Ledger.Open(ctx, ids)
		default:
			// gofail: var beforeResolve struct{}
			opened, rerr = s.Ledger.Resolve(ctx, changes)
			// gofail: var afterResolve struct{}
		}
		if rerr == nil {
			s.mu.Lock()
			s.ledger.Reload(opened, s.Clock.Now())
			s.announce()
			s.mu.Unlock()
			s.unresolved = nil
			return nil
		}
		if errors.Is(rerr, store.ErrFenced) {
			return rerr
		}
		if s.pause(ctx, retryAfter) {
			return rerr
		}
	}
}

func (s *Service) append(ctx context.Context) (worked bool, linger time.Duration, err error) {
	b := s.unsure
	if b == nil {
		s.mu.Lock()
		b, linger = s.ledger.NextBatch(s.Clock.Now(), s.hurry)
		s.hurry = false
		s.mu.Unlock()
	}
	if b == nil {
		return false, linger, nil
	}
	s.unsure = b
	start := s.Clock.Boot()
	for {
		// gofail: var beforeAppend struct{}
		rev, hash, err := s.Ledger.Append(ctx, b)
		// gofail: var beforeAcknowledge struct{}
		// err = store.ErrUnavailable
		switch {
		case err == nil:
			s.unsure = nil
			s.Metrics.Batch(len(b.Entries), (s.Clock.Boot() - start).Seconds())
			s.mu.Lock()
			if err := s.failure; err != nil { // the heartbeat found out first, and all that is queued is given up
				s.mu.Unlock()
				return false, 0, err
			}
			s.alerts = append(s.alerts, s.ledger.BatchCommitted(b, rev, hash, s.Clock.Now())...)
			s.usagesOver(b)
			s.mu.Unlock()
			if s.Meter != nil {
				s.Meter.Committed(b)
			}
			// gofail: var afterAcknowledge struct{}
			return true, 0, nil
		case errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrTaken) && b.Owner == s.ledger.Owner:
			return false, 0, store.ErrFenced
		case errors.Is(err, store.ErrTaken): // the journal is read again by who still needs it
			s.unsure = nil
			s.mu.Lock()
			s.ledger.LetGo(s.ledger.Predecessor(b.Owner))
			s.mu.Unlock()
			return true, 0, nil
		case errors.Is(err, store.ErrRecorded):
			s.unsure = nil
			s.mu.Lock()
			if err := s.failure; err != nil {
				s.mu.Unlock()
				return false, 0, err
			}
			s.ledger.BatchDropped(b, ledger.ErrAgain)
			s.usagesOver(b)
			s.mu.Unlock()
			return true, 0, nil
		case errors.Is(err, store.ErrConflict): // not written: read again what is stored, then make the batch anew
			if err := s.resolve(ctx, b.Changes, err); err != nil {
				return false, 0, err
			}
			s.unsure = nil
			s.mu.Lock()
			s.ledger.BatchRetry(b)
			s.mu.Unlock()
			return true, 0, nil
		}
		s.Metrics.Event(EventUnknown)
		s.Log.Warn("a batch of settlements got no answer; appending it again", "batch", b.N, "entries", len(b.Entries), "error", err)
		if s.pause(ctx, retryAfter) {
			// Whether it was committed is unknown to those who wait.
			return false, 0, err
		}
	}
}

func (s *Service) recordAlerts(ctx context.Context) error {
	s.mu.Lock()
	due := s.alerts
	s.alerts = nil
	s.mu.Unlock()
	for i, a := range due {
		if b := s.Control.Snapshot().Budget(a.ID.Budget); b != nil {
			a.OwnerName, a.OwnerMail = b.Owner.Name, b.Owner.Email
		}
		first, err := s.Ledger.RecordAlert(ctx, a)
		if err != nil {
			s.mu.Lock()
			s.alerts = append(s.alerts, due[i:]...)
			s.mu.Unlock()
			return err
		}
		if first {
			s.Metrics.Alert()
			s.Log.Warn("budget alert", "budget", statusName(a.ID), "threshold_permille", a.Permille,
				"settled", a.Settled.String(), "limit", a.Limit.String(), "owner", a.OwnerName)
		}
	}
	return nil
}

// openingOf is how to open an account by its id alone.
func openingOf(snap *charter.Snapshot, id ledger.AccountID) opening {
	o := opening{terms: terms(snap, id, "")}
	if b := snap.Budget(id.Budget); b != nil && id.Overflow == "" {
		if span, _ := b.Period.At(time.Unix(id.Start, 0)); span.Start.Unix() == id.Start {
			o.budget, o.span = b, span
		}
	}
	return o
}

// drainWithin bounds the end of the service.
const drainWithin = 5 * time.Second

// drain commits what is queued, returns all idle money and resigns, so that the next owner finds it at once.
func (s *Service) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainWithin)
	defer cancel()
	for {
		s.mu.Lock()
		s.ledger.Drain(s.Clock.Now())
		s.mu.Unlock()
		s.hurry = true
		worked, _, err := s.work(ctx)
		switch {
		case errors.Is(err, store.ErrFenced) || err != nil && ctx.Err() != nil:
			return s.fail(err)
		case err != nil: // etcd may answer yet
			s.pause(ctx, retryAfter)
			continue
		}
		if !worked {
			break
		}
	}
	s.deadline.Store(0)
	s.mu.Lock()
	clean := s.ledger.Clean()
	s.mu.Unlock()
	// gofail: var beforeResign struct{}
	return s.Ledger.Resign(ctx, clean)
}
