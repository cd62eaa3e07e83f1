package chartergate

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// What a client's leases do to one lease: ask for slices, retire and settle them.

// wish is a slice that is asked for.
type wish struct {
	lease   *Lease
	request *chartergatev1.SliceRequest
	sent    time.Time // first
	on      *leaseStream
}

// take makes a slice of an answer to a wish. Called with the lock.
func (l *Lease) take(w *wish, a *chartergatev1.SliceAnswer) *slice {
	in := a.GetSlice()
	now := time.Now()
	s := &slice{
		id: w.request.GetId(), lease: l, token: in.GetToken(), price: convert.PriceFromProto(in.GetPrice()), decision: a.GetDecision(),
		amount: money.Nanos(in.GetAmountNanos()), charge: in.GetChargeOnExpiry(),
		until: w.sent.Add(in.GetReserveWithin().AsDuration()), expires: w.sent.Add(in.GetExpireWithin().AsDuration()),
	}
	switch cur := l.current.Load(); {
	case l.closed || past(now, s.until): // it came too late
		s.retire()
		l.draining[s] = struct{}{}
	case cur == nil:
		l.current.Store(s)
	case l.spare != nil:
		l.retire(cur)
		l.spare = s
	default:
		l.spare = s
	}
	return s
}

func (l *Lease) ask(id uint64, requestID string) *chartergatev1.SliceRequest {
	call := template(l.call)
	call.Estimate = l.estimate
	return &chartergatev1.SliceRequest{Id: id, Call: call, Calls: l.calls, Ttl: durationpb.New(l.ttl), RequestId: requestID}
}

func (l *Lease) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// returnAll retires every slice. closing leases no more.
func (l *Lease) returnAll(closing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = l.closed || closing
	for _, s := range []*slice{l.current.Swap(nil), l.spare} {
		if s != nil {
			s.retire()
			l.draining[s] = struct{}{}
		}
	}
	l.spare = nil
}

// keep retires the slices that are old, and gives those that are to be settled. over says that nothing is left of a
// lease that is closed.
func (l *Lease) keep(now time.Time) (done []*slice, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := l.current.Load(); s != nil && past(now, s.until); s = l.current.Load() {
		l.retire(s)
	}
	for s := range l.draining {
		if s.done(now) {
			delete(l.draining, s)
			done = append(done, s)
		}
	}
	return done, l.closed && len(l.draining) == 0 && l.asked == nil
}

// giveUpWish expects no answer any more.
func (l *Lease) giveUpWish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = nil
}

// wish says that a slice is to be asked for: one is needed now, or the one in use gets old.
func (l *Lease) wish(now time.Time) *wish {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked != nil || l.closed || l.spare != nil || now.Before(l.refused) {
		return nil
	}
	if s := l.current.Load(); !l.wanted.Load() && (s == nil || !s.aging(now)) {
		return nil
	}
	l.asked = &wish{lease: l}
	return l.asked
}

// aging says that a slice is in use and near its end.
func (s *slice) aging(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.began.IsZero() && past(now, s.until.Add(-renewBefore))
}

// Limits of how long to wait after a refusal before a slice is asked for again.
const (
	renewBefore = 2 * time.Second
	leastPause  = 100 * time.Millisecond
	usualPause  = time.Second
	mostPause   = 5 * time.Second
)

// answered takes the answer to a wish; its slice, if there is one.
func (l *Lease) answered(w *wish, a *chartergatev1.SliceAnswer) (s *slice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = nil
	l.wanted.Store(false)
	if a.GetSlice() == nil {
		pause := usualPause
		if d := a.GetDecision().GetRetryDelay(); d != nil {
			pause = min(max(d.AsDuration(), leastPause), mostPause)
		}
		l.refused = time.Now().Add(pause)
	} else {
		s = l.take(w, a)
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return s
}

// remember keeps a settled slice, and gives one that is to be forgotten for it.
func (l *Lease) remember(s *slice) (old *slice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.settled = append(l.settled, s); len(l.settled) > settledSlices {
		old = l.settled[0]
		l.settled = slices.Delete(l.settled, 0, 1)
	}
	return old
}
