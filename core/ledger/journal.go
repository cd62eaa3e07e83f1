package ledger

import (
	"slices"
	"time"

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
}

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

func (j *Journal) queue(e *Entry) {
	e.count()
	var b *Batch
	if n := len(j.batches); n > 0 && !(n == 1 && j.inFlight) {
		b = j.batches[n-1]
		if len(b.Entries) >= MaxBatchEntries || len(b.accounts)+len(e.Path)+b.requests > MaxBatchAccounts {
			b = nil
		}
	}
	if b == nil {
		b = &Batch{Owner: j.Owner, Done: make(chan struct{}), accounts: map[AccountID]struct{}{}}
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
// BatchCommitted or BatchFailed. False when nothing is queued.
func (l *Ledger) NextBatch(now time.Time) (*Batch, bool) {
	if b := l.nextOf(&l.journal, now, nil); b != nil {
		return b, true
	}
	for _, p := range l.dead {
		if b := l.nextOf(&p.journal, now, p); b != nil {
			return b, true
		}
	}
	return nil, false
}

func (l *Ledger) nextOf(j *Journal, now time.Time, dead *Predecessor) *Batch {
	if j.inFlight || len(j.batches) == 0 {
		return nil
	}
	b := j.batches[0]
	j.inFlight = true
	b.N, b.PrevHash, b.Time = j.Next, j.PrevHash, now
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
func (l *Ledger) BatchCommitted(b *Batch, rev int64, hash []byte) []Alert {
	j, dead := l.journalOf(b.Owner), l.dead[b.Owner]
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
			l.free(e.hold)
			e.hold = nil
		}
	}
	var alerts []Alert
	for _, c := range b.Changes {
		a := l.accounts[c.ID]
		l.apply(a, c, rev)
		alerts = append(alerts, a.Due(b.Time)...)
	}
	j.batches = j.batches[1:]
	j.inFlight = false
	j.Next, j.PrevHash = b.N+1, hash
	close(b.Done)
	return alerts
}

// apply takes a committed change.
func (l *Ledger) apply(a *Account, c AccountChange, rev int64) {
	if !c.GrantFixed {
		c.Grant.Rev = rev
		switch {
		case c.GrantOwner == l.Owner:
			a.own = c.Grant
		case c.DropGrant:
			delete(a.others, c.GrantOwner)
		default:
			a.others[c.GrantOwner] = c.Grant
		}
	}
	if !c.BudgetFixed {
		c.Budget.Rev = rev
		a.bud = c.Budget
	}
}

// BatchRetry lets a batch be taken again by NextBatch, unchanged, after a conflict that was resolved by Reload.
func (l *Ledger) BatchRetry(b *Batch) {
	l.journalOf(b.Owner).inFlight = false
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
	return &l.dead[owner].journal
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

// result says what became of a hold. batch is one more than the number of the batch with its entry; 0: freed at its
// expiry.
type result struct {
	batch    uint64
	released bool
}

// results remembers every hold of this owner in 4 bytes, so that a settlement that is repeated finds its first answer.
type results struct {
	chunks map[uint64]*[chunkSize]uint32
	lates  map[uint64]*Entry
	floor  uint64 // chunks below are forgotten
}

const (
	chunkSize    = 4096
	releasedFlag = 1 << 31
)

func (r *results) get(seq uint64) (result, bool) {
	if seq/chunkSize < r.floor {
		return result{}, false
	}
	c := r.chunks[seq/chunkSize]
	if c == nil {
		return result{}, true
	}
	v := c[seq%chunkSize]
	return result{uint64(v &^ releasedFlag), v&releasedFlag != 0}, true
}

func (r *results) set(seq uint64, v result) {
	if r.chunks == nil {
		r.chunks = map[uint64]*[chunkSize]uint32{}
	}
	c := r.chunks[seq/chunkSize]
	if c == nil {
		c = new([chunkSize]uint32)
		r.chunks[seq/chunkSize] = c
	}
	x := uint32(v.batch)
	if v.released {
		x |= releasedFlag
	}
	c[seq%chunkSize] = x
	delete(r.lates, seq)
}

func (r *results) late(seq uint64) *Entry { return r.lates[seq] }

func (r *results) setLate(seq uint64, e *Entry) {
	if r.lates == nil {
		r.lates = map[uint64]*Entry{}
	}
	r.lates[seq] = e
}

// Forget drops the memory of holds whose entry is in a batch before n, because that batch left the store.
func (l *Ledger) Forget(n uint64) {
	r := &l.results
	for {
		c := r.chunks[r.floor]
		if c == nil {
			if r.floor >= l.seq/chunkSize {
				return
			}
			r.floor++
			continue
		}
		for _, v := range c {
			if uint64(v&^releasedFlag) > n {
				return
			}
		}
		if (r.floor+1)*chunkSize > l.seq {
			return
		}
		delete(r.chunks, r.floor)
		r.floor++
	}
}
