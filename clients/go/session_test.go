package chartergate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

type sessionStream = grpc.BidiStreamingServer[chartergatev1.SessionRequest, chartergatev1.SessionResponse]

func result(op *chartergatev1.SessionOperation) *chartergatev1.SessionResult {
	r, err := echo(context.Background(), op.GetReserve())
	if err != nil {
		return &chartergatev1.SessionResult{Id: op.GetId(), Result: &chartergatev1.SessionResult_Error{Error: &chartergatev1.SessionError{Code: int32(codes.Internal)}}}
	}
	return &chartergatev1.SessionResult{Id: op.GetId(), Result: &chartergatev1.SessionResult_Reserve{Reserve: r}}
}

// echoSession answers each message in the reverse order.
func echoSession(s sessionStream) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		results := make([]*chartergatev1.SessionResult, 0, len(r.Operations))
		for i := len(r.Operations) - 1; i >= 0; i-- {
			results = append(results, result(r.Operations[i]))
		}
		if err := s.Send(&chartergatev1.SessionResponse{Results: results}); err != nil {
			return err
		}
	}
}

func open(t testing.TB, g *gate) *Session {
	t.Helper()
	s, err := serve(t, g).Session(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// callAll makes calls from many goroutines at once and checks that each gets its own answer.
func callAll(t *testing.T, s *Session, goroutines, calls int) {
	t.Helper()
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range calls {
				feature := fmt.Sprintf("f-%d-%d", g, i)
				r := call(feature)
				r.RequestId = feature
				answer, err := s.Reserve(t.Context(), r)
				if err != nil || answer.GetDecision().GetModel() != feature || answer.GetHold().GetToken() != feature {
					t.Errorf("%s: %v, %v", feature, answer, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSessionGivesEachCallItsAnswer(t *testing.T) {
	var messages, operations, largest atomic.Int64
	s := open(t, &gate{session: func(st sessionStream) error {
		return echoSession(counting{st, func(n int) {
			messages.Add(1)
			operations.Add(int64(n))
			largest.Store(max(largest.Load(), int64(n)))
		}})
	}})
	callAll(t, s, 6000, 3)
	if operations.Load() != 18000 || messages.Load() > 9000 || largest.Load() > maxBatch {
		t.Errorf("%d operations in %d messages of at most %d", operations.Load(), messages.Load(), largest.Load())
	}
}

type counting struct {
	sessionStream
	count func(operations int)
}

func (c counting) Recv() (*chartergatev1.SessionRequest, error) {
	r, err := c.sessionStream.Recv()
	if err == nil {
		c.count(len(r.GetOperations()))
	}
	return r, err
}

func TestSessionKeepsWithinTheServersLimit(t *testing.T) {
	const calls = maxInFlight + 500
	full := make(chan struct{})
	var unanswered, most int
	s := open(t, &gate{session: func(st sessionStream) error {
		var ops []*chartergatev1.SessionOperation
		for answered := 0; answered < calls; {
			r, err := st.Recv()
			if err != nil {
				return err
			}
			ops = append(ops, r.Operations...)
			unanswered += len(r.Operations)
			most = max(most, unanswered)
			if len(ops) < maxInFlight && answered == 0 {
				continue
			}
			for _, op := range ops {
				answered++
				unanswered--
				if err := st.Send(&chartergatev1.SessionResponse{Results: []*chartergatev1.SessionResult{result(op)}}); err != nil {
					return err
				}
			}
			ops = nil
		}
		close(full)
		<-st.Context().Done()
		return nil
	}})
	callAll(t, s, calls, 1)
	<-full
	if most != maxInFlight {
		t.Errorf("%d operations were unanswered at most; want %d", most, maxInFlight)
	}
}

func TestSessionRepeatsCallsOnANewStream(t *testing.T) {
	var streams atomic.Int64
	s := open(t, &gate{session: func(st sessionStream) error {
		switch streams.Add(1) {
		case 1: // gone after taking work
			_, err := st.Recv()
			return err
		case 2:
			if _, err := st.Recv(); err != nil {
				return err
			}
			return status.Error(codes.Unavailable, "shutting down")
		}
		return echoSession(st)
	}})
	callAll(t, s, 300, 2)
	if streams.Load() != 3 {
		t.Errorf("%d streams; want 3", streams.Load())
	}
}

func TestSessionErrorsAreThoseOfUnaryCalls(t *testing.T) {
	var refused atomic.Bool
	s := open(t, &gate{session: func(st sessionStream) error {
		for {
			r, err := st.Recv()
			if err != nil {
				return err
			}
			for _, op := range r.Operations {
				e := &chartergatev1.SessionError{Code: int32(codes.NotFound), Message: "no charter", Reason: "FEATURE_UNKNOWN"}
				if refused.CompareAndSwap(false, true) { // the first is retried
					e = &chartergatev1.SessionError{Code: int32(codes.Unavailable), Reason: "LEDGER_UNAVAILABLE"}
				}
				if err := st.Send(&chartergatev1.SessionResponse{Results: []*chartergatev1.SessionResult{
					{Id: op.Id, Result: &chartergatev1.SessionResult_Error{Error: e}}}}); err != nil {
					return err
				}
			}
		}
	}})
	_, err := s.Reserve(t.Context(), call("chat"))
	if status.Code(err) != codes.NotFound || Reason(err) != "FEATURE_UNKNOWN" || status.Convert(err).Message() != "no charter" {
		t.Errorf("%v with reason %q", err, Reason(err))
	}
}

func TestSessionFailsOnlyTheCallThatCannotBeSent(t *testing.T) {
	s := open(t, &gate{session: echoSession})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			feature := fmt.Sprintf("f-%d", i)
			if i == 7 {
				feature = "\xff" // not UTF-8
			}
			_, err := s.Reserve(t.Context(), call(feature))
			if want := map[bool]codes.Code{true: codes.InvalidArgument}[i == 7]; status.Code(err) != want {
				t.Errorf("call %d: %v; want %v", i, err, want)
			}
		})
	}
	wg.Wait()
}

func TestSessionFailsCallsWithAnErrorThatLasts(t *testing.T) {
	s := open(t, &gate{session: func(st sessionStream) error {
		if _, err := st.Recv(); err != nil {
			return err
		}
		return status.Error(codes.PermissionDenied, "not you")
	}})
	if _, err := s.Reserve(t.Context(), call("chat")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v; want PERMISSION_DENIED", err)
	}
}

func TestSessionCallsEnd(t *testing.T) {
	taken := make(chan struct{}, 16)
	s := open(t, &gate{session: func(st sessionStream) error {
		for {
			if _, err := st.Recv(); err != nil {
				return err
			}
			taken <- struct{}{}
		}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-taken; cancel() }()
	if _, err := s.Reserve(ctx, call("chat")); status.Code(err) != codes.Canceled {
		t.Errorf("with its context: %v; want CANCELED", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Reserve(ctx, call("chat")); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("with its deadline: %v; want DEADLINE_EXCEEDED", err)
	}
	<-taken
	go func() { <-taken; s.Close() }()
	if _, err := s.Reserve(t.Context(), call("chat")); status.Code(err) != codes.Canceled {
		t.Errorf("with its session: %v; want CANCELED", err)
	}
	if _, err := s.Reserve(t.Context(), call("chat")); status.Code(err) != codes.Canceled {
		t.Errorf("after its session: %v; want CANCELED", err)
	}
}

func TestSessionEndsWithItsClient(t *testing.T) {
	c := serve(t, &gate{session: echoSession})
	s, err := c.Session(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	callAll(t, s, 1, 1)
	c.Close()
	if _, err := s.Reserve(t.Context(), call("chat")); status.Code(err) != codes.Canceled {
		t.Errorf("%v; want CANCELED", err)
	}
	<-s.done
}

func BenchmarkUnary64(b *testing.B) {
	c := serve(b, &gate{reserve: echo})
	b.ReportAllocs()
	run64(b, func() error { _, err := c.Reserve(context.Background(), call("chat")); return err })
}

func BenchmarkSession64(b *testing.B) {
	s := open(b, &gate{session: echoSession})
	b.ReportAllocs()
	run64(b, func() error { _, err := s.Reserve(context.Background(), call("chat")); return err })
}

func run64(b *testing.B, f func() error) {
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := f(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
