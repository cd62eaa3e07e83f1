package ledger

import (
	"hash/fnv"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// TightWait is how long the home replica of an account lets a call wait, rather than refuse it, for idle money that other
// replicas are about to return.
const TightWait = 300 * time.Millisecond

// owners is who shares the accounts now.
type owners struct {
	self string
	list []string // sorted; self is one of them
	live map[string]bool
}

func (o *owners) set(list []string) {
	o.list = slices.Sorted(slices.Values(list))
	if !slices.Contains(o.list, o.self) {
		o.list = append(o.list, o.self)
		slices.Sort(o.list)
	}
	o.live = make(map[string]bool, len(o.list))
	for _, owner := range o.list {
		o.live[owner] = true
	}
}

// home is the owner that holds what is left of a tree's budgets near their ceilings: rendezvous hashing, so that only
// the trees of an owner which comes or goes change their home.
func (o *owners) home(root string) string {
	if len(o.list) == 1 {
		return o.self
	}
	best, weight := o.self, uint64(0)
	for _, owner := range o.list {
		h := fnv.New64a()
		h.Write([]byte(owner))
		h.Write([]byte{0})
		h.Write([]byte(root))
		if w := mix(h.Sum64()); w >= weight {
			best, weight = owner, w
		}
	}
	return best
}

// mix spreads FNV's last bytes over all bits (the finalizer of MurmurHash3).
func mix(x uint64) uint64 {
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// SetRoster says which owners live. True when that is news.
func (l *Ledger) SetRoster(list []string) bool {
	before := l.all.list
	l.all.set(list)
	if slices.Equal(before, l.all.list) {
		return false
	}
	for _, a := range l.list { // shares and homes are others now
		a.SetTerms(a.terms)
		l.attend(a)
	}
	return true
}

// Owners gives the owners that live.
func (l *Ledger) Owners() []string { return l.all.list }

// Home is the owner that holds what is left of a tree's budgets near their ceilings.
func (l *Ledger) Home(root string) string {
	return l.all.home(root)
}

// alone says that no other owner lives.
func (a *Account) alone() bool { return len(a.all.list) == 1 }

// share is how much this owner may take at once of what is not granted.
func (a *Account) share() money.Nanos {
	free := a.ungranted()
	switch {
	case a.alone():
		return free
	case a.bud.Tight && a.atHome:
		return free
	case a.bud.Tight:
		return 0
	}
	return free / money.Nanos(2*len(a.all.list))
}

// observe takes a newer record of the budget.
func (a *Account) observe(b Budget, now time.Time) {
	if b.Rev < a.bud.Rev || b.Rev == 0 && a.bud.Rev == 0 && b == (Budget{}) {
		return
	}
	a.bud = b
	switch {
	case !b.Tight:
		a.tight = time.Time{}
	case a.tight.IsZero():
		a.tight = now
	}
}

// arrived says that a transaction of this owner is over: its grant and the budget fit together again.
func (a *Account) arrived(now time.Time) {
	a.moving = false
	a.observe(a.ahead, now)
}

// Observe takes a budget record that another owner wrote. It may come late or not at all: transactions compare the
// records that they were made from. True when the account is open and the record news.
func (l *Ledger) Observe(id AccountID, b Budget, now time.Time) bool {
	a := l.accounts[id]
	if a == nil || b.Rev <= a.bud.Rev {
		return false
	}
	if a.moving {
		if b.Rev > a.ahead.Rev {
			a.ahead = b
		}
		return false
	}
	a.observe(b, now)
	if a.wants(now) {
		l.attend(a)
	}
	return true
}
