package ledger

import (
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Refusal says why no amount could be held.
type Refusal struct {
	Account   *Account    // the one that bound the smallest amount most tightly
	Amount    money.Nanos // the smallest amount that was tried
	Remaining money.Nanos // what could be held on Account
	State     State       // of Account
}

// InFlight says that the amount would fit if the money held by calls in flight, or by other replicas, came back.
func (r *Refusal) InFlight() bool {
	return r.State.Held > 0 && r.State.Ceil-r.State.Settled >= max(r.Amount, 1)
}

// Result is what Reserve found.
type Result struct {
	Hold    *Hold
	Choice  int           // index of the amount that fits; -1: none
	Bound   *Account      // what the first amount did not fit, when Choice is another
	Wait    bool          // a grant is needed first: commit NextAdjustment, then reserve again
	AtMost  time.Duration // with Wait: how long that may help, if not for as long as it takes
	Forward bool          // the home replica of the tree has to decide
	Refused Refusal       // with Choice -1
}

// Reserve holds the first of the amounts that fits on every account of the path, all or nothing. When an amount would
// fit once more of a ceiling is granted, it asks for that and answers Wait instead of holding a later amount. Near a
// ceiling it answers Forward where another replica holds what is left, unless here is set: then it takes what it can.
func (l *Ledger) Reserve(now time.Time, path []*Account, amounts []money.Nanos, ttl time.Duration, call Call, here bool) Result {
	res := l.reach(now, path, amounts, here)
	if res.Choice < 0 || res.Forward {
		return res
	}
	x := amounts[res.Choice]
	for _, a := range path {
		a.used = now
		if room, _ := a.room(); x > room {
			a.wanted += x
			a.here = a.here || here
			l.attend(a)
			res.Wait = true
		}
	}
	if res.Wait {
		return res
	}
	l.seq++
	h := &Hold{Seq: l.seq, Amount: x, Expires: now.Add(ttl), Call: call, Path: slices.Clone(path)}
	for _, a := range path {
		a.held += x
		a.usual = max(x, a.usual-a.usual/64)
		if a.low(now) {
			l.attend(a)
		}
		h.Charge = h.Charge || a.terms.Charge
	}
	l.holds[h.Seq] = h
	l.expireAt(h)
	res.Hold = h
	return res
}

// Check finds what Reserve would do, without holding anything.
func (l *Ledger) Check(now time.Time, path []*Account, amounts []money.Nanos, here bool) Result {
	return l.reach(now, path, amounts, here)
}

// reach finds the first amount that fits, and whether this owner may take what that needs.
func (l *Ledger) reach(now time.Time, path []*Account, amounts []money.Nanos, here bool) Result {
	res := choose(path, amounts)
	if len(l.all.list) == 1 {
		return res
	}
	home := here || path[0].atHome
	if res.Choice < 0 {
		if !home {
			res.Forward = true
			return res
		}
		res.Wait, res.AtMost = l.recall(now, path, res.Refused.Amount)
		return res
	}
	if x := amounts[res.Choice]; !home {
		for _, a := range path {
			if room, _ := a.room(); x > room && a.wanted+x-room > a.share() {
				res.Forward = true
			}
		}
	}
	return res
}

// Recall asks for the idle money of other replicas where a budget of the path is used up without it, and says whether to
// wait for it.
func (l *Ledger) Recall(now time.Time, path []*Account) (wait bool, atMost time.Duration) {
	if len(l.all.list) == 1 {
		return false, 0
	}
	return l.recall(now, path, 1)
}

// recall asks for the idle money of other replicas before a call is refused, and says whether to wait for it.
func (l *Ledger) recall(now time.Time, path []*Account, x money.Nanos) (wait bool, atMost time.Duration) {
	for _, a := range path {
		if _, most := a.room(); x <= most || a.bud.Rev == 0 || a.grantedElsewhere() <= 0 || a.bud.Sealed {
			continue // of a sealed period what comes back is not granted again
		}
		if !a.bud.Tight {
			a.tighten = true
			l.attend(a)
			wait, atMost = true, TightWait
		} else if left := TightWait - now.Sub(a.tight); left > 0 && left <= TightWait {
			wait, atMost = true, max(atMost, left)
		}
	}
	return wait, atMost
}

// choose finds the first amount that fits on every account, once all that is left of each is granted.
func choose(path []*Account, amounts []money.Nanos) Result {
	res := Result{Choice: -1}
	for i, x := range amounts {
		var bound *Account
		left := money.Nanos(1<<63 - 1)
		for _, a := range path {
			if _, most := a.room(); x > most && most < left {
				bound, left = a, most
			}
		}
		if bound == nil {
			res.Choice = i
			return res
		}
		if res.Bound == nil {
			res.Bound = bound
		}
		if res.Refused.Account == nil || x < res.Refused.Amount {
			res.Refused = Refusal{bound, x, max(0, left), bound.State()}
		}
	}
	return res
}
