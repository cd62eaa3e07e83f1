package simulate

import (
	"context"
	"fmt"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// query is the call at hand. It is used again.
type query struct {
	*Call
	side     int
	input    routing.Input
	currency string
	feature  *line
	leaf     *budget
	closed   *budget // a budget of the path whose window is not now
	path     []*purse

	records    []*charter.Budget
	states     []routing.BudgetState
	spill      []*purse
	candidates []routing.Candidate
}

// resolve finds the charter and the budgets of a call. problem says why it is skipped.
func (s *Simulation) resolve(call *Call) (q *query, problem string) {
	c := s.Snapshot.Charter(call.Call.Feature)
	if c == nil {
		return nil, fmt.Sprintf("no charter has the id %q", call.Call.Feature)
	}
	q = &s.query
	q.Call, q.path, q.closed = call, q.path[:0], nil
	records, ok := s.Snapshot.Path(q.records[:0], c.Budget)
	if q.records = records; !ok {
		return nil, fmt.Sprintf("the charter %s names the budget %q, which is not there", c.ID, c.Budget)
	}
	for i, record := range records {
		key := ""
		if record.Per != charter.PerNone {
			if key = routing.CallKey(record.Per, call.Call); key == "" {
				return nil, fmt.Sprintf("budget %q is kept per %s, and the call does not say it", record.ID, record.Per)
			}
		}
		b := s.budgetAt(record, call.Time)
		if i == 0 {
			q.leaf = b
		}
		if !b.open && q.closed == nil {
			q.closed = b
		}
		var standing *routing.BudgetState
		if i < len(call.Budgets) && call.Budgets[i].ID == record.ID {
			standing = &call.Budgets[i]
		}
		q.path = append(q.path, s.purse(b, key, c, standing))
	}
	q.currency = records[0].Currency
	q.feature = lineOf(s.features, c.Name(), q.currency)
	q.input = routing.Input{
		Now: call.Time, Call: call.Call, Charter: c, Catalog: s.Snapshot.Catalog(), Prices: s.Snapshot.Prices(), Epoch: s.Snapshot.Epoch,
	}
	return q, ""
}

// decide does what the gate does, on the budgets of one side.
func (s *Simulation) decide(ctx context.Context, q *query, a *Answer) error {
	c := q.input.Charter
	if c.Stage == charter.StageRetired {
		*a = Answer{Effect: routing.Deny, Reasons: []string{"the feature is retired: its charter allows no calls"}}
		return nil
	}
	if q.closed != nil {
		*a = Answer{Effect: routing.Deny, Reasons: []string{"the budget's window, " + q.closed.span.String() + ", is not now"}, Exhausted: q.closed.record.ID}
		return nil
	}
	q.states = q.states[:0]
	for i, p := range q.path {
		q.states = append(q.states, routing.BudgetState{ID: q.records[i].ID, UtilizationPermille: p.utilization(q.side), AlertPermille: p.alert,
			Start: p.start, End: p.end, Budget: q.records[i]})
	}
	q.input.Budgets = q.states
	plan, err := s.decider(q.side).Decide(ctx, &q.input)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.fail(q.side, err)
		a.Reasons = []string{err.Error()}
		if c.FailMode != charter.FailStrictestTier {
			a.Effect = routing.Deny
			return nil
		}
		plan = routing.Strictest(plan, c, q.input.Catalog)
	}
	if len(a.Reasons) == 0 {
		a.Reasons = plan.Reasons
	} else {
		a.Reasons = slices.Concat(a.Reasons, plan.Reasons)
	}
	if plan.Refuses() {
		return s.refused(q, a, plan)
	}
	return s.fit(q, a, plan)
}

// fit takes the first model of the plan that the money left pays for.
func (s *Simulation) fit(q *query, a *Answer, plan *routing.Plan) (err error) {
	var unfit []routing.Unfit
	q.candidates, unfit, err = routing.Price(q.candidates[:0], nil, &q.input, q.currency, plan, s.plannedModels(plan, q.input.Charter))
	if err != nil {
		return err
	}
	if len(q.candidates) == 0 {
		a.Effect = routing.Deny
		if len(unfit) > 0 {
			a.Reasons = append(a.Reasons[:len(a.Reasons):len(a.Reasons)], unfit[0].Message)
		}
		return nil
	}
	routing.Rate(q.candidates, q.Call.Call, plan, q.input.Catalog)
	chosen, bound := choose(q.side, q.path, q.candidates)
	if chosen == nil {
		return s.exhausted(q, a, plan, bound)
	}
	return s.serve(q, a, plan, chosen)
}

// choose finds the first candidate that fits every purse; else the purse that leaves the cheapest the least.
func choose(side int, path []*purse, candidates []routing.Candidate) (chosen *routing.Candidate, bound *purse) {
	least := candidates[0].Cost
	for i := range candidates {
		c := &candidates[i]
		var tightest *purse
		for _, p := range path {
			if left := p.left(side); c.Cost > left && (tightest == nil || left < tightest.left(side)) {
				tightest = p
			}
		}
		if tightest == nil {
			return c, nil
		}
		if bound == nil || c.Cost < least {
			bound, least = tightest, c.Cost
		}
	}
	return nil, bound
}

// serve writes the choice and what the call costs on it: output stops where the decision has it stop.
func (s *Simulation) serve(q *query, a *Answer, plan *routing.Plan, c *routing.Candidate) (err error) {
	a.Effect, a.Tier, a.Model = c.Effect, c.Model.Tier, c.Model.ID
	a.MaxOutputTokens, a.TrimContextToTokens, a.PromptCache, a.Cost = c.MaxOutput, plan.TrimContextToTokens, plan.PromptCache, c.Cost
	if q.Used != nil {
		used := *q.Used
		used.OutputTokens = min(used.OutputTokens, c.MaxOutput)
		a.Cost, err = c.Price.Cost(&used)
	}
	return err
}

// refused answers for a plan that refuses.
func (s *Simulation) refused(q *query, a *Answer, plan *routing.Plan) error {
	var full *purse
	for _, p := range q.path {
		if full == nil && p.utilization(q.side) >= 1000 {
			full = p
		}
	}
	switch {
	case full != nil && plan.Effect == routing.Throttle:
		return s.exhausted(q, a, plan, full)
	case full != nil:
		a.Exhausted = full.budget
	}
	a.Effect = plan.Effect
	return nil
}

// exhausted applies what the charter says of calls at 100%: the overflow allowance pays on the cheapest tier, or nobody.
func (s *Simulation) exhausted(q *query, a *Answer, plan *routing.Plan, full *purse) (err error) {
	a.Effect, a.Exhausted = routing.Deny, full.budget
	e := q.input.Charter.Exhausted
	if e.Mode != charter.ExhaustedDowngrade && e.Mode != charter.ExhaustedTrickle {
		return nil
	}
	q.candidates, _, err = routing.Price(q.candidates[:0], nil, &q.input, q.currency, plan, routing.OverflowModels(plan, q.input.Charter, q.input.Catalog))
	if err != nil || len(q.candidates) == 0 {
		return err
	}
	q.candidates = routing.Overflow(q.candidates)
	if e.Mode == charter.ExhaustedTrickle {
		t := s.trickles[q.side][q.input.Charter.ID]
		if t == nil {
			t = new(routing.Trickle)
			s.trickles[q.side][q.input.Charter.ID] = t
		}
		if t.Take(e.RequestsPerMinute, q.input.Now) > 0 {
			a.Effect = routing.Throttle
			return nil
		}
	}
	if chosen, _ := choose(q.side, s.overflowPath(q), q.candidates); chosen != nil {
		a.Overflow = true
		return s.serve(q, a, plan, chosen)
	}
	return nil
}
