package server

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// sessionClient is one raw stream.
type sessionClient struct {
	chartergatev1.PreflightService_SessionClient
}

func (g *gateRig) session(t *testing.T) sessionClient {
	t.Helper()
	stream, err := g.preflight.Session(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return sessionClient{stream}
}

// op wraps a request as an operation.
func op(id uint64, req proto.Message) *chartergatev1.SessionOperation {
	o := &chartergatev1.SessionOperation{Id: id}
	switch req := req.(type) {
	case *chartergatev1.CheckRequest:
		o.Operation = &chartergatev1.SessionOperation_Check{Check: req}
	case *chartergatev1.ReserveRequest:
		o.Operation = &chartergatev1.SessionOperation_Reserve{Reserve: req}
	case *chartergatev1.SettleRequest:
		o.Operation = &chartergatev1.SessionOperation_Settle{Settle: req}
	case *chartergatev1.ReleaseRequest:
		o.Operation = &chartergatev1.SessionOperation_Release{Release: req}
	case *chartergatev1.ExtendRequest:
		o.Operation = &chartergatev1.SessionOperation_Extend{Extend: req}
	}
	return o
}

// doAll sends operations in one message and gives their results by id, however they come.
func (s sessionClient) doAll(t *testing.T, ops ...*chartergatev1.SessionOperation) map[uint64]*chartergatev1.SessionResult {
	t.Helper()
	if err := s.Send(&chartergatev1.SessionRequest{Operations: ops}); err != nil {
		t.Fatal(err)
	}
	results := map[uint64]*chartergatev1.SessionResult{}
	for len(results) < len(ops) {
		resp, err := s.Recv()
		if err != nil {
			t.Fatalf("after %d of %d results: %v", len(results), len(ops), err)
		}
		if len(resp.Results) == 0 {
			t.Error("a message without results")
		}
		for _, r := range resp.Results {
			if results[r.Id] != nil {
				t.Errorf("operation %d is answered twice", r.Id)
			}
			results[r.Id] = r
		}
	}
	return results
}

func (s sessionClient) do(t *testing.T, o *chartergatev1.SessionOperation) *chartergatev1.SessionResult {
	t.Helper()
	r := s.doAll(t, o)[o.Id]
	if r == nil {
		t.Fatalf("operation %d is not answered", o.Id)
	}
	return r
}

// end closes the stream and expects it to end without error.
func (s sessionClient) end(t *testing.T) {
	t.Helper()
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after CloseSend comes %v (%v), want the end", r, err)
	}
}

func TestSession(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	s := g.session(t)
	reserve := &chartergatev1.ReserveRequest{Call: aCall(1000, 500)}
	got := s.doAll(t, op(7, reserve), op(5, reserve), op(1<<63, reserve), op(0, &chartergatev1.CheckRequest{Call: aCall(1000, 500)}))
	for _, id := range []uint64{7, 5, 1 << 63} {
		if r := got[id].GetReserve(); r.GetDecision().GetEffect() != allow || r.GetHold().GetAmountNanos() != 2_000_000 {
			t.Errorf("reserve %d gives %v", id, got[id])
		}
	}
	if c := got[0].GetCheck(); !proto.Equal(c.GetDecision(), got[7].GetReserve().GetDecision()) {
		t.Errorf("check gives %v", got[0])
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 6_000_000 {
		t.Errorf("%d is held", st.HeldNanos)
	}
	// Bad operations are answered one by one; the others and the stream go on.
	token := func(id uint64) string { return got[id].GetReserve().GetHold().GetToken() }
	mixed := s.doAll(t,
		op(1, &chartergatev1.SettleRequest{Hold: token(7), Usage: used(1000, 0)}),
		op(2, &chartergatev1.ReleaseRequest{Hold: token(5)}),
		op(3, &chartergatev1.ExtendRequest{Hold: token(1 << 63), Ttl: durationpb.New(maxHold)}),
		op(4, &chartergatev1.SettleRequest{Hold: "garbage", Usage: used(1, 1)}),
		op(5, &chartergatev1.ReserveRequest{}),
		op(6, &chartergatev1.ReserveRequest{Call: &chartergatev1.Call{Feature: "nobody", Estimate: &chartergatev1.Estimate{}}}),
		op(8, nil),
		op(9, &chartergatev1.ReserveRequest{Call: aCall(-1, 0)}),
		op(10, reserve),
	)
	if r := mixed[1].GetSettle().GetSettlement(); r.GetCostNanos() != 1_000_000 || r.GetReleasedNanos() != 1_000_000 {
		t.Errorf("settle gives %v", mixed[1])
	}
	if r := mixed[2].GetRelease(); r.GetReleasedNanos() != 2_000_000 {
		t.Errorf("release gives %v", mixed[2])
	}
	if r := mixed[3].GetExtend().GetHold(); !r.GetExpireTime().AsTime().Equal(noon.Add(maxHold)) {
		t.Errorf("extend gives %v", mixed[3])
	}
	for id, want := range map[uint64]struct {
		code   codes.Code
		reason string
	}{
		4: {codes.NotFound, "HOLD_UNKNOWN"}, 5: {codes.InvalidArgument, "INVALID"}, 6: {codes.NotFound, "FEATURE_UNKNOWN"},
		8: {codes.InvalidArgument, "INVALID"}, 9: {codes.InvalidArgument, "INVALID"},
	} {
		if e := mixed[id].GetError(); codes.Code(e.GetCode()) != want.code || e.GetReason() != want.reason || e.GetMessage() == "" {
			t.Errorf("operation %d gives %v, want %v", id, mixed[id], want)
		}
	}
	if mixed[10].GetReserve().GetHold() == nil {
		t.Errorf("the operation after bad ones gives %v", mixed[10])
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 4_000_000 || st.SettledNanos != 1_000_000 {
		t.Errorf("the budget is %v", st)
	}
	s.end(t)
}

// What was sent before CloseSend is answered before the end.
func TestSessionAnswersAllBeforeItEnds(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e12)
	s := g.session(t)
	const messages = 4
	for m := range messages {
		req := &chartergatev1.SessionRequest{}
		for i := range maxOperations {
			req.Operations = append(req.Operations, op(uint64(m*maxOperations+i), &chartergatev1.ReserveRequest{Call: aCall(1000, 500)}))
		}
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for {
		resp, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resp.Results {
			if r.GetReserve().GetHold() == nil || seen[r.Id] {
				t.Fatalf("result %v", r)
			}
			seen[r.Id] = true
		}
	}
	if held := g.status(t, "budgets/acme").HeldNanos; len(seen) != messages*maxOperations || held != messages*maxOperations*2_000_000 {
		t.Errorf("%d results, %d held", len(seen), held)
	}
}

func TestSessionMessageOfBadSize(t *testing.T) {
	g := startGate(t)
	for name, n := range map[string]int{"empty": 0, "too many": maxOperations + 1} {
		t.Run(name, func(t *testing.T) {
			s, req := g.session(t), &chartergatev1.SessionRequest{}
			for i := range n {
				req.Operations = append(req.Operations, op(uint64(i), nil))
			}
			if err := s.Send(req); err != nil {
				t.Fatal(err)
			}
			_, err := s.Recv()
			refused(t, err, codes.InvalidArgument, invalidReason, map[string]string{"field": "operations"}, strconv.Itoa(n), "it must have 1 to 512")
		})
	}
}

// slowReader is a service whose sessions send nothing until the test says so.
type slowReader struct {
	*PreflightService
	received atomic.Int64 // messages
	read     chan struct{}
}

func (s *slowReader) Session(stream chartergatev1.PreflightService_SessionServer) error {
	return s.PreflightService.Session(slowStream{stream, s})
}

type slowStream struct {
	chartergatev1.PreflightService_SessionServer
	*slowReader
}

func (s slowStream) Context() context.Context { return s.PreflightService_SessionServer.Context() }

func (s slowStream) Recv() (*chartergatev1.SessionRequest, error) {
	req, err := s.PreflightService_SessionServer.Recv()
	if err == nil {
		s.received.Add(1)
	}
	return req, err
}

func (s slowStream) SendMsg(resp any) error {
	select {
	case <-s.read:
	case <-s.Context().Done():
	}
	return s.PreflightService_SessionServer.SendMsg(resp)
}

func TestTooManyInFlight(t *testing.T) {
	slow := &slowReader{read: make(chan struct{})}
	g := startGate(t, func(c *Config) {
		slow.PreflightService = c.Preflight.(*PreflightService)
		c.Preflight = slow
	})
	g.chat(t, 1e9)
	s := g.session(t)
	// One message more than may be unanswered and than the first answers, which count as given once they are on the way.
	const messages = maxInFlight/maxOperations + 1
	for m := range messages {
		req := &chartergatev1.SessionRequest{}
		for i := range maxOperations {
			req.Operations = append(req.Operations, op(uint64(m*maxOperations+i), &chartergatev1.CheckRequest{Call: aCall(1, 1)}))
		}
		if err := s.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all messages came", func() bool { return slow.received.Load() == messages })
	close(slow.read)
	answered := 0
	for {
		resp, err := s.Recv()
		if err != nil {
			refused(t, err, codes.ResourceExhausted, chartergatev1.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT,
				map[string]string{"limit": "4096"}, "wait for results before sending more")
			break
		}
		answered += len(resp.Results)
	}
	if answered != maxInFlight {
		t.Errorf("%d operations are answered, want the %d that came before the limit", answered, maxInFlight)
	}
	// Another session is not concerned.
	if r := g.session(t).do(t, op(1, &chartergatev1.CheckRequest{Call: aCall(1, 1)})); r.GetCheck() == nil {
		t.Errorf("the next session answers %v", r)
	}
}
