package convert

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// CharterToProto converts a charter with its meta.
func CharterToProto(c *charter.Charter) *chartergatev1.Charter {
	p := &chartergatev1.Charter{
		Name: c.Name(), DisplayName: c.DisplayName, Owner: OwnerToProto(c.Owner), Team: c.Team,
		Stage: chartergatev1.Stage(c.Stage), Budget: named("budgets/", c.Budget),
		PermittedTiers: slices.Clone(c.PermittedTiers), PermittedModels: slices.Clone(c.PermittedModels),
		TargetCostPer_1000SuccessesNanos: int64(c.TargetCostPer1000),
		AlertThresholdsPermille:          slices.Clone(c.AlertThresholdsPermille),
		Labels:                           maps.Clone(c.Labels), FailMode: chartergatev1.FailMode(c.FailMode),
		Etag: etag(c.Meta), CreateTime: TimeToProto(c.Created), UpdateTime: TimeToProto(c.Updated),
	}
	if e := c.Exhausted; e != (charter.Exhausted{}) {
		p.Exhausted = &chartergatev1.Exhausted{
			Mode:                   chartergatev1.ExhaustedMode(e.Mode),
			OverflowAllowanceNanos: int64(e.OverflowAllowance), RequestsPerMinute: e.RequestsPerMinute,
		}
	}
	for _, s := range c.Escalation {
		step := &chartergatev1.EscalationStep{Owner: OwnerToProto(s.Owner)}
		if s.After != 0 {
			step.After = durationpb.New(s.After)
		}
		p.Escalation = append(p.Escalation, step)
	}
	for _, e := range c.Evaluations {
		p.CapabilityEvaluations = append(p.CapabilityEvaluations, &chartergatev1.CapabilityEvaluation{
			Capability: e.Capability, Model: e.Model, Passed: e.Passed, ScorePermille: e.ScorePermille,
			ExpireTime: TimeToProto(e.Expires),
		})
	}
	for _, e := range c.ApprovedEscalations {
		p.ApprovedEscalations = append(p.ApprovedEscalations, &chartergatev1.ApprovedEscalation{
			Id: e.ID, Budget: named("budgets/", e.Budget), Approver: OwnerToProto(e.Approver),
			ApproveTime: TimeToProto(e.Approved), ExpireTime: TimeToProto(e.Expires), Reason: e.Reason,
		})
	}
	return p
}

// CharterFromProto converts a charter.
func CharterFromProto(p *chartergatev1.Charter) (*charter.Charter, error) {
	cid, err := id(p.GetName(), "charters/")
	if err != nil {
		return nil, err
	}
	budget, err := reference(p.Name, "budget", p.Budget, "budgets/")
	if err != nil {
		return nil, err
	}
	c := &charter.Charter{
		ID: cid, DisplayName: p.DisplayName, Owner: OwnerFromProto(p.Owner), Team: p.Team, Stage: charter.Stage(p.Stage),
		Budget: budget, PermittedTiers: p.PermittedTiers, PermittedModels: p.PermittedModels,
		TargetCostPer1000:       money.Nanos(p.TargetCostPer_1000SuccessesNanos),
		AlertThresholdsPermille: p.AlertThresholdsPermille,
		Exhausted: charter.Exhausted{
			Mode:              charter.ExhaustedMode(p.Exhausted.GetMode()),
			OverflowAllowance: money.Nanos(p.Exhausted.GetOverflowAllowanceNanos()),
			RequestsPerMinute: p.Exhausted.GetRequestsPerMinute(),
		},
		Labels: p.Labels, FailMode: charter.FailMode(p.FailMode),
	}
	for i, s := range p.Escalation {
		after, err := durationFromProto(p.Name, fmt.Sprintf("escalation[%d].after", i), s.After)
		if err != nil {
			return nil, err
		}
		c.Escalation = append(c.Escalation, charter.EscalationStep{Owner: OwnerFromProto(s.Owner), After: after})
	}
	for i, e := range p.CapabilityEvaluations {
		expires, err := timeFromProto(p.Name, fmt.Sprintf("capability_evaluations[%d].expire_time", i), e.ExpireTime)
		if err != nil {
			return nil, err
		}
		c.Evaluations = append(c.Evaluations, charter.Evaluation{
			Capability: e.Capability, Model: e.Model, Passed: e.Passed, ScorePermille: e.ScorePermille, Expires: expires,
		})
	}
	for i, e := range p.ApprovedEscalations {
		field := fmt.Sprintf("approved_escalations[%d].", i)
		budget, err := reference(p.Name, field+"budget", e.Budget, "budgets/")
		if err != nil {
			return nil, err
		}
		approved, err := timeFromProto(p.Name, field+"approve_time", e.ApproveTime)
		if err != nil {
			return nil, err
		}
		expires, err := timeFromProto(p.Name, field+"expire_time", e.ExpireTime)
		if err != nil {
			return nil, err
		}
		c.ApprovedEscalations = append(c.ApprovedEscalations, charter.ApprovedEscalation{
			ID: e.Id, Budget: budget, Approver: OwnerFromProto(e.Approver), Approved: approved, Expires: expires, Reason: e.Reason,
		})
	}
	return c, nil
}
