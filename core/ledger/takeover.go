package ledger

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// Predecessor is an owner that is gone and whose holds this owner looks after.
type Predecessor struct {
	Owner string
	// Closed: its grants are reclaimed; what is settled now is forced spend.
	Closed bool
	// Ready is when its last possible hold is over, so that its grants may be reclaimed.
	Ready time.Time
	// Rev is the store's revision of the takeover: what was read of its grants before may be old.
	Rev int64
	// Accounts that it may have grants of, once they are known.
	Accounts []AccountID
	Known    bool
	Used     time.Time // when it was last asked for

	journal Journal
	results map[uint64]result
	pending map[uint64]*Entry
}

// Errors of Settle and Release for holds of an owner that is gone.
var (
	// ErrNotTaken says that the owner must be found, or taken over first and its journal loaded.
	ErrNotTaken = errors.New("the hold is another owner's")
	// ErrStale says that an account must be read again, because what is known of the owner's grant may be old.
	ErrStale = errors.New("an account must be read again")
)

// Settled is one hold that an owner which is gone has settled or released.
type Settled struct {
	Seq      uint64
	Batch    uint64
	Released bool
}

// TakeOver looks after a dead owner from now on. Its holds can be settled once its journal is loaded.
func (l *Ledger) TakeOver(p Predecessor) *Predecessor {
	l.generation++ // others may have collected since marks were read
	p.journal = Journal{Owner: p.Owner}
	l.dead = append(l.dead, &p)
	slices.SortFunc(l.dead, func(a, b *Predecessor) int { return cmp.Compare(a.Owner, b.Owner) })
	return &p
}

// LetGo stops looking after an owner. Entries that are queued for it have to be looked at again.
func (l *Ledger) LetGo(p *Predecessor) {
	for _, b := range p.journal.batches {
		b.Err = ErrAgain
		l.halt(b)
		close(b.Done)
	}
	l.dead = slices.DeleteFunc(l.dead, func(q *Predecessor) bool { return p == q })
}

// LoadJournal tells a predecessor's journal: next is the number of its next batch, prevHash the hash of its last, settled
// all that it holds. What was collected out of it is in chunk records.
func (p *Predecessor) LoadJournal(next uint64, prevHash []byte, settled []Settled) {
	p.journal.Next, p.journal.PrevHash = next, prevHash
	p.results = make(map[uint64]result, len(settled))
	for _, s := range settled {
		p.results[s.Seq] = result{s.Batch + 1, s.Released}
	}
	p.pending = map[uint64]*Entry{}
}

// Loaded says whether the journal is loaded.
func (p *Predecessor) Loaded() bool { return p.results != nil }

// Predecessor finds a dead owner that was taken over; nil if it was not.
func (l *Ledger) Predecessor(owner string) *Predecessor {
	for _, p := range l.dead {
		if p.Owner == owner {
			return p
		}
	}
	return nil
}

// Predecessors gives all that were taken over. It must not be changed.
func (l *Ledger) Predecessors() []*Predecessor { return l.dead }

func (l *Ledger) finishDead(now time.Time, c *Claim, e *Entry) (*Entry, *Journaled, error) {
	p := l.Predecessor(c.Owner)
	if p == nil || p.results == nil {
		return nil, nil, ErrNotTaken
	}
	p.Used = now
	if r, ok := p.results[c.Seq]; ok {
		switch {
		case r.released && e.Kind != KindRelease:
			return nil, nil, ErrReleased
		case !r.released && e.Kind == KindRelease:
			return nil, nil, ErrSettled
		}
		return nil, &Journaled{Owner: c.Owner, Batch: r.batch - 1}, nil
	}
	if under := p.pending[c.Seq]; under != nil {
		if (under.Kind == KindRelease) != (e.Kind == KindRelease) {
			return under, nil, entryError(under)
		}
		return under, nil, nil
	}
	if before, err := l.ended(c, e.Kind); before != nil || err != nil {
		return nil, before, err
	}
	if c.tooOld(now) {
		return nil, nil, ErrUnknownHold
	}
	if e.Kind == KindRelease && now.After(c.Expires) {
		if p.Closed && !c.reread { // another replica may have settled it since its journal was read
			if n := len(p.journal.batches); n > 0 {
				return p.journal.batches[n-1].Entries[0], nil, ErrAgain
			}
			c.reread = true
			l.LetGo(p)
			return nil, nil, ErrNotTaken
		}
		return nil, nil, ErrExpired
	}
	path, err := l.path(c.Path)
	if err != nil {
		return nil, nil, err
	}
	if err := checkSum(path, e.Amount); err != nil {
		return nil, nil, err
	}
	e.Late = p.Closed || now.After(c.Expires.Add(Grace))
	for _, a := range path {
		if a.whole < p.Rev {
			return nil, nil, ErrStale
		}
		if _, ok := a.others[c.Owner]; !ok {
			e.Late = true // its grant is reclaimed: nothing is set aside any more
		}
	}
	e.Forced = max(0, e.Amount-c.Amount)
	if e.Late {
		e.Forced = e.Amount
	}
	if e.Kind == KindRelease {
		e.Late, e.Forced = false, 0
	}
	e.Seq, e.Held, e.Call, e.Path = c.Seq, c.Amount, merged(c.Call, e.Call), c.Path
	p.pending[c.Seq] = e
	p.journal.queue(e, now)
	return e, nil, nil
}

// NextReclaim gives the accounts to reclaim of an owner whose quarantine is over, at most MaxBatchAccounts; they must be
// open and read since the takeover. done says that none is left and the owner can be closed. Nothing while a batch of the
// owner is queued.
func (l *Ledger) NextReclaim(now time.Time, p *Predecessor) (changes []AccountChange, done bool) {
	if p.Closed || !p.Known || now.Before(p.Ready) || len(p.journal.batches) > 0 {
		return nil, false
	}
	left := p.Accounts[:0]
	for _, id := range p.Accounts {
		a := l.accounts[id]
		if a == nil || a.whole < p.Rev {
			left = append(left, id)
			continue
		}
		g, ok := a.others[p.Owner]
		if !ok {
			continue
		}
		left = append(left, id)
		if len(changes) == MaxBatchAccounts {
			continue
		}
		a.moving = true
		c := AccountChange{ID: id, GrantOwner: p.Owner, Grant: g, DropGrant: true, Budget: a.bud}
		c.Budget.Base += g.Spent
		c.Budget.Alloc -= g.Alloc - g.Spent
		changes = append(changes, c)
	}
	p.Accounts = left
	return changes, len(p.Accounts) == 0
}

// Missing gives the accounts of a predecessor that must be read before NextReclaim can go on, at most limit.
func (l *Ledger) Missing(p *Predecessor, limit int) []AccountID {
	var ids []AccountID
	for _, id := range p.Accounts {
		if a := l.accounts[id]; len(ids) < limit && (a == nil || a.whole < p.Rev) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Reclaimed takes the commit of NextReclaim's changes.
func (l *Ledger) Reclaimed(p *Predecessor, changes []AccountChange, rev int64, now time.Time) {
	for _, c := range changes {
		l.apply(l.accounts[c.ID], c, rev, now)
	}
}
