package ledger

import (
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/guard"
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
// is sent. One is given at a time: until AdjustmentCommitted or Reload. False when there is nothing to do; those who wait
// for a grant then have to look again.
func (l *Ledger) NextAdjustment(now time.Time) (*Adjustment, bool) {
	var adj Adjustment
	n := 0
	for _, a := range l.attention {
		if len(adj.Changes) == MaxBatchAccounts {
			break
		}
		n++
		a.queued = false
		if c, ok := l.change(a, now); ok {
			adj.Changes = append(adj.Changes, c)
		}
	}
	l.attention = slices.Delete(l.attention, 0, n)
	return &adj, len(adj.Changes) > 0
}

// change is what an account's records should become now; false when they are right.
func (l *Ledger) change(a *Account, now time.Time) (AccountChange, bool) {
	delta := a.want(now)
	c := AccountChange{ID: a.ID, GrantOwner: l.Owner, Grant: a.own, Budget: a.bud}
	if a.closing {
		a.closing = false
		if delta == 0 && a.own.Rev != 0 && a.held == 0 && a.idle() == 0 {
			c.DropGrant, a.moving = true, true
			c.Budget.Base += a.own.Spent
			return c, true
		}
	}
	changed := delta != 0
	if ceil := a.ceiling(); ceil != a.bud.Ceil {
		c.Budget.Ceil, c.Budget.TermsRev, changed = ceil, a.terms.Rev, true
		if a.bud.Rev != 0 {
			c.Budget.Gen++
		}
	}
	if tight := a.shouldBeTight(delta); tight != a.bud.Tight {
		c.Budget.Tight, changed = tight, true
	}
	a.tighten = false
	c.Grant.Alloc += delta
	c.Budget.Alloc += delta
	if a.own.Rev != 0 && a.own.Gen != c.Budget.Gen { // the ceiling is acknowledged
		c.BudgetFixed = !changed
		changed = true
	}
	c.Grant.Gen = c.Budget.Gen
	if delta == 0 && a.own.Rev == 0 {
		c.GrantFixed = true
	}
	if delta < 0 && guard.DebitBeforeReturn {
		a.own.Alloc += delta
	}
	a.moving = a.moving || changed && !c.BudgetFixed
	return c, changed
}

// shouldBeTight says whether one replica has to hold what is left, once delta more of it is granted: when a fair share of
// it is less than two calls, and until it is more than eight again.
func (a *Account) shouldBeTight(delta money.Nanos) bool {
	if a.alone() || a.bud.Sealed {
		return a.bud.Tight
	}
	share := (a.ungranted() - max(0, delta)) / money.Nanos(2*len(a.all.list))
	if a.bud.Tight {
		return !a.atHome || share <= 8*a.usual || a.usual == 0
	}
	return a.tighten || delta > 0 && share < 2*a.usual
}

// Sweep asks for attention for every account whose grant or ceiling should change. Call it every few seconds.
func (l *Ledger) Sweep(now time.Time) {
	for _, a := range l.list {
		if a.wants(now) {
			l.attend(a)
		}
	}
}

// wants says whether the account's records may have to change.
func (a *Account) wants(now time.Time) bool {
	idle := a.idle()
	return (a.ungranted() < 0 && idle > 0) || a.wanted > 0 || a.low(now) || (idle > 0 && a.returns(now)) ||
		a.ceiling() != a.bud.Ceil || a.own.Rev != 0 && a.own.Gen != a.bud.Gen || a.bud.Tight && !a.shouldBeTight(0)
}

// returns says whether idle money should go back: nobody has asked for it for a while, its period is over, or another
// replica is to hold what is left.
func (a *Account) returns(now time.Time) bool {
	return now.Sub(a.used) > IdleAfter || now.Unix() >= a.ID.End || a.bud.Tight && !a.atHome
}

// low says whether to ask for another slice before the grant runs out.
func (a *Account) low(now time.Time) bool {
	return a.idle() < a.slice/4 && a.share() > 0 && now.Sub(a.used) < SliceLong && now.Unix() < a.ID.End
}

// want says by how much the grant should grow, or shrink.
func (a *Account) want(now time.Time) money.Nanos {
	free := a.ungranted()
	idle := a.idle()
	switch {
	case free < 0 && idle > 0: // a lowered ceiling drains
		a.wanted = 0
		return -min(idle, -free)
	case a.wanted > 0:
		need := max(0, a.wanted-idle)
		a.wanted = 0
		a.resize(now)
		return a.ask(need)
	case idle > 0 && a.returns(now):
		a.slice = 0
		return -idle
	case a.low(now):
		a.resize(now)
		return a.ask(0)
	}
	return 0
}

// ask is what to ask for: the need and a slice on top, of which at most half of the free rest is taken, within the
// owner's share. The home replica goes beyond its share for a need; another asks for nothing then and forwards the call.
func (a *Account) ask(need money.Nanos) money.Nanos {
	free, share := a.ungranted(), a.share()
	must := a.atHome || a.here
	a.here = false
	switch {
	case must && need >= free:
		return max(0, free)
	case must:
		return max(need, min(need+min(a.slice, (free-need+1)/2), share))
	case need > share:
		return 0
	}
	return min(need+a.slice, share)
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
func (l *Ledger) AdjustmentCommitted(adj *Adjustment, rev int64, now time.Time) {
	for _, c := range adj.Changes {
		l.apply(l.accounts[c.ID], c, rev, now)
	}
}

// Reload takes what the store says of accounts: after a transaction whose outcome was a conflict, or unknown and then
// resolved, or because somebody wants to know. Not while a transaction of theirs is under way.
func (l *Ledger) Reload(opened []Opened, now time.Time) {
	for _, o := range opened {
		a := l.accounts[o.ID]
		if a == nil {
			continue
		}
		// A Refresh that read later may have come before: it has left the own grant as the lost transaction made it.
		if o.Rev >= a.own.Rev {
			a.own = o.Own
		}
		if o.Rev >= a.read {
			a.others, a.read, a.whole, a.looked = o.Others, o.Rev, o.Rev, now
		}
		for _, t := range o.Alerted {
			if !slices.Contains(a.alerted, t) {
				a.alerted = append(a.alerted, t)
			}
		}
		a.observe(o.Budget, now)
		a.arrived(now)
		if a.wants(now) {
			l.attend(a)
		}
	}
}

// Refresh takes what was read of other owners, and newer budgets. Unlike Reload it leaves this owner's grants alone, and
// may be called at any time.
func (l *Ledger) Refresh(opened []Opened, now time.Time) {
	for _, o := range opened {
		a := l.accounts[o.ID]
		if a == nil || o.Rev < a.read {
			continue
		}
		a.others, a.read, a.whole, a.looked = o.Others, o.Rev, o.Rev, now
		if !a.moving {
			a.observe(o.Budget, now)
		}
		if a.wants(now) {
			l.attend(a)
		}
	}
}

// Drain makes the next adjustments return all idle money and fold what is settled, for a shutdown.
func (l *Ledger) Drain(now time.Time) {
	l.journal.last = 0 // no batch waits for more entries
	for _, a := range l.list {
		a.wanted, a.slice = 0, 0
		a.used = now.Add(-2 * IdleAfter)
		a.closing = a.idle() == 0
		l.attend(a)
	}
}

// Clean says that no grant of this owner is left.
func (l *Ledger) Clean() bool {
	return !slices.ContainsFunc(l.list, func(a *Account) bool { return a.own.Rev != 0 || a.held != 0 }) && len(l.holds) == 0 && len(l.journal.batches) == 0
}

// CloseIdle closes accounts that nothing uses: their grant is returned, then folded into the base, then they are
// forgotten. It keeps memory bounded where keys come and go.
func (l *Ledger) CloseIdle(now time.Time) (closed int) {
	var candidates []*Account
	for _, a := range l.list {
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
	for _, p := range l.dead {
		for _, id := range p.Accounts {
			inUse[id] = true // to be reclaimed
		}
	}
	for _, a := range candidates {
		switch {
		case inUse[a.ID]:
		case a.own.Rev != 0:
			a.closing = true
			l.attend(a)
		default:
			l.forget(a)
			closed++
		}
	}
	return closed
}

// WantsAdjustment says whether an account asked for attention.
func (l *Ledger) WantsAdjustment() bool { return len(l.attention) > 0 }
