package convert

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// CallToProto converts a call with its estimate, without what its prompt begins with. It shares the call's labels,
// capabilities and tool calls.
func CallToProto(c *routing.Call) *chartergatev1.Call {
	e := &c.Estimate
	return &chartergatev1.Call{
		Feature: c.Feature, TaskClass: c.TaskClass, Complexity: c.Complexity, RequiredCapabilities: c.Capabilities,
		User: c.User, Cohort: c.Cohort, Agent: c.Agent, Run: c.Run, PromptPattern: c.PromptPattern, Task: c.Task, Model: c.Model, Tier: c.Tier,
		Labels: c.Labels, ServiceTier: c.ServiceTier, Region: c.Region,
		LatencyTargetMilliseconds: int32(c.LatencyTarget.Milliseconds()), Residency: c.Residency,
		Estimate: &chartergatev1.Estimate{
			InputTokens: e.InputTokens, CachedInputTokens: e.CachedInputTokens, MaxOutputTokens: e.MaxOutputTokens, RetrievalHops: e.RetrievalHops,
			EmbeddingTokens: e.EmbeddingTokens, VectorQueries: e.VectorQueries, ToolCalls: e.ToolCalls,
			GpuMilliseconds: e.GPUMilliseconds, StorageBytes: e.StorageBytes, EgressBytes: e.EgressBytes,
		},
	}
}

// SimulationToProto converts what a simulation found, and how long it took.
func SimulationToProto(r *simulate.Result, elapsed time.Duration) *chartergatev1.PolicySimulation {
	p := &chartergatev1.PolicySimulation{
		Decisions: r.Decisions, Changed: r.Changed, Failed: r.Failed, FirstFailure: r.FirstFailure, Skipped: r.Skipped, FirstSkip: r.FirstSkip,
		Differences: DifferencesToProto(r.Differences), Features: spendsToProto(r.Features), Budgets: spendsToProto(r.Budgets),
		Elapsed: durationpb.New(elapsed),
	}
	for _, e := range r.Effects {
		p.Effects = append(p.Effects, &chartergatev1.SimulatedEffect{Effect: chartergatev1.Effect(e.Effect), Calls: e.Calls[0], CandidateCalls: e.Calls[1]})
	}
	for _, t := range r.Tiers {
		p.Tiers = append(p.Tiers, &chartergatev1.SimulatedTier{
			Tier: t.Name, Calls: t.Calls[0], CandidateCalls: t.Calls[1], CostNanos: sumsToProto(t.Cost[0]), CandidateCostNanos: sumsToProto(t.Cost[1]),
		})
	}
	return p
}

// DifferencesToProto converts differences with their examples.
func DifferencesToProto(list []simulate.Difference) []*chartergatev1.PolicyDifference {
	out := make([]*chartergatev1.PolicyDifference, len(list))
	for i, d := range list {
		p := &chartergatev1.PolicyDifference{
			FromEffect: chartergatev1.Effect(d.From.Effect), FromModel: d.From.Model, FromTier: d.From.Tier,
			ToEffect: chartergatev1.Effect(d.To.Effect), ToModel: d.To.Model, ToTier: d.To.Tier,
			Calls: d.Calls, FromCostNanos: sumsToProto(d.Cost[0]), ToCostNanos: sumsToProto(d.Cost[1]),
		}
		for _, e := range d.Examples {
			p.Examples = append(p.Examples, &chartergatev1.PolicyExample{
				Time: TimeToProto(e.Time), Call: CallToProto(e.Call), FromReasons: e.Reasons[0], ToReasons: e.Reasons[1],
			})
		}
		out[i] = p
	}
	return out
}

func spendsToProto(list []simulate.Spend) []*chartergatev1.SimulatedSpend {
	out := make([]*chartergatev1.SimulatedSpend, len(list))
	for i, s := range list {
		out[i] = &chartergatev1.SimulatedSpend{
			Name: s.Name, Currency: s.Currency, Calls: s.Calls, Ran: s.Ran[0], CandidateRan: s.Ran[1],
			CostNanos: int64(s.Cost[0]), CandidateCostNanos: int64(s.Cost[1]), CeilingNanos: int64(s.Ceiling),
			ExhaustedTime: TimeToProto(s.Exhausted[0]), CandidateExhaustedTime: TimeToProto(s.Exhausted[1]),
		}
	}
	return out
}

func sumsToProto(sums map[string]money.Nanos) map[string]int64 {
	out := make(map[string]int64, len(sums))
	for currency, x := range sums {
		out[currency] = int64(x)
	}
	return out
}

// ExplanationsToProto converts what policies said.
func ExplanationsToProto(list []routing.Explanation) []*chartergatev1.PolicyExplanation {
	out := make([]*chartergatev1.PolicyExplanation, len(list))
	for i, x := range list {
		p := &chartergatev1.PolicyExplanation{Revision: x.Revision, Answer: x.Answer, Trace: x.Trace, Problem: x.Problem}
		if x.Plan != nil {
			p.Effect = chartergatev1.Effect(x.Plan.Effect)
		}
		for _, r := range x.Rules {
			p.Rules = append(p.Rules, &chartergatev1.RuleHit{Rule: r.Rule, File: r.File, Line: int32(r.Line), Value: r.Value})
		}
		for _, r := range x.Inputs {
			p.Inputs = append(p.Inputs, &chartergatev1.InputRead{Path: r.Path, Value: r.Value})
		}
		out[i] = p
	}
	return out
}
