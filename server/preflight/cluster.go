package preflight

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
)

// Standing is how this replica stands, by its memory alone.
type Standing struct {
	Owner, Addr string
	Start       time.Time
	// NotServing is why it takes no reserves now; nil while it does.
	NotServing error
	Deadline   time.Duration // how long it takes reserves without an answer from etcd
	// What it may hold without etcd after the deadline, and what it has.
	Offline, OfflineUsed         money.Nanos
	Revision                     int64 // of the control records that it decides by
	Live, Gone, Quarantined      int   // replicas, by the last heartbeat
	Accounts, Tight              int
	Draining, Pending            int // accounts with a lowered ceiling; owners that have not acknowledged one
	QueuedBatches, QueuedEntries int
	Roots                        []RootMoney // in the order of their ids
}

// RootMoney is the money of one root budget: of its keys together where it is kept per key. Settled and Forced are of the
// current period; the others of every period that is not closed.
type RootMoney struct {
	Budget, Currency string
	Money
}

// Money is a sum of amounts in one currency.
type Money struct {
	Granted     money.Nanos // to this replica and not settled: Idle and Held
	Idle, Held  money.Nanos // used by nothing; by calls
	Elsewhere   money.Nanos // granted to other replicas that live, and not settled
	Quarantined money.Nanos // granted to replicas that are gone, and not settled
	Settled     money.Nanos
	Forced      money.Nanos // a part of Settled
}

// Add adds m.
func (s *Money) Add(m Money) {
	s.Granted, s.Idle, s.Held = s.Granted+m.Granted, s.Idle+m.Idle, s.Held+m.Held
	s.Elsewhere, s.Quarantined = s.Elsewhere+m.Elsewhere, s.Quarantined+m.Quarantined
	s.Settled, s.Forced = s.Settled+m.Settled, s.Forced+m.Forced
}

// Standing tells how this replica stands. It does not wait for anything.
func (s *Service) Standing() *Standing {
	st := &Standing{
		Owner: s.Owner(), Addr: s.Addr, Start: s.started, Offline: s.Offline, Deadline: s.Deadline(),
		NotServing: s.alive(s.Clock.Boot()), Revision: s.Control.Snapshot().Epoch,
	}
	s.mu.Lock()
	st.OfflineUsed = s.offline
	st.Live, st.Gone = len(s.roster.Owners), len(s.seen)
	st.Quarantined = len(s.roster.Successors)
	st.QueuedBatches, st.QueuedEntries = s.ledger.Backlog()
	s.mu.Unlock()
	s.addUp(st)
	return st
}

// addUpAtOnce bounds how long Standing keeps calls waiting.
const addUpAtOnce = 500

// addUp sums over the open accounts, a part at a time: others come and go meanwhile.
func (s *Service) addUp(st *Standing) {
	snap, now := s.Control.Snapshot(), s.Clock.Now().Unix()
	roots := map[string]*RootMoney{}
	states := make([]ledger.State, 0, addUpAtOnce)
	for more := true; more; {
		states = states[:0]
		var isRoot [addUpAtOnce]bool
		s.mu.Lock()
		all := s.ledger.Accounts()
		part := all[min(st.Accounts, len(all)):min(st.Accounts+addUpAtOnce, len(all))]
		for i, a := range part {
			states = append(states, a.State())
			isRoot[i] = ofRoot(a)
		}
		s.mu.Unlock()
		for i := range states {
			st.take(&states[i], isRoot[i], snap, roots, now)
		}
		more = len(part) == addUpAtOnce
	}
	for _, id := range slices.Sorted(maps.Keys(roots)) {
		st.Roots = append(st.Roots, *roots[id])
	}
}

// ofRoot says that an account is of a root budget itself, not of an overflow allowance.
func ofRoot(a *ledger.Account) bool { return a.ID.Overflow == "" && a.Terms().Root == a.ID.Budget }

func (st *Standing) take(a *ledger.State, isRoot bool, snap *charter.Snapshot, roots map[string]*RootMoney, now int64) {
	st.Accounts++
	st.Pending += a.Pending
	if a.Tight {
		st.Tight++
	}
	if a.Drain > 0 {
		st.Draining++
	}
	b := snap.Budget(a.ID.Budget)
	if b == nil || !isRoot {
		return
	}
	sum := roots[b.ID]
	if sum == nil {
		sum = &RootMoney{Budget: b.ID, Currency: b.Currency}
		roots[b.ID] = sum
	}
	m := Money{
		Granted: a.Idle + a.HeldHere, Idle: a.Idle, Held: a.HeldHere, Elsewhere: a.Elsewhere, Quarantined: a.Quarantined,
	}
	if a.ID.Start <= now && now < a.ID.End {
		m.Settled, m.Forced = a.Settled, a.Forced
	}
	sum.Add(m)
}

// Cluster is how all replicas stand.
type Cluster struct {
	*Standing
	MaxTTL, Quarantine time.Duration
	Current            bool      // Revision is the newest that etcd has
	Problem            error     // why etcd gave no answer: then Replicas are those of the last heartbeat
	Replicas           []Replica // those that live, in the order of their start, then those that are gone, then closed ones
	Uncollected        int64     // batches of all journals in etcd
}

// ReplicaState is what has become of a replica, numbered as in the contract.
type ReplicaState int

// States.
const (
	ReplicaUnspecified ReplicaState = iota
	ReplicaLive
	ReplicaGone        // nobody looks after it yet
	ReplicaQuarantined // its grants are out of reach
	ReplicaReclaiming  // its grants are being given back
	ReplicaClosed
)

// Replica is a server process.
type Replica struct {
	store.Owner
	State          ReplicaState
	Successor      string
	QuarantineLeft time.Duration
	Closed         time.Time
}

const (
	// censusTime bounds what Cluster waits for etcd.
	censusTime = 2 * time.Second
	// shownClosed is how many closed replicas Cluster gives at most, and shownFor for how long.
	shownClosed = 20
	shownFor    = time.Hour
)

// Here tells how this replica stands, without the others.
func (s *Service) Here() *Cluster {
	return &Cluster{Standing: s.Standing(), MaxTTL: s.MaxTTL, Quarantine: ledger.Quarantine(s.MaxTTL)}
}

// Cluster tells how all replicas stand, and what they have of the root budgets now. Without an answer from etcd it tells what this one knows, and the problem.
func (s *Service) Cluster(ctx context.Context) *Cluster {
	ctx, cancel := context.WithTimeout(ctx, censusTime)
	defer cancel()
	census, err := s.Ledger.Census(ctx, shownClosed)
	if err == nil {
		err = s.refreshRoots(ctx)
	}
	c := s.Here()
	if err != nil {
		c.Problem = err
		census = s.lastCensus()
	} else {
		c.Revision = s.Control.Snapshot().Epoch // it may have learned of a change meanwhile
		c.Current, c.Uncollected = c.Revision >= census.Epoch, census.Batches
		c.Live, c.Gone, c.Quarantined = 0, 0, 0
	}
	for i := range census.Members {
		r, ok := s.replica(&census.Members[i])
		if !ok {
			continue
		}
		c.Replicas = append(c.Replicas, r)
		switch {
		case err != nil: // the last heartbeat's counts stand
		case r.State == ReplicaLive:
			c.Live++
		case r.State == ReplicaGone:
			c.Gone++
		case r.State != ReplicaClosed:
			c.Quarantined++
		}
	}
	slices.SortStableFunc(c.Replicas, func(a, b Replica) int {
		group := func(r *Replica) int {
			switch r.State {
			case ReplicaLive:
				return 0
			case ReplicaClosed:
				return 2
			}
			return 1
		}
		return cmp.Or(cmp.Compare(group(&a), group(&b)), a.Start.Compare(b.Start), b.Closed.Compare(a.Closed))
	})
	return c
}

// refreshRoots reads again what other owners have of the accounts of root budgets, where this one's view is old.
func (s *Service) refreshRoots(ctx context.Context) error {
	now := s.Clock.Now()
	var ids []ledger.AccountID
	s.mu.Lock()
	for _, a := range s.ledger.Accounts() {
		if ofRoot(a) && (a.Unread() || a.OldView(now)) {
			ids = append(ids, a.ID)
		}
	}
	s.mu.Unlock()
	for part := range slices.Chunk(ids, openAtOnce) {
		if err := s.refresh(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// replica says what has become of a member; false for one that was closed long ago.
func (s *Service) replica(m *store.Member) (Replica, bool) {
	r := Replica{Owner: m.Owner, Successor: m.Successor, Closed: m.Closed}
	now := s.Clock.Now()
	switch {
	case m.Live:
		r.State = ReplicaLive
		return r, true
	case !m.Closed.IsZero():
		r.State = ReplicaClosed
		return r, now.Sub(m.Closed) < shownFor
	}
	r.QuarantineLeft = m.QuarantineLeft
	s.mu.Lock()
	if p := s.ledger.Predecessor(m.ID); p != nil && !p.Closed { // this replica's own count
		r.QuarantineLeft = max(r.QuarantineLeft, p.Ready.Sub(now))
	}
	s.mu.Unlock()
	switch {
	case r.QuarantineLeft > 0, m.Successor != "" && m.Dead.IsZero(): // the latter without etcd's word: no time is known
		r.State = ReplicaQuarantined
	case m.Successor != "":
		r.State = ReplicaReclaiming
	default:
		r.State = ReplicaGone
	}
	return r, true
}

// lastCensus is what the last heartbeat and this replica's memory say.
func (s *Service) lastCensus() store.Census {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c store.Census
	for _, o := range s.roster.Owners {
		c.Members = append(c.Members, store.Member{Owner: o, Live: true})
	}
	for owner := range s.seen {
		c.Members = append(c.Members, store.Member{Owner: store.Owner{ID: owner}})
	}
	for owner, by := range s.roster.Successors {
		c.Members = append(c.Members, store.Member{Owner: store.Owner{ID: owner}, Successor: by})
	}
	return c
}
