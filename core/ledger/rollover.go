package ledger

import (
	"github.com/chartergate/chartergate/core/money"
)

// RollOver gives the changes that begin an account with the unspent rest of the period before, up to limit: the new
// account's record, and the one before sealed in the same transaction, so that what is rolled over cannot be granted there
// any more, whatever a slow clock says. What this owner holds idle of it is returned; what others hold counts as spent.
// beforeTerms are for a period before in which nothing was recorded. With ok false there is nothing to roll over.
func (l *Ledger) RollOver(next, before *Opened, terms, beforeTerms Terms, limit money.Nanos) (changes []AccountChange, ok bool) {
	if next.Budget.Rev != 0 || before.Budget.Sealed {
		return nil, false
	}
	old := AccountChange{ID: before.ID, GrantOwner: l.Owner, GrantFixed: true, Budget: before.Budget}
	if old.Budget.Rev == 0 {
		old.Budget.Ceil, old.Budget.TermsRev = beforeTerms.Limit, beforeTerms.Rev
	}
	if a := l.accounts[before.ID]; a != nil && a.own.Rev == before.Own.Rev && a.idle() > 0 {
		old.GrantFixed, old.Grant = false, a.own
		old.Grant.Alloc -= a.idle()
		old.Budget.Alloc -= a.idle()
		a.own.Alloc = old.Grant.Alloc
	}
	if a := l.accounts[before.ID]; a != nil {
		a.moving = true
	}
	old.Budget.Sealed = true
	rest := min(limit, max(0, old.Budget.Ceil-old.Budget.Alloc))
	begin := AccountChange{ID: next.ID, GrantOwner: l.Owner, GrantFixed: true}
	begin.Budget.Rollover, begin.Budget.TermsRev = rest, terms.Rev
	ceil, err := money.Add(terms.Limit, rest)
	if err != nil {
		ceil = money.Nanos(1<<63 - 1)
	}
	begin.Budget.Ceil = ceil
	return []AccountChange{old, begin}, true
}
