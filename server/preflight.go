package server

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
)

// PreflightService answers the calls that gateways and agents make. Requests are validated before they reach it.
type PreflightService struct {
	chartergatev1.UnimplementedPreflightServiceServer
	gate      *preflight.Service
	validator *Validator
	requests  *Idempotency
	peers     *Peers
	log       *slog.Logger
}

// NewPreflightService serves gate. validator and requests are those of the server: sessions share them.
func NewPreflightService(gate *preflight.Service, validator *Validator, requests *Idempotency, peers *Peers, log *slog.Logger) *PreflightService {
	return &PreflightService{gate: gate, validator: validator, requests: requests, peers: peers, log: log}
}

// Check implements PreflightService.
func (s *PreflightService) Check(ctx context.Context, req *chartergatev1.CheckRequest) (*chartergatev1.CheckResponse, error) {
	return route(ctx, s.peers, req, true, s.check, peer.Check)
}

func (s *PreflightService) check(ctx context.Context, req *chartergatev1.CheckRequest) (*chartergatev1.CheckResponse, error) {
	call := calls.Get().(*routing.Call)
	defer calls.Put(call)
	if err := convert.CallFromProto(call, req.GetCall()); err != nil {
		return nil, err
	}
	d, err := s.gate.Check(ctx, call)
	if err != nil {
		return nil, err
	}
	answer := new(chartergatev1.Decision)
	fillDecision(answer, d)
	return &chartergatev1.CheckResponse{Decision: answer}, nil
}

// Reserve implements PreflightService.
func (s *PreflightService) Reserve(ctx context.Context, req *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	return route(ctx, s.peers, req, true, s.reserve, peer.Reserve)
}

func (s *PreflightService) reserve(ctx context.Context, req *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	call := calls.Get().(*routing.Call)
	defer calls.Put(call)
	if err := convert.CallFromProto(call, req.GetCall()); err != nil {
		return nil, err
	}
	d, h, err := s.gate.Reserve(ctx, call, duration(req.GetTtl()))
	if err != nil {
		return nil, err
	}
	r := reserveResponses.Get().(*chartergatev1.ReserveResponse)
	fillDecision(r.Decision, d)
	r.Hold = fillHold(r.Hold, h)
	return r, nil
}

// Settle implements PreflightService.
func (s *PreflightService) Settle(ctx context.Context, req *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	return route(ctx, s.peers, req, false, s.settle, peer.Settle)
}

func (s *PreflightService) settle(ctx context.Context, req *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	used, err := convert.UsageFromProto(req.GetUsage())
	if err != nil {
		return nil, err
	}
	done, err := s.gate.Settle(ctx, req.GetHold(), &used, req.GetModel(), usage.Outcome(req.GetOutcome()))
	if err != nil {
		return nil, err
	}
	return &chartergatev1.SettleResponse{Settlement: settlement(done)}, nil
}

// Release implements PreflightService.
func (s *PreflightService) Release(ctx context.Context, req *chartergatev1.ReleaseRequest) (*chartergatev1.ReleaseResponse, error) {
	return route(ctx, s.peers, req, false, s.release, peer.Release)
}

func (s *PreflightService) release(ctx context.Context, req *chartergatev1.ReleaseRequest) (*chartergatev1.ReleaseResponse, error) {
	freed, err := s.gate.Release(ctx, req.GetHold())
	if err != nil {
		return nil, err
	}
	return &chartergatev1.ReleaseResponse{ReleasedNanos: int64(freed)}, nil
}

// Extend implements PreflightService.
func (s *PreflightService) Extend(ctx context.Context, req *chartergatev1.ExtendRequest) (*chartergatev1.ExtendResponse, error) {
	return route(ctx, s.peers, req, false, s.extend, peer.Extend)
}

func (s *PreflightService) extend(ctx context.Context, req *chartergatev1.ExtendRequest) (*chartergatev1.ExtendResponse, error) {
	h, err := s.gate.Extend(ctx, req.GetHold(), duration(req.GetTtl()))
	if err != nil {
		return nil, err
	}
	return &chartergatev1.ExtendResponse{Hold: fillHold(nil, h)}, nil
}

func duration(d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return d.AsDuration()
}

func settlement(s *preflight.Settlement) *chartergatev1.Settlement {
	return &chartergatev1.Settlement{
		Feature: s.Feature, Tier: s.Tier, Model: s.Model, CostNanos: int64(s.Cost), ForcedNanos: int64(s.Forced),
		ReleasedNanos: int64(s.Released), Late: s.Late, Lines: convert.LinesToProto(s.Lines), Currency: s.Currency,
		SettleTime: convert.TimeToProto(s.Time), Journal: s.Journal,
	}
}
