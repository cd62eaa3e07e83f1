package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/preflight"
)

// UsageService takes usage that had no hold, and outcomes, and shows decisions.
type UsageService struct {
	chartergatev1.UnimplementedUsageServiceServer
	gate  *preflight.Service
	meter *metering.Meter // nil: there is no usage store
}

// NewUsageService serves gate. Without a meter outcomes and decisions are UNIMPLEMENTED.
func NewUsageService(gate *preflight.Service, meter *metering.Meter) *UsageService {
	return &UsageService{gate: gate, meter: meter}
}

// RecordUsage implements UsageService.
func (s *UsageService) RecordUsage(ctx context.Context, req *chartergatev1.RecordUsageRequest) (*chartergatev1.RecordUsageResponse, error) {
	used, err := convert.UsageFromProto(req.GetUsage())
	if err != nil {
		return nil, err
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(body)
	done, err := s.gate.RecordUsage(ctx, &preflight.Use{
		Call: routing.Call{
			Feature: req.GetFeature(), User: req.GetUser(), Cohort: req.GetCohort(), Agent: req.GetAgent(), Run: req.GetRun(),
			PromptPattern: req.GetPromptPattern(), Task: req.GetTask(), ServiceTier: req.GetServiceTier(), Region: req.GetRegion(),
		},
		Model: req.GetModel(), Usage: used, Outcome: usage.Outcome(req.GetOutcome()), RequestID: req.GetRequestId(), BodyHash: hash[:16],
	})
	if err != nil {
		return nil, err
	}
	return &chartergatev1.RecordUsageResponse{Settlement: settlement(done)}, nil
}

// RecordOutcome implements UsageService.
func (s *UsageService) RecordOutcome(ctx context.Context, req *chartergatev1.RecordOutcomeRequest) (*chartergatev1.RecordOutcomeResponse, error) {
	if s.meter == nil {
		return s.UnimplementedUsageServiceServer.RecordOutcome(ctx, req)
	}
	outcome := usage.Outcome(req.GetOutcome())
	first, err := s.recordOutcome(ctx, req, outcome)
	if err != nil {
		return nil, err
	}
	if first != outcome {
		return nil, outcomeRecorded(first)
	}
	return &chartergatev1.RecordOutcomeResponse{}, nil
}

func (s *UsageService) recordOutcome(ctx context.Context, req *chartergatev1.RecordOutcomeRequest, o usage.Outcome) (usage.Outcome, error) {
	if req.GetHold() != "" {
		claim, err := s.gate.Hold(req.GetHold())
		if err != nil {
			return 0, err
		}
		hour, a := s.meter.Attribution(&claim.Call, claim.Path)
		return s.meter.Store.RecordOutcome(ctx, usage.HoldOutcome{Owner: claim.Owner, Seq: claim.Seq, Outcome: o}, hour, a)
	}
	if req.GetFeature() == "" {
		return 0, invalid("feature", "is missing: name the feature of the run or task")
	}
	task := usage.Task{Kind: usage.KindRun, Feature: req.GetFeature(), ID: req.GetRun()}
	if req.GetTask() != "" {
		task.Kind, task.ID = usage.KindTask, req.GetTask()
	}
	return s.meter.Store.RecordTaskOutcome(ctx, task, o)
}

// ListDecisions implements UsageService.
func (s *UsageService) ListDecisions(ctx context.Context, req *chartergatev1.ListDecisionsRequest) (*chartergatev1.ListDecisionsResponse, error) {
	if s.meter == nil {
		return s.UnimplementedUsageServiceServer.ListDecisions(ctx, req)
	}
	q := usage.DecisionQuery{
		From: timeOf(req.GetFrom()), To: timeOf(req.GetTo()), Feature: req.GetFeature(), Cohort: req.GetCohort(), Run: req.GetRun(),
		Model: req.GetModel(), Reason: preflight.Code(req.GetReason()).String(), Limit: int(req.GetPageSize()),
	}
	if q.Limit == 0 {
		q.Limit = defaultPageSize
	}
	if req.GetEffect() != chartergatev1.Effect_EFFECT_UNSPECIFIED {
		q.Effect = routing.Effect(req.GetEffect()).String()
	}
	if req.GetPageToken() != "" {
		after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
		if err != nil || len(after) == 0 {
			return nil, invalid("page_token", "is not one that this method gave: send next_page_token of the last response, or none to start again")
		}
		q.After = string(after)
	}
	list, next, err := s.meter.Store.Decisions(ctx, q)
	if err != nil {
		return nil, err
	}
	r := &chartergatev1.ListDecisionsResponse{NextPageToken: base64.RawURLEncoding.EncodeToString([]byte(next))}
	for _, d := range list {
		r.Decisions = append(r.Decisions, &chartergatev1.KeptDecision{
			Id: d.ID, Time: timestamppb.New(d.Time), Feature: d.Feature, Effect: chartergatev1.Effect(chartergatev1.Effect_value["EFFECT_"+strings.ToUpper(d.Effect)]),
			Cohort: d.Cohort, Run: d.Run, Model: d.Model, Reason: chartergatev1.ReasonCode(chartergatev1.ReasonCode_value["REASON_CODE_"+d.Reason]),
			Detail: string(d.Data),
		})
	}
	return r, nil
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
