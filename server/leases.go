package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// maxSlicesInFlight is how many slices of one stream may be asked for and not answered.
const maxSlicesInFlight = 64

// LeaseService hands slices of budgets to clients.
type LeaseService struct {
	chartergatev1.UnimplementedLeaseServiceServer
	gate     *preflight.Service
	requests *Idempotency
	peers    *Peers
	log      *slog.Logger

	stopping chan struct{} // closed when the server stops
	stopOnce sync.Once

	mu      sync.Mutex
	streams int
	ended   chan struct{} // closed when the last stream has ended, once somebody waits for it
}

// NewLeaseService serves gate. requests are those of the server.
func NewLeaseService(gate *preflight.Service, requests *Idempotency, peers *Peers, log *slog.Logger) *LeaseService {
	return &LeaseService{gate: gate, requests: requests, peers: peers, log: log, stopping: make(chan struct{})}
}

// SettleSlice implements LeaseService.
func (s *LeaseService) SettleSlice(ctx context.Context, req *chartergatev1.SettleSliceRequest) (*chartergatev1.SettleSliceResponse, error) {
	return route(ctx, s.peers, req, false, s.settleSlice, peer.SettleSlice)
}

func (s *LeaseService) settleSlice(ctx context.Context, req *chartergatev1.SettleSliceRequest) (*chartergatev1.SettleSliceResponse, error) {
	use, err := useFromProto(req.GetUse())
	if err != nil {
		return nil, err
	}
	done, err := s.gate.SettleSlice(ctx, req.GetSlice(), use)
	if err != nil {
		return nil, err
	}
	return &chartergatev1.SettleSliceResponse{Settlement: settlement(done)}, nil
}

// Lease implements LeaseService. Slices that are asked for in one message are decided side by side.
func (s *LeaseService) Lease(stream chartergatev1.LeaseService_LeaseServer) error {
	s.enter()
	defer s.leave()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	x := &leaseStream{service: s, stream: stream}
	ended := make(chan struct{})
	x.running.Go(func() {
		select {
		case <-s.stopping:
			x.send(&chartergatev1.LeaseResponse{ReturnSlices: true})
		case <-ended:
		}
	})
	err := x.receive(ctx)
	close(ended)
	if err != nil {
		cancel()
	}
	x.running.Wait()
	return err
}

type leaseStream struct {
	service    *LeaseService
	unanswered atomic.Int64
	running    sync.WaitGroup

	mu     sync.Mutex // held while sending
	stream chartergatev1.LeaseService_LeaseServer
}

func (x *leaseStream) receive(ctx context.Context) error {
	for {
		req, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, r := range req.GetReports() {
			use, err := useFromProto(r.GetUse())
			if err == nil {
				err = x.service.gate.Report(r.GetSlice(), use)
			}
			if err != nil {
				return err
			}
		}
		if x.unanswered.Add(int64(len(req.GetSlices()))) > maxSlicesInFlight {
			return &apiError{chartergatev1.ErrorReason_ERROR_REASON_TOO_MANY_IN_FLIGHT, codes.ResourceExhausted,
				fmt.Sprintf("more than %d slices are unanswered: wait for answers before asking for more", maxSlicesInFlight),
				map[string]string{"limit": strconv.Itoa(maxSlicesInFlight)}}
		}
		for _, wish := range req.GetSlices() {
			x.running.Go(func() {
				answer := x.service.answer(ctx, wish)
				x.unanswered.Add(-1)
				x.send(&chartergatev1.LeaseResponse{Slices: []*chartergatev1.SliceAnswer{answer}})
			})
		}
	}
}

// send sends one message. Why it cannot, receive finds out.
func (x *leaseStream) send(m *chartergatev1.LeaseResponse) {
	x.mu.Lock()
	defer x.mu.Unlock()
	_ = x.stream.Send(m)
}

// answer answers a wish once for its request id.
func (s *LeaseService) answer(ctx context.Context, wish *chartergatev1.SliceRequest) *chartergatev1.SliceAnswer {
	m, err := s.requests.Do(ctx, chartergatev1.LeaseService_Lease_FullMethodName, wish, func() (proto.Message, error) { return s.lease(ctx, wish) })
	if err != nil {
		st := Status(err)
		if st.Code() == codes.Internal {
			s.log.Error("a slice could not be decided", "error", err)
		}
		return &chartergatev1.SliceAnswer{Id: wish.GetId(), Error: sessionError(st)}
	}
	a := new(chartergatev1.SliceAnswer)
	if err := proto.Unmarshal(m, a); err != nil { // it was encoded here
		return &chartergatev1.SliceAnswer{Id: wish.GetId(), Error: sessionError(Status(err))}
	}
	return a
}

func (s *LeaseService) lease(ctx context.Context, wish *chartergatev1.SliceRequest) (a *chartergatev1.SliceAnswer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	call := new(routing.Call)
	if err := convert.CallFromProto(call, wish.GetCall()); err != nil {
		return nil, err
	}
	d, slice, err := s.gate.Lease(ctx, call, wish.GetCalls(), duration(wish.GetTtl()))
	if err != nil {
		return nil, err
	}
	a = &chartergatev1.SliceAnswer{Id: wish.GetId(), Decision: new(chartergatev1.Decision)}
	fillDecision(a.Decision, d)
	if slice != nil {
		a.Slice = &chartergatev1.Slice{
			Token: slice.Token, AmountNanos: int64(slice.Amount), Price: convert.PriceToProto(slice.Price),
			ReserveWithin: durationpb.New(slice.ReserveWithin), ExpireWithin: durationpb.New(slice.ExpireWithin),
			ChargeOnExpiry: slice.Charge,
		}
	}
	return a, nil
}

func useFromProto(p *chartergatev1.SliceUse) (*ledger.Use, error) {
	used, err := convert.UsageFromProto(p.GetUsage())
	return &ledger.Use{
		Amount: money.Nanos(p.GetCostNanos()), Usage: used,
		Counts: ledger.Counts{Calls: p.GetCalls(), Successes: p.GetSuccesses(), Failures: p.GetFailures()},
	}, err
}

func (s *LeaseService) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
}

func (s *LeaseService) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams--; s.streams == 0 && s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

// stop asks every client for its slices and waits until all have ended their streams, or ctx ends. Call it while the
// server still takes calls: slices are returned by SettleSlice.
func (s *LeaseService) stop(ctx context.Context) {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.mu.Lock()
	if s.streams == 0 {
		s.mu.Unlock()
		return
	}
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	ended := s.ended
	s.mu.Unlock()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}
