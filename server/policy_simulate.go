package server

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
)

// progressEvery is how many decisions are replayed between two messages.
const progressEvery = 10_000

// SimulatePolicy implements PolicyService.
func (s *policyService) SimulatePolicy(req *chartergatev1.SimulatePolicyRequest, stream grpc.ServerStreamingServer[chartergatev1.SimulatePolicyResponse]) error {
	if s.lab == nil || s.lab.Decisions == nil {
		return s.UnimplementedPolicyServiceServer.SimulatePolicy(req, stream)
	}
	ctx, snap := stream.Context(), s.control.Snapshot()
	candidate, err := s.candidate(ctx, snap, req)
	if err != nil {
		return err
	}
	select {
	case s.lab.busy <- struct{}{}:
		defer func() { <-s.lab.busy }()
	case <-ctx.Done():
		return ctx.Err()
	}
	begun := time.Now()
	q := usage.DecisionQuery{From: timeOf(req.StartTime), To: timeOf(req.EndTime), Feature: req.Feature, OldestFirst: true, Limit: 1000}
	if q.To.IsZero() {
		q.To = s.now()
	}
	if !q.From.Before(q.To) {
		return invalid("start_time", "is not before end_time")
	}
	total, err := s.lab.Decisions.CountDecisions(ctx, q)
	if err != nil {
		return err
	}
	sim := simulate.New(simulate.Config{Snapshot: snap, Candidate: candidate})
	done := int64(0)
	err = s.kept(ctx, q, func(call *simulate.Call) error {
		if done++; done%progressEvery == 0 {
			if err := stream.Send(&chartergatev1.SimulatePolicyResponse{Decided: done, Total: max(total, done)}); err != nil {
				return err
			}
		}
		return sim.Step(ctx, call)
	})
	if err != nil {
		return err
	}
	r, err := sim.Result()
	if err != nil {
		return err
	}
	return stream.Send(&chartergatev1.SimulatePolicyResponse{Decided: done, Total: done, Result: convert.SimulationToProto(r, time.Since(begun))})
}

// kept gives the kept decisions of a query, the oldest first.
func (s *policyService) kept(ctx context.Context, q usage.DecisionQuery, each func(*simulate.Call) error) error {
	for {
		list, next, err := s.lab.Decisions.Decisions(ctx, q)
		if err != nil {
			return err
		}
		for i := range list {
			call, _, err := metering.Kept(&list[i])
			if err == nil {
				err = each(call)
			}
			if err != nil {
				return err
			}
		}
		if next == "" {
			return nil
		}
		q.After = next
	}
}

// candidate makes what decides with the request's revision or modules in the place of the active revision.
func (s *policyService) candidate(ctx context.Context, snap *charter.Snapshot, req *chartergatev1.SimulatePolicyRequest) (Policies, error) {
	var r *charter.PolicyRevision
	switch {
	case req.Revision != "" && len(req.Modules) > 0:
		return nil, invalid("modules", "must be empty with revision: give one of them")
	case req.Revision != "":
		stored, ok := snap.Record(req.Revision).(*charter.PolicyRevision)
		if !ok {
			return nil, notFound(req.Revision)
		}
		if policyID(req.Revision) != policyID(req.Name) { // tried where it is not stored: its modules decide
			moved := *stored
			moved.Policy = policyID(req.Name)
			stored = &moved
		}
		r = stored
	case len(req.Modules) > 0:
		compiled, err := s.compile(ctx, req.Name, &chartergatev1.PolicyRevision{Modules: req.Modules})
		if err != nil {
			return nil, err
		}
		r = compiled
	default:
		return nil, invalid("revision", "is empty, and so are modules: give a candidate")
	}
	changed, err := snap.Activated(r)
	if err != nil {
		return nil, err
	}
	return s.lab.Of(changed)
}
