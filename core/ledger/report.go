package ledger

import "github.com/chartergate/chartergate/core/money"

// Backlog is how many batches, and entries in them, are queued or under way and not committed: of this owner's journal
// and of those that it looks after.
func (l *Ledger) Backlog() (batches, entries int) {
	for _, j := range l.journals() {
		batches += len(j.batches)
		for _, b := range j.batches {
			entries += len(b.Entries)
		}
	}
	return batches, entries
}

// unread is what other owners were granted, less what they returned, since their grants were read.
func (a *Account) unread() money.Nanos {
	x := a.grantedElsewhere()
	for _, g := range a.others {
		x -= g.Alloc
	}
	return x
}

// Unread says that the grants of other owners have changed since they were read.
func (a *Account) Unread() bool { return a.unread() != 0 }

// Misplaced says that x was refused and would fit if what other owners that live were granted, and are not known to have
// settled, were here.
func (r *Refusal) Misplaced(x money.Nanos) bool {
	return r.State.Elsewhere > 0 && max(r.Remaining, r.State.Remaining())+r.State.Elsewhere >= x
}
