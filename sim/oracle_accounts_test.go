package sim

import (
	"slices"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// budget takes a budget's record. It gives the account when that begins with money of the period before.
func (o *oracle) budget(ch *change) *account {
	c := &o.w.count
	if ch.now == nil {
		o.fail("I1", "%s is deleted", ch.key)
		return nil
	}
	now := decode(ch.now.Value, new(storev1.BudgetAccount))
	a := o.account(idOf(now.GetAccount()))
	was := a.bud
	a.bud = now
	o.touch(a)
	if was == nil {
		was = &storev1.BudgetAccount{Rollover: now.GetRollover(), TermsRev: now.GetTermsRev(), Ceil: now.GetCeil()}
		switch {
		case a.id.Key != "":
			c.Keys++
		case a.id.Overflow != "":
			c.Overflow++
		}
		if a.id.Start == midnight {
			c.AfterMidnight++
		}
	}
	before, after := was.GetAlloc()-was.GetForced(), now.GetAlloc()-now.GetForced()
	switch {
	case after > before:
		c.Grants++
		if after > now.GetCeil() {
			o.fail("I2", "%s: %d are granted beyond forced spend, the ceiling is %d", a.id, after, now.GetCeil())
		}
		if was.GetSealed() {
			o.fail("sealed", "%s: %d more are granted of a period whose rest was rolled over", a.id, after-before)
		}
	case after < before:
		c.Returns++
	}
	if was.GetSealed() && !now.GetSealed() {
		o.fail("sealed", "%s is opened again", a.id)
	}
	if now.GetSealed() && !was.GetSealed() {
		c.Sealed++
	}
	if now.GetTight() && !was.GetTight() {
		c.Tight++
	}
	if now.GetForced() > was.GetForced() {
		c.Forced++
	}
	if now.GetRollover() != was.GetRollover() {
		o.fail("rollover", "%s: changes from %d to %d", a.id, was.GetRollover(), now.GetRollover())
	}
	if now.GetTermsRev() < was.GetTermsRev() {
		o.fail("terms", "%s: the ceiling of revision %d is replaced by that of %d", a.id, was.GetTermsRev(), now.GetTermsRev())
	}
	switch {
	case now.GetCeil() > was.GetCeil():
		c.CeilingRaised++
	case now.GetCeil() < was.GetCeil():
		c.CeilingLowered++
		if after > now.GetCeil() {
			c.Draining++
		}
	}
	if want, ok := o.w.limitAt(a.id, now.GetTermsRev()); ok && now.GetCeil() != int64(want)+now.GetRollover() {
		o.fail("terms", "%s: the ceiling is %d, the control records of revision %d say %d + rollover %d", a.id, now.GetCeil(), now.GetTermsRev(), want, now.GetRollover())
	}
	if ch.was == nil && now.GetRollover() > 0 {
		c.Rollovers++
		return a
	}
	return nil
}

// rolledOver checks that what a period begins with was left of the one before, and cannot be granted there any more.
func (o *oracle) rolledOver(a *account) {
	before := a.id
	before.End = a.id.Start
	before.Start = a.id.Start - 86400
	prev := o.accounts[before]
	if prev == nil || prev.bud == nil || !prev.bud.GetSealed() {
		o.fail("rollover", "%s begins with %d of a period that is not sealed", a.id, a.bud.GetRollover())
		return
	}
	left := max(0, prev.bud.GetCeil()-prev.bud.GetAlloc())
	if b := o.w.control.snap.Budget(a.id.Budget); b != nil {
		left = min(left, int64(b.RolloverCap))
	}
	if a.bud.GetRollover() > left {
		o.fail("rollover", "%s begins with %d, %d were left", a.id, a.bud.GetRollover(), left)
	}
}

// grant takes the record of a grant.
func (o *oracle) grant(ch *change, who string) {
	value := ch.now
	if value == nil {
		value = ch.was
	}
	r := decode(value.Value, new(storev1.Grant))
	a, w := o.account(idOf(r.GetAccount())), o.owner(who)
	o.touch(a)
	i := slices.IndexFunc(a.grants, func(g *granted) bool { return g.owner == who })
	switch {
	case ch.now == nil:
		if g := a.grants[i]; w.live {
			o.w.count.Folded++
		} else {
			o.w.count.Reclaims++
			if w.quarantined && g.GetAlloc() != g.GetSpent() {
				o.fail("quarantine", "%s: the grant of %s is reclaimed in its quarantine", a.id, who)
			}
		}
		a.grants = slices.Delete(a.grants, i, i+1)
		w.grants--
	case i < 0:
		a.grants = append(a.grants, &granted{who, r})
		w.grants++
	default:
		if r.GetSpent() < a.grants[i].GetSpent() {
			o.fail("I7", "%s: what %s has spent shrinks from %d to %d", a.id, who, a.grants[i].GetSpent(), r.GetSpent())
		}
		a.grants[i] = &granted{who, r}
	}
}
