package ledger

import (
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// How grants are sized. A slice follows consumption: it doubles when it lasted less than SliceShort and shrinks when it
// lasted longer than SliceLong, and is at most a hundredth of the ceiling, or four calls: so that a crash puts about a
// tenth of a second's worth of spend out of reach, and a busy account asks the store some ten times a second.
const (
	SliceShort = 50 * time.Millisecond
	SliceLong  = 400 * time.Millisecond
	// IdleAfter is how long a grant may lie unused before it is returned.
	IdleAfter = 30 * time.Second
	// CloseAfter is how long an account may lie unused before it is closed; it is opened again when it is needed.
	CloseAfter = 5 * time.Minute
)

// Adjustment is changes of grants and ceilings that are committed as one.
type Adjustment struct{ Changes []AccountChange }

// NextAdjustment gives the grants to take, the idle money to return and the ceilings to store, at most
// MaxBatchAccounts, of accounts that asked for attention. Money that is returned is debited here, before the transaction
// is sent. One is given at a time: until AdjustmentCommitted or Reload. False when there is nothing to do.
func (l *Ledger) NextAdjustment(now time.Time) (*Adjustment, bool) {
	var adj Adjustment
	for a := range l.attention {
		if len(adj.Changes) == MaxBatchAccounts {
			break
		}
		delete(l.attention, a)
		delta := a.want(now)
		newCeil := a.ceiling() != a.bud.Ceil
		if delta == 0 && !newCeil {
			continue
		}
		c := AccountChange{ID: a.ID, GrantOwner: l.Owner, Grant: a.own, Budget: a.bud}
		c.Grant.Alloc += delta
		c.Budget.Alloc += delta
		if newCeil && a.bud.Rev != 0 {
			c.Budget.Gen++
		}
		c.Budget.Ceil = a.ceiling()
		c.Grant.Gen = c.Budget.Gen
		if delta < 0 {
			a.own.Alloc += delta
		}
		adj.Changes = append(adj.Changes, c)
	}
	return &adj, len(adj.Changes) > 0
}

// Sweep asks for attention for every account whose grant or ceiling should change. Call it every few seconds.
func (l *Ledger) Sweep(now time.Time) {
	for _, a := range l.accounts {
		if a.ceiling() != a.bud.Ceil || a.wants(now) {
			l.attention[a] = struct{}{}
		}
	}
}

// wants says whether want would give something but 0.
func (a *Account) wants(now time.Time) bool {
	free, idle := a.ungranted(), a.idle()
	return (free < 0 && idle > 0) || a.wanted > 0 || a.low(now) || (idle > 0 && now.Sub(a.used) > IdleAfter)
}

// low says whether to ask for another slice before the grant runs out.
func (a *Account) low(now time.Time) bool {
	return a.idle() < a.slice/2 && a.ungranted() > 0 && now.Sub(a.used) < SliceLong
}

// want says by how much the grant should grow, or shrink.
func (a *Account) want(now time.Time) money.Nanos {
	free := a.ungranted()
	idle := a.idle()
	switch {
	case free < 0 && idle > 0: // a lowered ceiling drains
		return -min(idle, -free)
	case a.wanted > 0:
		need := max(0, a.wanted-idle)
		a.wanted = 0
		a.resize(now)
		return clamp(need, a.slice, free)
	case a.low(now):
		a.resize(now)
		return clamp(0, a.slice, free)
	case idle > 0 && now.Sub(a.used) > IdleAfter:
		a.slice = 0
		return -idle
	}
	return 0
}

// clamp is what to ask for: the need, with a slice on top of which at most half of the free rest is taken.
func clamp(need, slice, free money.Nanos) money.Nanos {
	if need >= free {
		return max(0, free)
	}
	return need + min(slice, (free-need+1)/2)
}

func (a *Account) resize(now time.Time) {
	lasted := now.Sub(a.granted)
	floor := a.ceiling() / 20_000
	switch {
	case a.slice < floor || a.slice == 0:
		a.slice = max(floor, 1)
	case lasted < SliceShort && a.slice < 1<<61:
		a.slice *= 2
	case lasted > SliceLong:
		a.slice = max(a.slice/2, floor)
	}
	a.slice = min(a.slice, max(a.ceiling()/100, 4*min(a.usual, a.ceiling()/4), 1))
	a.granted = now
}

// AdjustmentCommitted takes the commit of an adjustment.
func (l *Ledger) AdjustmentCommitted(adj *Adjustment, rev int64) {
	for _, c := range adj.Changes {
		l.apply(l.accounts[c.ID], c, rev)
	}
}

// Reload takes what the store says of accounts after a transaction whose outcome was a conflict, or unknown and then
// resolved.
func (l *Ledger) Reload(opened []Opened) {
	for _, o := range opened {
		if a := l.accounts[o.ID]; a != nil {
			a.bud, a.own, a.others = o.Budget, o.Own, o.Others
		}
	}
}

// Drain makes the next adjustments return all idle money, for a shutdown.
func (l *Ledger) Drain(now time.Time) {
	for _, a := range l.accounts {
		a.wanted, a.slice = 0, 0
		a.used = now.Add(-2 * IdleAfter)
	}
}

// CloseIdle closes accounts that nothing uses and whose grant is returned. It keeps memory bounded where keys come and
// go.
func (l *Ledger) CloseIdle(now time.Time) (closed int) {
	var candidates []*Account
	for _, a := range l.accounts {
		if now.Sub(a.used) >= CloseAfter && a.held == 0 && a.wanted == 0 && a.idle() == 0 && a.ceiling() == a.bud.Ceil {
			candidates = append(candidates, a)
		}
	}
	if len(candidates) == 0 {
		return 0
	}
	inUse := map[AccountID]bool{}
	for _, h := range l.holds { // a hold of nothing leaves held at 0
		for _, a := range h.Path {
			inUse[a.ID] = true
		}
	}
	for _, j := range l.journals() {
		for _, b := range j.batches {
			for id := range b.accounts {
				inUse[id] = true
			}
		}
	}
	for _, a := range candidates {
		if !inUse[a.ID] {
			delete(l.accounts, a.ID)
			delete(l.attention, a)
			closed++
		}
	}
	return closed
}

// WantsAdjustment says whether an account asked for attention.
func (l *Ledger) WantsAdjustment() bool { return len(l.attention) > 0 }
