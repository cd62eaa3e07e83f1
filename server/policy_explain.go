package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/preflight"
)

// ExplainDecision implements PolicyService.
func (s *policyService) ExplainDecision(ctx context.Context, req *chartergatev1.ExplainDecisionRequest) (*chartergatev1.ExplainDecisionResponse, error) {
	switch {
	case s.lab == nil:
		return s.UnimplementedPolicyServiceServer.ExplainDecision(ctx, req)
	case (req.Call == nil) == (req.Decision == ""):
		return nil, invalid("call", "must be given, or decision: one of them")
	case req.Decision != "":
		return s.explainKept(ctx, req)
	}
	call := new(routing.Call)
	if err := convert.CallFromProto(call, req.Call); err != nil {
		return nil, err
	}
	d, in, views, err := s.lab.Gate.Look(ctx, call)
	if err != nil {
		return nil, err
	}
	x := &explained{policies: s.lab.InUse, in: in, currency: d.Currency, views: views}
	if err := x.ask(ctx, req.Trace); err != nil {
		return nil, err
	}
	answer := new(chartergatev1.Decision)
	fillDecision(answer, d)
	return x.response(answer), nil
}

// explainKept asks the policies that decided then, as far as they are stored, with what was kept of the call and its
// budgets, and the charter, catalog and prices of now.
func (s *policyService) explainKept(ctx context.Context, req *chartergatev1.ExplainDecisionRequest) (*chartergatev1.ExplainDecisionResponse, error) {
	if s.lab.Decisions == nil {
		return s.UnimplementedPolicyServiceServer.ExplainDecision(ctx, req)
	}
	list, _, err := s.lab.Decisions.Decisions(ctx, usage.DecisionQuery{ID: req.Decision, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, notFound("decisions/" + req.Decision)
	}
	call, revisions, err := metering.Kept(&list[0])
	if err != nil {
		return nil, err
	}
	snap := s.control.Snapshot()
	c := snap.Charter(call.Call.Feature)
	if c == nil {
		return nil, &preflight.FeatureUnknownError{Feature: call.Call.Feature}
	}
	x := &explained{then: true, in: &routing.Input{
		Now: call.Time, Call: call.Call, Charter: c, Budgets: call.Budgets, Catalog: snap.Catalog(), Prices: snap.Prices(), Epoch: snap.Epoch,
	}}
	var buf [charter.MaxDepth]*charter.Budget
	path, _ := snap.Path(buf[:0], c.Budget)
	for i := range x.in.Budgets {
		b := &x.in.Budgets[i]
		if b.Budget = snap.Budget(b.ID); b.Budget != nil {
			if span, ok := b.Budget.Period.At(call.Time); ok {
				b.Start, b.End = span.Start.Unix(), span.End.Unix()
			}
		}
	}
	if len(path) > 0 {
		x.currency = path[0].Currency
	}
	var gone []string
	if x.policies, gone, err = s.policiesOf(snap, revisions); err != nil {
		return nil, err
	}
	for _, name := range gone {
		x.say("%s decided then and is not stored: the policies of now are asked instead.", name)
	}
	if err := x.ask(ctx, req.Trace); err != nil {
		return nil, err
	}
	d := keptDecision(call, x.currency, revisions)
	if m := snap.Catalog().Model(d.Model); m != nil {
		d.Provider = m.Provider
	}
	return x.response(d), nil
}

// policiesOf are the policies of the revisions that a decision names. Of those that are not stored gone are the names.
func (s *policyService) policiesOf(snap *charter.Snapshot, revisions string) (p Policies, gone []string, err error) {
	var changes []charter.Change
	for _, old := range snap.Policies() {
		changes = append(changes, charter.Change{Name: old.Name()})
	}
	for name := range strings.SplitSeq(revisions, routing.RevisionSeparator) {
		switch r, ok := snap.Record(name).(*charter.PolicyRevision); {
		case ok:
			changes = append(changes, charter.Set(&charter.Policy{ID: r.Policy, Active: r.Hash}))
		case name != "" && name != s.builtin:
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 || revisions == "" {
		return s.lab.InUse, gone, nil
	}
	then, err := snap.Replace(snap.Epoch, changes)
	if err != nil {
		return nil, nil, err
	}
	p, err = s.lab.Of(then)
	return p, nil, err
}

func keptDecision(call *simulate.Call, currency, revisions string) *chartergatev1.Decision {
	a := call.Decided
	d := &chartergatev1.Decision{
		Effect: chartergatev1.Effect(a.Effect), Tier: a.Tier, Model: a.Model, MaxOutputTokens: a.MaxOutputTokens,
		TrimContextToTokens: a.TrimContextToTokens, EstimatedCostNanos: int64(a.Cost), Currency: currency, PolicyRevision: revisions,
	}
	for _, r := range a.Reasons {
		d.Reasons = append(d.Reasons, &chartergatev1.Reason{Message: r})
	}
	return d
}

// explained tells a decision in plain words.
type explained struct {
	policies Policies
	in       *routing.Input
	currency string
	views    []preflight.BudgetView // of now
	then     bool                   // the decision was made before

	list  []routing.Explanation
	lines []string
}

func (x *explained) say(format string, args ...any) {
	x.lines = append(x.lines, fmt.Sprintf(format, args...))
}

// ask asks the policies, and says what they and the gate make of the call.
func (x *explained) ask(ctx context.Context, trace bool) (err error) {
	if x.in.Charter.Stage == charter.StageRetired {
		x.say("The feature is retired: no policy is asked.")
		return nil
	}
	if x.list, err = x.policies.Explain(ctx, x.in, trace); err != nil {
		return err
	}
	for i := range x.list {
		x.policy(&x.list[i])
	}
	x.budgets()
	plan, err := x.policies.Decide(ctx, x.in)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if x.in.Charter.FailMode != charter.FailStrictestTier {
			x.say("A policy gave no decision, so the charter's fail mode denies the call.")
			return nil
		}
		x.say("A policy gave no decision, so the charter's fail mode takes the strictest tier.")
		plan = routing.Strictest(plan, x.in.Charter, x.in.Catalog)
	}
	return x.gate(plan)
}

func (x *explained) policy(p *routing.Explanation) {
	if p.Problem != "" {
		x.say("%s gave no decision: %s.", p.Revision, strings.TrimSuffix(p.Problem, "."))
		return
	}
	text := p.Plan.Effect.String()
	for _, f := range []struct {
		what string
		list []string
	}{{"models", p.Plan.Models}, {"tiers", p.Plan.Tiers}} {
		if len(f.list) > 0 {
			text += fmt.Sprintf("; %s to try in order: %s", f.what, strings.Join(f.list, ", "))
		}
	}
	for _, f := range []struct {
		what string
		n    int64
	}{{"input tokens at most", p.Plan.MaxInputTokens}, {"output tokens at most", p.Plan.MaxOutputTokens}, {"tokens of context to trim to", p.Plan.TrimContextToTokens}} {
		if f.n > 0 {
			text += fmt.Sprintf("; %d %s", f.n, f.what)
		}
	}
	if c := p.Plan.PromptCache; c != routing.CacheUnspecified {
		text += "; prompt cache " + [...]string{"", "off", "for 5 minutes", "for 1 hour"}[c]
	}
	x.say("%s says %s.", p.Revision, text)
	for _, reason := range p.Plan.Reasons {
		x.say("%s gives as a reason: %s", p.Revision, reason)
	}
}

// budgets says how they stood.
func (x *explained) budgets() {
	for i := range x.in.Budgets {
		b := &x.in.Budgets[i]
		text := fmt.Sprintf("Budget %s is used to %s", b.ID, percent(b.UtilizationPermille))
		if i < len(x.views) {
			v := &x.views[i]
			text = fmt.Sprintf("%s is used to %s: %s settled and %s held of %s %s", v.Name, percent(b.UtilizationPermille), v.Settled, v.Held, v.Ceil, x.currency)
		}
		switch {
		case b.UtilizationPermille >= 1000:
			text += ", all of it"
		case b.UtilizationPermille >= b.AlertPermille:
			text += ", over its alert threshold of " + percent(b.AlertPermille)
		}
		x.say("%s.", text)
	}
}

func percent(permille int32) string { return fmt.Sprintf("%d.%d%%", permille/10, permille%10) }

// gate says what the gate makes of the plan: which models it permits, what each costs, and which the money left pays.
func (x *explained) gate(plan *routing.Plan) error {
	if plan.Refuses() {
		x.say("So the call does not run: the gate tries no model.")
		return nil
	}
	models := routing.Models(plan, x.in.Charter, x.in.Catalog)
	for _, m := range routing.Models(nil, &charter.Charter{}, x.in.Catalog) {
		if named(plan, m) && !slices.Contains(models, m) {
			x.say("The charter does not permit %s (%s).", m.ID, m.Tier)
		}
	}
	candidates, unfit, err := routing.Price(nil, nil, x.in, x.currency, plan, models)
	if err != nil {
		return err
	}
	for _, u := range unfit {
		x.say("The gate leaves out %s: %s.", u.Model, u.Message)
	}
	if len(candidates) == 0 {
		x.say("No model is left, so the gate denies the call.")
	}
	taken := false
	for i := range candidates {
		c := &candidates[i]
		text := fmt.Sprintf("%s (%s) costs at most %s %s", c.Model.ID, c.Model.Tier, c.Cost, x.currency)
		switch bound := x.bound(c); {
		case x.then:
		case bound != nil:
			text += fmt.Sprintf(", which is more than the %s that are left of %s", bound.Remaining(), bound.Name)
		case taken:
			text += ", and would fit too"
		default:
			text, taken = text+", which the money left pays for: it is taken", true
		}
		x.say("%s.", text)
	}
	if len(candidates) > 0 && !taken && !x.then {
		x.say("The money left pays for none of them: the charter says what happens then.")
	}
	return nil
}

func named(plan *routing.Plan, m *charter.Model) bool {
	return slices.Contains(plan.Models, m.ID) || slices.Contains(plan.Tiers, m.Tier)
}

// bound is the budget that has the least left, if that does not pay for a model.
func (x *explained) bound(c *routing.Candidate) *preflight.BudgetView {
	var tightest *preflight.BudgetView
	for i := range x.views {
		if v := &x.views[i]; c.Cost > v.Remaining() && (tightest == nil || v.Remaining() < tightest.Remaining()) {
			tightest = v
		}
	}
	return tightest
}

func (x *explained) response(d *chartergatev1.Decision) *chartergatev1.ExplainDecisionResponse {
	return &chartergatev1.ExplainDecisionResponse{Decision: d, Summary: x.lines, Policies: convert.ExplanationsToProto(x.list)}
}
