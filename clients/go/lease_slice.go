package chartergate

import (
	"maps"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxHolds = 65_536 // calls of one slice, which bounds what is remembered of it
	chunk    = 256
)

// past says whether an instant has passed, by the clock that does not jump or by the one that goes on while the machine
// sleeps: holding too short is safe.
func past(now, at time.Time) bool {
	return !now.Before(at) || !now.Round(0).Before(at.Round(0))
}

// slice is money that the server has set aside for many calls, and the calls that were made of it.
type slice struct {
	id       uint64 // in this client
	lease    *Lease
	price    *pricing.Price
	decision *chartergatev1.Decision
	amount   money.Nanos
	charge   bool      // what is held for a call that is not settled in time
	until    time.Time // no new call after it

	mu       sync.Mutex
	token    string
	expires  time.Time // every call must have ended
	began    time.Time // of its first call
	spent    money.Nanos
	held     money.Nanos
	live     int           // calls in flight
	made     int           // calls so far
	holds    [][]localHold // in chunks, so that they never move
	use      usage.Usage   // with what follows: of the settled calls, in sum
	outcomes [3]int64      // by Outcome
	reported int64         // calls in the last report
	lowTold  bool
	retired  bool // no new calls
	closed   bool // settled with the server, or about to be
}

// localHold is what one call holds of a slice, or has cost.
type localHold struct {
	held, cost money.Nanos
	state      holdState
}

type holdState uint8

const (
	holdLive holdState = iota
	holdSettled
	holdReleased
	holdOutside  // live, and being recorded with the server without a hold
	holdRecorded // so it was
	holdExpired  // with its slice, so it can be recorded only
	holdCharged  // when it expired
)

// fits says whether a call of this cost can be made now. Called with the lock.
func (s *slice) fits(now time.Time, cost money.Nanos) bool {
	return !s.retired && cost <= s.amount-s.spent-s.held && s.made < maxHolds && !past(now, s.until)
}

func (s *slice) check(now time.Time, cost money.Nanos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fits(now, cost)
}

// reserve holds for a call. low says, once, that more will be needed soon.
func (s *slice) reserve(now time.Time, cost money.Nanos) (n int, low, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fits(now, cost) {
		return 0, false, false
	}
	n = s.made
	if n == 0 {
		s.began = now
	}
	if n%chunk == 0 {
		s.holds = append(s.holds, make([]localHold, chunk))
	}
	s.made++
	s.at(n).held = cost
	s.held += cost
	s.live++
	if !s.lowTold && (s.amount-s.spent-s.held < s.amount/2 || n > maxHolds/2) {
		s.lowTold, low = true, true
	}
	return n, low, true
}

// settle takes the cost of a call, and gives the hold as it was. ok is false where the call could not be settled: it
// was over, or its usage does not fit the sum.
func (s *slice) settle(n int, u *usage.Usage, cost money.Nanos, outcome usage.Outcome) (was localHold, drained, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.at(n)
	was = s.look(h)
	if was.state != holdLive || !s.use.Add(u) {
		return was, false, false
	}
	s.spent += cost
	s.outcomes[outcome]++
	h.cost = cost
	return was, s.over(h, holdSettled), true
}

// end takes a hold from one state to another without settling it.
func (s *slice) end(n int, from, to holdState) (was localHold, drained, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.at(n)
	if was = s.look(h); was.state != from {
		return was, false, false
	}
	if to == holdLive || to == holdOutside {
		h.state = to
		return was, false, true
	}
	return was, s.over(h, to), true
}

// over frees what is held. Called with the lock.
func (s *slice) over(h *localHold, state holdState) (drained bool) {
	h.state = state
	s.held -= h.held
	s.live--
	return s.retired && s.live == 0
}

// at finds a hold. Called with the lock.
func (s *slice) at(n int) *localHold { return &s.holds[n/chunk][n%chunk] }

// look is a hold as it stands: one in flight in a slice that is closed has expired. Called with the lock.
func (s *slice) look(h *localHold) localHold {
	was := *h
	if s.closed && (was.state == holdLive || was.state == holdOutside) {
		was.state = holdExpired
		if s.charge {
			was.state, was.cost = holdCharged, was.held
		}
	}
	return was
}

// retire lets no more calls in.
func (s *slice) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
}

// done says whether a retired slice can be settled with the server: no call is in flight, or they have all expired.
func (s *slice) done(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live == 0 || past(now, s.expires)
}

// close gives what is to be settled with the server. Calls in flight have expired with it.
func (s *slice) close() (token string, use *chartergatev1.SliceUse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired, s.closed = true, true
	use = s.sum()
	if s.charge {
		use.CostNanos += int64(s.held)
		use.Calls += int64(s.live)
	}
	return s.token, use
}

// report gives what is new since the last report; nil: nothing.
func (s *slice) report() *chartergatev1.SliceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	use := s.sum()
	if use.Calls == s.reported || s.closed {
		return nil
	}
	s.reported = use.Calls
	return &chartergatev1.SliceReport{Slice: s.token, Use: use}
}

// forget lets the next report tell everything again.
func (s *slice) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reported = 0
}

func (s *slice) sum() *chartergatev1.SliceUse {
	used := convert.UsageToProto(&s.use)
	used.ToolCalls = maps.Clone(used.ToolCalls) // it leaves the lock
	return &chartergatev1.SliceUse{
		CostNanos: int64(s.spent), Usage: used, Calls: s.outcomes[0] + s.outcomes[1] + s.outcomes[2],
		Successes: s.outcomes[usage.OutcomeSuccess], Failures: s.outcomes[usage.OutcomeFailure],
	}
}

// busy says how much of the slice is taken, in per mille, and since when.
func (s *slice) busy() (permille int32, began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.amount == 0 {
		return int32(s.made * 1000 / maxHolds), s.began
	}
	return money.Permille(s.spent+s.held, s.amount), s.began
}
