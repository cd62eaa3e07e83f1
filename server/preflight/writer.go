package preflight

import (
	"context"
	"errors"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
)

// How often the writer looks after what no call asks for.
const (
	expireEvery = time.Second
	sweepEvery  = 3 * time.Second
	closeEvery  = time.Minute
	retryAfter  = 100 * time.Millisecond
)

// Run commits what calls queue, one transaction at a time, until ctx ends; then it returns all idle money and resigns.
// Error: store.ErrFenced when the ownership is lost; the process must stop then.
func (s *Service) Run(ctx context.Context) error {
	beats := make(chan error, 1)
	live, stop := context.WithCancel(ctx)
	defer stop()
	go func() { beats <- s.beat(live) }()
	collected := make(chan struct{})
	go func() {
		s.Collect(live)
		close(collected)
	}()
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	var last [2]time.Time
	for {
		worked, err := s.work(ctx)
		if errors.Is(err, store.ErrFenced) {
			return s.fail(err)
		}
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("etcd does not take a transaction; trying again", "error", err)
			worked = !pause(ctx, retryAfter)
		}
		if worked {
			s.wake() // there may be more to do, but first what else has happened
		}
		select {
		case <-ctx.Done():
			<-collected
			return s.drain()
		case err := <-beats:
			if errors.Is(err, store.ErrFenced) {
				return s.fail(err)
			}
		case <-tick.C:
			s.housekeep(ctx, &last)
		case <-s.kick:
		}
	}
}

func pause(ctx context.Context, d time.Duration) (ended bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-t.C:
		return false
	}
}

// beat sends heartbeats until ctx ends or the ownership is lost.
func (s *Service) beat(ctx context.Context) error {
	tick := time.NewTicker(ledger.HeartbeatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.heartbeat(ctx); errors.Is(err, store.ErrFenced) {
				return err
			} else if err != nil && ctx.Err() == nil {
				s.Log.Warn("the heartbeat got no answer", "error", err)
			}
		}
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

// housekeep frees what has expired, and more rarely sweeps, closes and reclaims.
func (s *Service) housekeep(ctx context.Context, last *[2]time.Time) {
	now := s.Clock.Now()
	due := func(i int, every time.Duration) bool {
		if now.Sub(last[i]) < every {
			return false
		}
		last[i] = now
		return true
	}
	s.mu.Lock()
	freed, charged := s.ledger.Expire(now)
	if due(0, sweepEvery) {
		s.ledger.Sweep(now)
	}
	if due(1, closeEvery) {
		s.ledger.CloseIdle(now)
	}
	s.mu.Unlock()
	if freed+charged > 0 {
		s.Log.Info("holds expired unsettled", "released", freed, "charged", charged)
	}
	if err := s.reclaim(ctx, now); err != nil && ctx.Err() == nil {
		s.Log.Warn("the grants of an owner that is gone could not be reclaimed yet", "error", err)
	}
	s.wake()
}

// work does one round: accounts to open, grants, one batch, alerts. worked says that there may be more.
func (s *Service) work(ctx context.Context) (worked bool, err error) {
	opened, err := s.openAccounts(ctx)
	if err != nil {
		return false, err
	}
	adjusted, err := s.adjust(ctx)
	if err != nil {
		return false, err
	}
	appended, err := s.append(ctx)
	if err != nil {
		return false, err
	}
	return opened || adjusted || appended, s.recordAlerts(ctx)
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

// rollOver gives accounts that are new the unspent rest of the period before, up to the budget's cap. What is held then
// counts as spent.
func (s *Service) rollOver(ctx context.Context, found []ledger.Opened, batch map[ledger.AccountID]opening) error {
	var before []ledger.AccountID
	var which []int
	for i, o := range found {
		b := batch[o.ID].budget
		if o.Budget.Rev != 0 || b == nil || b.RolloverCap == 0 || o.ID.Overflow != "" {
			continue
		}
		span, ok := b.Period.Before(batch[o.ID].span)
		if !ok || !b.Created.Before(span.End) {
			continue
		}
		id := o.ID
		id.Start, id.End = span.Start.Unix(), span.End.Unix()
		before, which = append(before, id), append(which, i)
	}
	if len(before) == 0 {
		return nil
	}
	earlier, err := s.Ledger.Open(ctx, before)
	if err != nil {
		return err
	}
	for j, prev := range earlier {
		o := &found[which[j]]
		b := batch[o.ID].budget
		switch {
		case prev.Budget.Rev != 0:
			o.Budget.Rollover = min(b.RolloverCap, s.unspent(prev))
		case o.ID.Key == "": // nothing was spent in it
			o.Budget.Rollover = min(b.RolloverCap, b.Limit)
		}
	}
	return nil
}

// unspent is what is left of an account: neither settled, nor held, nor granted to an owner that is gone.
func (s *Service) unspent(o ledger.Opened) money.Nanos {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.ledger.Account(o.ID); a != nil {
		st := a.State()
		return st.Remaining()
	}
	return max(0, o.Budget.Ceil-o.Budget.Alloc+o.Idle())
}

func (s *Service) adjust(ctx context.Context) (bool, error) {
	s.mu.Lock()
	adj, ok := s.ledger.NextAdjustment(s.Clock.Now())
	s.mu.Unlock()
	if !ok {
		return false, nil
	}
	rev, err := s.Ledger.Adjust(ctx, adj.Changes)
	if err == nil {
		s.mu.Lock()
		s.ledger.AdjustmentCommitted(adj, rev)
		s.announce()
		s.mu.Unlock()
		return true, nil
	}
	return true, s.resolve(ctx, adj.Changes, err)
}

// resolve finds out what became of a transaction, for as long as it takes: until then its accounts must not be written.
func (s *Service) resolve(ctx context.Context, changes []ledger.AccountChange, err error) error {
	for {
		if errors.Is(err, store.ErrFenced) {
			return err
		}
		opened, rerr := s.Ledger.Resolve(ctx, changes)
		if rerr == nil {
			s.mu.Lock()
			s.ledger.Reload(opened)
			s.announce()
			s.mu.Unlock()
			return nil
		}
		if err = rerr; pause(ctx, retryAfter) {
			return err
		}
	}
}

func (s *Service) append(ctx context.Context) (bool, error) {
	b := s.unsure
	if b == nil {
		s.mu.Lock()
		b, _ = s.ledger.NextBatch(s.Clock.Now())
		s.mu.Unlock()
	}
	if b == nil {
		return false, nil
	}
	s.unsure = b
	for {
		rev, hash, err := s.Ledger.Append(ctx, b)
		switch {
		case err == nil:
			s.unsure = nil
			s.mu.Lock()
			s.alerts = append(s.alerts, s.ledger.BatchCommitted(b, rev, hash)...)
			s.mu.Unlock()
			return true, nil
		case errors.Is(err, store.ErrFenced):
			return false, err
		case errors.Is(err, store.ErrMoved):
			s.moved(b.Owner)
			return true, nil
		case errors.Is(err, store.ErrConflict): // not written: read again what is stored, then make the batch anew
			if err := s.resolve(ctx, b.Changes, err); err != nil {
				return false, err
			}
			s.unsure = nil
			s.mu.Lock()
			s.ledger.BatchRetry(b)
			s.mu.Unlock()
			return true, nil
		}
		s.Log.Warn("a batch of settlements got no answer; appending it again", "batch", b.N, "entries", len(b.Entries), "error", err)
		if pause(ctx, retryAfter) {
			// Whether it was committed is unknown to those who wait.
			return false, err
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

// reclaim frees the grants of owners whose quarantine is over.
func (s *Service) reclaim(ctx context.Context, now time.Time) error {
	snap := s.Control.Snapshot()
	s.mu.Lock()
	var ready []*ledger.Predecessor
	for _, p := range s.ledger.Predecessors() {
		if p.Closed || now.Before(p.Ready) {
			continue
		}
		ready = append(ready, p)
		opening := 0
		for id := range p.Accounts {
			if s.ledger.Account(id) == nil && opening < openAtOnce {
				s.toOpen[id] = openingOf(snap, id)
				opening++
			}
		}
	}
	s.mu.Unlock()
	for _, p := range ready {
		s.mu.Lock()
		changes, done := s.ledger.NextReclaim(now, p)
		s.mu.Unlock()
		switch {
		case len(changes) > 0:
			rev, err := s.Ledger.Reclaim(ctx, p.Owner, changes)
			if errors.Is(err, store.ErrQuarantined) {
				continue
			}
			if err != nil {
				return s.resolve(ctx, changes, err)
			}
			s.mu.Lock()
			s.ledger.Reclaimed(p, changes, rev)
			s.announce()
			s.mu.Unlock()
		case done:
			if err := s.Ledger.CloseOwner(ctx, p.Owner); err != nil {
				return err
			}
			s.mu.Lock()
			p.Closed = true
			s.mu.Unlock()
			s.Log.Info("reclaimed the grants of an owner that is gone", "owner", p.Owner)
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
	s.mu.Lock()
	s.ledger.Drain(s.Clock.Now())
	s.ledger.Sweep(s.Clock.Now())
	s.mu.Unlock()
	for {
		worked, err := s.work(ctx)
		if err != nil {
			return s.fail(err)
		}
		if !worked {
			break
		}
	}
	s.deadline.Store(0)
	return s.Ledger.Resign(ctx)
}
