package preflight

import (
	"cmp"
	"context"
	"iter"
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

// openAccount is an open account as it stood.
type openAccount struct {
	ledger.State
	root bool // of a root budget itself, not of an overflow allowance
	old  bool // others may have settled, or been granted, something since this owner read their grants
}

// lookedAtOnce bounds how long a look at all accounts keeps calls waiting.
const lookedAtOnce = 500

// eachOpen gives the open accounts, a part at a time: others come and go meanwhile.
func (s *Service) eachOpen() iter.Seq[*openAccount] {
	return func(yield func(*openAccount) bool) {
		part := make([]openAccount, 0, lookedAtOnce)
		for from := 0; ; from += lookedAtOnce {
			part = part[:0]
			s.mu.Lock()
			now, all := s.Clock.Now(), s.ledger.Accounts()
			for _, a := range all[min(from, len(all)):min(from+lookedAtOnce, len(all))] {
				part = append(part, openAccount{a.State(), a.ID.Overflow == "" && a.Terms().Root == a.ID.Budget, a.Unread() || a.OldView(now)})
			}
			s.mu.Unlock()
			for i := range part {
				if !yield(&part[i]) {
					return
				}
			}
			if len(part) < lookedAtOnce {
				return
			}
		}
	}
}

// addUp sums over the open accounts.
func (s *Service) addUp(st *Standing) {
	snap, now := s.Control.Snapshot(), s.Clock.Now().Unix()
	roots := map[string]*RootMoney{}
	for a := range s.eachOpen() {
		st.take(a, snap, roots, now)
	}
	for _, id := range slices.Sorted(maps.Keys(roots)) {
		st.Roots = append(st.Roots, *roots[id])
	}
}

func (st *Standing) take(a *openAccount, snap *charter.Snapshot, roots map[string]*RootMoney, now int64) {
	st.Accounts++
	st.Pending += a.Pending
	if a.Tight {
		st.Tight++
	}
	if a.Drain > 0 {
		st.Draining++
	}
	b := snap.Budget(a.ID.Budget)
	if b == nil || !a.root {
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
	Problem            error     // why etcd gave no answer: then Replicas, or the money, are what was known before
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
	// refreshedRoots bounds what one Cluster reads: a root budget may have many thousands of keys.
	refreshedRoots = 2000
)

// Here tells how this replica stands, without the others.
func (s *Service) Here() *Cluster {
	return &Cluster{Standing: s.Standing(), MaxTTL: s.MaxTTL, Quarantine: ledger.Quarantine(s.MaxTTL)}
}

// Cluster tells how all replicas stand, and what they have of the root budgets now. Without an answer from etcd it tells
// what this one knows, and the problem.
func (s *Service) Cluster(ctx context.Context) *Cluster {
	ctx, cancel := context.WithTimeout(ctx, censusTime)
	defer cancel()
	census, err := s.census(ctx)
	if err == nil {
		err = s.refreshRoots(ctx)
	}
	c := s.Here()
	if err != nil {
		c.Problem = err
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

// refreshRoots reads again what other owners have of the accounts of root budgets, of refreshedRoots at most, where this
// one's view is old.
func (s *Service) refreshRoots(ctx context.Context) error {
	var ids []ledger.AccountID
	for a := range s.eachOpen() {
		if a.root && a.old && len(ids) < refreshedRoots {
			ids = append(ids, a.ID)
		}
	}
	return s.refresh(ctx, ids)
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
// Peers are the addresses of the other replicas that live.
func (s *Service) Peers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, censusTime)
	defer cancel()
	census, _ := s.census(ctx)
	var addrs []string
	for i := range census.Members {
		if m := &census.Members[i]; m.Live && m.ID != s.Owner() && m.Addr != "" {
			addrs = append(addrs, m.Addr)
		}
	}
	return addrs
}

// census is the store's or, with an error, the last one.
func (s *Service) census(ctx context.Context) (store.Census, error) {
	census, err := s.Ledger.Census(ctx, shownClosed)
	if err != nil {
		return s.lastCensus(), err
	}
	return census, nil
}

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
