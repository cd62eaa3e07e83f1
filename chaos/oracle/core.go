package oracle

import (
	"cmp"
	"slices"
	"sort"
	"time"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// step is a change of what is taken of an account.
type step struct {
	at    int64
	delta int64
}

// series is what is taken of an account over time.
type series struct {
	steps []step
	sums  []int64 // after each step
}

func (s *series) add(at, delta int64) { s.steps = append(s.steps, step{at, delta}) }

func (s *series) seal() {
	// What ends at a moment ends before what begins at it.
	slices.SortFunc(s.steps, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.delta, b.delta)) })
	sum := int64(0)
	for _, x := range s.steps {
		sum += x.delta
		s.sums = append(s.sums, sum)
	}
}

// at is what is taken at a time, with all that happens at it.
func (s *series) at(t int64) int64 {
	n := sort.Search(len(s.steps), func(i int) bool { return s.steps[i].at > t })
	if n == 0 {
		return 0
	}
	return s.sums[n-1]
}

// floors gives, by account, what was certainly taken at each time: by holds between the answer of their Reserve and the
// first attempt to end them, or their expiry; and by what was settled of them in time, up to the hold.
func (h *History) floors(j *Journal, clock Clock) map[string]*series {
	all := map[string]*series{}
	add := func(account string, at, delta int64) {
		if all[account] == nil {
			all[account] = &series{}
		}
		all[account].add(at, delta)
	}
	holds := h.holds(j)
	for _, x := range holds {
		for _, account := range x.reserve.Accounts {
			add(account, x.reserve.End, x.reserve.Held)
			add(account, x.over(), admitted(x.entry)-x.reserve.Held)
		}
	}
	for _, e := range j.Entries { // charged, though nobody knew of the hold
		if holds[e.Hold()] == nil && admitted(e) > 0 {
			for _, account := range e.Accounts {
				add(account.Name, clock.monotonic(e.GetTimeMs()), admitted(e))
			}
		}
	}
	for _, s := range all {
		s.seal()
	}
	return all
}

// admitted is what an entry counts towards a ceiling for good: what was settled in time, up to the hold.
func admitted(e *Entry) int64 {
	if e == nil || e.GetLate() || e.GetKind() == storev1.EntryKind_ENTRY_KIND_USAGE {
		return 0
	}
	return e.GetAmount() - e.GetForced()
}

// Use is how one account stood against its ceiling.
type Use struct {
	Admissions int
	Overspend  int64 // the most by which it was passed; 0 where the ceiling held
	Closest    int64 // the least that was left under the ceiling at an admission
}

// CheckCore checks the promise: whenever a Reserve was answered with a hold, what was then certainly held, and settled of
// holds in time, was within the ceiling in force (CORE). A change of a ceiling may take up to stale to be in force
// everywhere.
func CheckCore(h *History, j *Journal, clock Clock, stale time.Duration) (map[string]*Use, []Violation) {
	var bad violations
	floors, limits, uses := h.floors(j, clock), h.ceilings(), map[string]*Use{}
	for _, x := range h.holds(j) {
		a := x.reserve
		for _, account := range a.Accounts {
			_, most := of(limits, account).between(x.since, a.End, stale)
			left := most - floors[account].at(a.End)
			u := uses[account]
			if u == nil {
				u = &Use{Closest: left}
				uses[account] = u
			}
			u.Admissions++
			u.Closest = min(u.Closest, left)
			if left < 0 {
				u.Overspend = max(u.Overspend, -left)
				bad.add("CORE", "%s: %d nanos over the ceiling of %d when hold %s of %d was answered", account, -left, most, a.Hold, a.Held)
			}
		}
	}
	return uses, bad
}

// FalseDenials are refusals although the money was there: neither settled nor possibly held by anyone.
type FalseDenials struct {
	Refusals int   // for want of money, in all
	Count    int   // of them false
	Nanos    int64 // that these asked for
	MostFree int64 // the most that was free when one was refused
	Ceiling  int64 // in force then
}

// FalseDenialsOf counts refusals by account.
func FalseDenialsOf(h *History, j *Journal, clock Clock, stale, ttl time.Duration) map[string]*FalseDenials {
	limits, result := h.ceilings(), map[string]*FalseDenials{}
	up, down := h.most(j, clock, ttl)
	for _, a := range h.Attempts {
		if a.Op != Reserve || a.Outcome != Denied && a.Outcome != Throttled || a.Bound == "" {
			continue
		}
		f := result[a.Bound]
		if f == nil {
			f = &FalseDenials{}
			result[a.Bound] = f
		}
		f.Refusals++
		ceil, _ := of(limits, a.Bound).between(a.Start, a.End, stale)
		taken := int64(0)
		if up[a.Bound] != nil {
			taken = up[a.Bound].at(a.End) - down[a.Bound].at(a.Start)
		}
		if free := ceil - taken; free >= a.Ask && a.Ask > 0 {
			f.Count++
			f.Nanos += a.Ask
			if free > f.MostFree {
				f.MostFree, f.Ceiling = free, ceil
			}
		}
	}
	return result
}

// most gives, by account, what may have been taken at most, as what came and what went: the difference of the two at the
// end and the start of an interval is the most in it.
func (h *History) most(j *Journal, clock Clock, ttl time.Duration) (up, down map[string]*series) {
	up, down = map[string]*series{}, map[string]*series{}
	add := func(account string, from, to, amount, stays int64) {
		if up[account] == nil {
			up[account], down[account] = &series{}, &series{}
		}
		up[account].add(from, amount+max(0, stays-amount))
		if stays < amount {
			down[account].add(to, amount-stays)
		}
	}
	slack := int64(clock.Grace + time.Second)
	holds := h.holds(j)
	for _, x := range holds {
		over, stays := x.expires+slack, int64(0)
		for _, a := range x.ends {
			if a.End != 0 && (a.Outcome == OK) {
				over = min(over, a.End)
			}
		}
		if x.entry != nil {
			stays = x.entry.GetAmount()
		}
		for _, account := range x.reserve.Accounts {
			add(account, x.reserve.Start, over, x.reserve.Held, stays)
		}
	}
	for _, a := range h.Attempts { // a hold that nobody was told of
		if a.Op == Reserve && a.Outcome == Unknown {
			for _, account := range a.Accounts {
				add(account, a.Start, a.Start+int64(ttl)+2*slack, a.Ask, 0)
			}
		}
	}
	for _, m := range []map[string]*series{up, down} {
		for _, s := range m {
			s.seal()
		}
	}
	return up, down
}
