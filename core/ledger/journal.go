package ledger

import (
	"errors"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/money"
)

// Limits of one batch: about 32 KiB, and few enough accounts for a transaction of a store with default limits.
const (
	MaxBatchEntries  = 256
	MaxBatchAccounts = 40
)

// Journal is the batches of one owner, in order; one is in flight at a time.
type Journal struct {
	Owner    string
	Next     uint64 // number of the next batch to commit
	PrevHash []byte // of the batch before
	batches  []*Batch
	inFlight bool
	last     int // entries in the batch before
	wave     int // entries worth waiting for
}

// MaxLinger is how long a batch waits for more entries, where many come at once.
const MaxLinger = 2 * time.Millisecond

// Batch is entries that are committed as one.
type Batch struct {
	Owner    string
	N        uint64
	PrevHash []byte
	Time     time.Time
	Entries  []*Entry
	Changes  []AccountChange

	// Done is closed when the batch is committed, or when Err says that it never will be by this owner.
	Done chan struct{}
	Err  error

	queued   time.Time // when its first entry was
	accounts map[AccountID]struct{}
	requests int // entries that are indexed by their request id
}

// AccountChange is what a transaction writes for an account. The Rev fields are those that the store must still have:
// 0 for a record that must not exist yet. A transaction that conflicts writes nothing.
type AccountChange struct {
	ID          AccountID
	GrantOwner  string // whose grant
	Grant       Grant  // its new value
	DropGrant   bool   // delete the grant instead
	GrantFixed  bool   // leave the grant alone
	Budget      Budget // its new value
	BudgetFixed bool   // leave the budget alone
}

func (j *Journal) queue(e *Entry, now time.Time) {
	e.count()
	e.attribute()
	var b *Batch
	if n := len(j.batches); n > 0 && !(n == 1 && j.inFlight) {
		b = j.batches[n-1]
		if len(b.Entries) >= MaxBatchEntries || len(b.accounts)+len(e.Path)+b.requests > MaxBatchAccounts {
			b = nil
		}
	}
	if b == nil {
		b = &Batch{Owner: j.Owner, Done: make(chan struct{}), accounts: map[AccountID]struct{}{}, queued: now}
		j.batches = append(j.batches, b)
	}
	b.Entries = append(b.Entries, e)
	for _, id := range e.Path {
		b.accounts[id] = struct{}{}
	}
	if e.RequestID != "" {
		b.requests++
	}
	e.Batch = b
}

// NextBatch gives a batch to commit, with the changes that it makes. No other is given for its journal until
// BatchCommitted or BatchRetry. Nil when nothing is queued, or when more entries are worth waiting for: then linger says
// how long. hurry says that they were waited for, or are not to be.
func (l *Ledger) NextBatch(now time.Time, hurry bool) (b *Batch, linger time.Duration) {
	if wait := l.journal.linger(now); wait > 0 && !hurry {
		linger = wait
	} else if b := l.nextOf(&l.journal, now, nil); b != nil {
		return b, 0
	}
	for _, p := range l.dead {
		if b := l.nextOf(&p.journal, now, p); b != nil {
			return b, 0
		}
	}
	return nil, linger
}

// linger is how much longer the next batch is worth waiting for. Only where the batch before had many entries: then as
// many again, and twice as many when they came at once, are likely within MaxLinger. It keeps the store's work in
// proportion to the load, and costs a lone client nothing.
func (j *Journal) linger(now time.Time) time.Duration {
	const many = 8
	if j.inFlight || len(j.batches) != 1 || j.last < many {
		return 0
	}
	b := j.batches[0]
	if len(b.Entries) >= min(j.wave, MaxBatchEntries) || len(b.accounts)+b.requests >= MaxBatchAccounts-charterDepth {
		return 0
	}
	waited := now.Sub(b.queued)
	if waited < 0 { // the clock was set back
		return 0
	}
	return max(0, MaxLinger-waited)
}

// charterDepth is the most accounts that one more entry can bring.
const charterDepth = 16

func (l *Ledger) nextOf(j *Journal, now time.Time, dead *Predecessor) *Batch {
	if j.inFlight || len(j.batches) == 0 {
		return nil
	}
	b := j.batches[0]
	j.inFlight = true
	b.N, b.PrevHash, b.Time = j.Next, j.PrevHash, now
	if j.last = len(b.Entries); j.last >= j.wave {
		j.wave = 2 * j.last
	} else {
		j.wave = j.last
	}
	changes := map[AccountID]int{}
	b.Changes = b.Changes[:0]
	for _, e := range b.Entries {
		for _, id := range e.Path {
			a := l.accounts[id]
			i, ok := changes[id]
			if !ok {
				i = len(b.Changes)
				changes[id] = i
				c := AccountChange{ID: id, GrantOwner: j.Owner, Grant: a.own, Budget: a.bud, BudgetFixed: true}
				if dead != nil {
					g, has := a.others[j.Owner]
					c.Grant, c.GrantFixed = g, !has
				}
				b.Changes = append(b.Changes, c)
			}
			c := &b.Changes[i]
			if c.GrantFixed { // the grant is reclaimed already
				c.Budget.Base += e.Amount
			} else {
				c.Grant.Spent += e.Amount
				c.Grant.Alloc += e.Forced
			}
			if e.Forced > 0 {
				a.moving = true
				c.BudgetFixed = false
				c.Budget.Alloc += e.Forced
				c.Budget.Forced += e.Forced
			}
		}
	}
	return b
}

// BatchCommitted takes the commit of a batch: rev is the store's revision of it and hash that of its bytes. Its entries
// are final; alerts that are due now come back.
func (l *Ledger) BatchCommitted(b *Batch, rev int64, hash []byte, now time.Time) []Alert {
	j, dead := l.journalOf(b.Owner), l.Predecessor(b.Owner)
	for _, e := range b.Entries {
		r := result{batch: b.N + 1, released: e.Kind == KindRelease}
		switch {
		case dead != nil:
			dead.results[e.Seq] = r
			delete(dead.pending, e.Seq)
		case e.Seq != 0:
			l.results.set(e.Seq, r)
		}
		if e.hold != nil {
			if guard.HeldUntilCommitted {
				l.free(e.hold)
			}
			e.hold = nil
		}
	}
	var alerts []Alert
	for _, c := range b.Changes {
		a := l.accounts[c.ID]
		l.apply(a, c, rev, now)
		alerts = append(alerts, a.Due(b.Time)...)
	}
	j.batches = j.batches[1:]
	j.inFlight = false
	j.Next, j.PrevHash = b.N+1, hash
	close(b.Done)
	return alerts
}

// apply takes a committed change. A budget that is newer already stays.
func (l *Ledger) apply(a *Account, c AccountChange, rev int64, now time.Time) {
	if !c.GrantFixed {
		c.Grant.Rev = rev
		switch {
		case c.GrantOwner == l.Owner && c.DropGrant:
			a.own = Grant{}
		case c.GrantOwner == l.Owner:
			a.own = c.Grant
		case c.DropGrant:
			delete(a.others, c.GrantOwner)
			a.read = max(a.read, rev)
		default:
			a.others[c.GrantOwner] = c.Grant
			a.read = max(a.read, rev)
		}
	}
	if !c.BudgetFixed {
		c.Budget.Rev = rev
		a.observe(c.Budget, now)
		a.arrived(now)
	}
}

// BatchRetry lets a batch be taken again by NextBatch, unchanged, after a conflict that was resolved by Reload.
func (l *Ledger) BatchRetry(b *Batch) {
	l.journalOf(b.Owner).inFlight = false
}

// ErrAgain is Batch.Err of entries that were not written and have to be queued again from the start, because another
// replica has written to their journal, or recorded the same request.
var ErrAgain = errors.New("not written: to be looked at again")

// BatchDropped gives a batch up that was not written and cannot be any more. Its holds are live again.
func (l *Ledger) BatchDropped(b *Batch, err error) {
	j := l.journalOf(b.Owner)
	p := l.Predecessor(b.Owner)
	for _, e := range b.Entries {
		if e.hold != nil {
			e.hold.entry = nil
			l.expireAt(e.hold)
		}
		if e.Late && p == nil && e.Seq != 0 {
			delete(l.results.lates, e.Seq)
		}
		if p != nil {
			delete(p.pending, e.Seq)
		}
	}
	b.Err = err
	j.batches = j.batches[1:]
	j.inFlight = false
	l.halt(b)
	close(b.Done)
}

// halt takes that a batch will not be written.
func (l *Ledger) halt(b *Batch) {
	for _, c := range b.Changes {
		if a := l.accounts[c.ID]; a != nil {
			a.moving = false
		}
	}
}

// Abandon gives up all that is queued, because the owner has lost its ownership: whether a batch was committed is
// unknown to those who wait.
func (l *Ledger) Abandon(err error) {
	for _, j := range l.journals() {
		for _, b := range j.batches {
			b.Err = err
			close(b.Done)
		}
		j.batches, j.inFlight = nil, false
	}
}

// journals gives this owner's journal and those of the owners that it looks after.
func (l *Ledger) journals() []*Journal {
	all := []*Journal{&l.journal}
	for _, p := range l.dead {
		all = append(all, &p.journal)
	}
	return all
}

func (l *Ledger) journalOf(owner string) *Journal {
	if owner == l.Owner {
		return &l.journal
	}
	return &l.Predecessor(owner).journal
}

// Alert says that settled spend reached a threshold of an account. It is due once; the store records it once.
type Alert struct {
	ID        AccountID
	Permille  int32
	Settled   money.Nanos
	Limit     money.Nanos
	Time      time.Time
	OwnerName string // the budget's owner; filled in by the caller
	OwnerMail string
}

// Due gives the alerts that are due and were not given before: after a settlement, when the limit changed, and after
// opening, in case they were lost in a crash.
func (a *Account) Due(now time.Time) []Alert {
	var alerts []Alert
	limit := a.ceiling()
	for _, t := range a.terms.Thresholds {
		if limit <= 0 || slices.Contains(a.alerted, t) {
			continue
		}
		if money.Permille(a.settled(), limit) >= t {
			a.alerted = append(a.alerted, t)
			alerts = append(alerts, Alert{ID: a.ID, Permille: t, Settled: a.settled(), Limit: limit, Time: now})
		}
	}
	return alerts
}

// Alarming gives accounts in use that may have reached a threshold without this owner knowing, because other owners
// settle on them too: to be read again.
func (l *Ledger) Alarming(now time.Time) []AccountID {
	var ids []AccountID
	for _, a := range l.list {
		if a.alone() || now.Sub(a.used) > IdleAfter || a.grantedElsewhere() <= 0 {
			continue
		}
		limit := a.ceiling()
		if slices.ContainsFunc(a.terms.Thresholds, func(t int32) bool {
			return limit > 0 && !slices.Contains(a.alerted, t) && money.Permille(a.bud.Alloc, limit) >= t
		}) {
			ids = append(ids, a.ID)
		}
	}
	return ids
}
