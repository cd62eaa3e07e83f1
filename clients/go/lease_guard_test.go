package chartergate

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// A slice lets a call in only while it may, and only up to its amount.
func TestWhatASliceLetsIn(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		change func(*slice)
		cost   int64
		want   bool
	}{
		"all of it":           {func(*slice) {}, 100, true},
		"more than it has":    {func(*slice) {}, 101, false},
		"what is left":        {func(s *slice) { s.held, s.spent = 30, 20 }, 50, true},
		"more than is left":   {func(s *slice) { s.held, s.spent = 30, 20 }, 51, false},
		"nothing, overspent":  {func(s *slice) { s.spent = 101 }, 0, false},
		"at its end":          {func(s *slice) { s.until = now }, 1, false},
		"after a sleep":       {func(s *slice) { s.until = now.Add(time.Hour).Round(0).Add(-2 * time.Hour) }, 1, false},
		"retired":             {func(s *slice) { s.retired = true }, 1, false},
		"with too many calls": {func(s *slice) { s.made = maxHolds }, 1, false},
	} {
		s := &slice{amount: 100, until: now.Add(time.Second)}
		c.change(s)
		if got := s.check(now, money.Nanos(c.cost)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	// The clock that does not jump and the wall clock each end a slice alone.
	at := now.Add(time.Second)
	if past(now, at) || !past(now.Add(time.Second), at) || !past(now.Round(0).Add(2*time.Second), at) {
		t.Error("an instant passes at the wrong time")
	}
}

// What a call does not use is there for the next; what it used above its hold is not.
func TestMoneyComesBackToTheSlice(t *testing.T) {
	now := time.Now()
	s := &slice{amount: 100, until: now.Add(time.Minute)}
	take := func(cost int64) int {
		t.Helper()
		n, _, ok := s.reserve(now, money.Nanos(cost))
		if !ok {
			t.Fatalf("%d do not fit: %d held, %d spent", cost, s.held, s.spent)
		}
		return n
	}
	full := take(100)
	s.end(full, holdLive, holdReleased)
	full = take(100)
	s.settle(full, &usage.Usage{}, 30, usage.OutcomeSuccess)
	over := take(70)
	s.settle(over, &usage.Usage{}, 71, usage.OutcomeFailure)
	if s.check(now, 0) || s.held != 0 || s.spent != 101 || s.live != 0 {
		t.Errorf("%d held, %d spent, %d in flight", s.held, s.spent, s.live)
	}
	if use := s.sum(); use.Calls != 2 || use.Successes != 1 || use.Failures != 1 || use.CostNanos != 101 {
		t.Errorf("%v", use)
	}
}

// loser drops the first slice that it is given, and breaks the stream.
type loser struct {
	grpc.ClientStream
	lost *atomic.Int32
}

func (l *loser) RecvMsg(m any) error {
	if err := l.ClientStream.RecvMsg(m); err != nil {
		return err
	}
	if r, ok := m.(*chartergatev1.LeaseResponse); ok && len(r.Slices) > 0 && l.lost.Add(1) == 1 {
		return status.Error(codes.Unavailable, "the stream broke")
	}
	return nil
}

// A slice whose answer is lost is not held twice.
func TestALostSliceIsAskedForAgain(t *testing.T) {
	h := newHouse(t)
	var lost atomic.Int32
	c := h.dial(WithDialOptions(grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := streamer(ctx, desc, cc, method, opts...)
		return &loser{s, &lost}, err
	})))
	l, err := c.Lease(chat(2000, 500))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held := h.status("chat").HeldNanos; lost.Load() != 2 || held != int64(l.current.Load().amount) {
		t.Errorf("%d answers, %d is held, the slice has %d", lost.Load(), held, l.current.Load().amount)
	}
}

// Slices follow consumption.
func TestSlicesAreSizedByConsumption(t *testing.T) {
	for name, c := range map[string]struct {
		began time.Duration // ago; 0: never used
		spent int64         // of 100
		old   bool
		want  int64
	}{
		"used up at once":  {50 * time.Millisecond, 100, false, 400},
		"used up soon":     {500 * time.Millisecond, 100, false, 200},
		"used up later":    {3 * time.Second, 100, false, 100},
		"old, well used":   {5 * time.Second, 80, true, 100},
		"old, hardly used": {5 * time.Second, 10, true, 50},
		"old, never used":  {0, 0, true, 50},
	} {
		l := &Lease{calls: 100, draining: map[*slice]struct{}{}, leases: &leases{kick: make(chan struct{}, 1)}}
		s := &slice{amount: 100, spent: money.Nanos(c.spent), until: time.Now().Add(time.Second)}
		if c.began > 0 {
			s.began = time.Now().Add(-c.began)
		}
		if c.old {
			s.until = time.Now()
		}
		if l.retire(s); l.calls != c.want || len(l.draining) != 1 || !s.retired {
			t.Errorf("%s: the next slice is for %d calls, want %d", name, l.calls, c.want)
		}
	}
}
