package ledger

import (
	"errors"
	"time"
)

// Predecessor is an owner that is gone and whose holds this owner looks after.
type Predecessor struct {
	Owner string
	// Closed: its grants are reclaimed; what is settled now is forced spend.
	Closed bool
	// Ready is when its last possible hold is over, so that its grants may be reclaimed.
	Ready time.Time
	// Accounts that it has grants of.
	Accounts map[AccountID]bool

	journal Journal
	results map[uint64]result
	pending map[uint64]*Entry
}

// ErrNotTaken says that the owner of a hold is gone and must be taken over first, and its journal loaded.
var ErrNotTaken = errors.New("the owner of the hold is gone and not taken over yet")

// Settled is one hold that an owner which is gone has settled or released.
type Settled struct {
	Seq      uint64
	Batch    uint64
	Released bool
}

// TakeOver looks after a dead owner from now on. Its holds can be settled once its journal is loaded.
func (l *Ledger) TakeOver(p Predecessor) *Predecessor {
	p.journal = Journal{Owner: p.Owner}
	l.dead[p.Owner] = &p
	return &p
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
func (l *Ledger) Predecessor(owner string) *Predecessor { return l.dead[owner] }

// Predecessors gives all that were taken over.
func (l *Ledger) Predecessors() map[string]*Predecessor { return l.dead }

func (l *Ledger) finishDead(now time.Time, c *Claim, e *Entry) (*Entry, *Journaled, error) {
	p := l.dead[c.Owner]
	if p == nil || p.results == nil {
		return nil, nil, ErrNotTaken
	}
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
			return nil, nil, entryError(under)
		}
		return under, nil, nil
	}
	if before, err := l.recall(c, e.Kind); before != nil || err != nil {
		return nil, before, err
	}
	if c.tooOld(now) {
		return nil, nil, ErrUnknownHold
	}
	if e.Kind == KindRelease && now.After(c.Expires) {
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
	p.journal.queue(e)
	return e, nil, nil
}

// NextReclaim gives the accounts to reclaim of an owner whose quarantine is over, at most MaxBatchAccounts; they must be
// open. done says that none is left and the owner can be closed. Nothing while a batch of the owner is queued.
func (l *Ledger) NextReclaim(now time.Time, p *Predecessor) (changes []AccountChange, done bool) {
	if p.Closed || now.Before(p.Ready) || len(p.journal.batches) > 0 {
		return nil, false
	}
	for id := range p.Accounts {
		a := l.accounts[id]
		if a == nil {
			continue
		}
		g, ok := a.others[p.Owner]
		if !ok {
			delete(p.Accounts, id)
			continue
		}
		c := AccountChange{ID: id, GrantOwner: p.Owner, Grant: g, DropGrant: true, Budget: a.bud}
		c.Budget.Base += g.Spent
		c.Budget.Alloc -= g.Alloc - g.Spent
		changes = append(changes, c)
		if len(changes) == MaxBatchAccounts {
			break
		}
	}
	return changes, len(p.Accounts) == 0
}

// Reclaimed takes the commit of NextReclaim's changes.
func (l *Ledger) Reclaimed(p *Predecessor, changes []AccountChange, rev int64) {
	for _, c := range changes {
		l.apply(l.accounts[c.ID], c, rev)
		delete(p.Accounts, c.ID)
	}
}
