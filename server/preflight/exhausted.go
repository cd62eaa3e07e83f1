package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/routing"
)

// refused answers for a policy that refuses: with the money's reason and retry delay where a budget is used up.
func (s *Service) refused(ctx context.Context, q *query, d *Decision, plan *routing.Plan) (*Decision, *ledger.Hold, error) {
	var full *ledger.Refusal
	s.mu.Lock()
	for _, a := range q.accounts {
		if full == nil && usedUp(a) {
			full = &ledger.Refusal{Account: a, State: a.State()}
		}
	}
	s.mu.Unlock()
	if full != nil && q.hold && full.State.Elsewhere > 0 { // for the metric alone
		candidates, _, err := s.price(q.candidates[:0], nil, q, plan, s.models(nil, q.charter, q.snap.Catalog()))
		if err != nil {
			return nil, nil, err
		}
		if len(candidates) > 0 {
			q.asked = candidates[0].cost
		}
	}
	switch {
	case full != nil && plan.Effect == routing.Deny:
		return s.spent(ctx, q, d, full), nil, nil
	case full != nil:
		return s.exhausted(ctx, q, d, plan, full)
	case plan.Effect == routing.Throttle:
		d.RetryDelay = retryPolicy
	}
	d.Effect = plan.Effect
	return d, nil, nil
}

// exhausted applies what the charter says of calls at 100%.
func (s *Service) exhausted(ctx context.Context, q *query, d *Decision, plan *routing.Plan, r *ledger.Refusal) (*Decision, *ledger.Hold, error) {
	s.mu.Lock() // one replica decides what happens at 100%
	err := s.toHome(ctx, q)
	s.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	mode := q.charter.Exhausted.Mode
	if q.calls == 0 && (mode == charter.ExhaustedDowngrade || mode == charter.ExhaustedTrickle) { // it is not leased
		decided, h, err := s.overflow(ctx, q, d, plan)
		if decided != nil || err != nil {
			return decided, h, err
		}
	}
	return s.spent(ctx, q, d, r), nil, nil
}

// spent refuses for want of money: for now where calls in flight may give some back, else until the period ends.
func (s *Service) spent(ctx context.Context, q *query, d *Decision, r *ledger.Refusal) *Decision {
	name := statusName(r.Account.ID)
	s.mu.Lock()
	old := r.Account.OldView(q.now)
	s.mu.Unlock()
	if old && s.refresh(ctx, []ledger.AccountID{r.Account.ID}) == nil { // others may have settled what they held
		s.mu.Lock()
		r.State = r.Account.State()
		s.mu.Unlock()
	}
	if x := max(r.Amount, q.asked); q.hold && r.Misplaced(x) {
		s.Metrics.RefusedElsewhere(x)
	}
	if r.InFlight() {
		d.Effect, d.RetryDelay = routing.Throttle, retryHeld
		held := "what is left of the budget is held by calls in flight; it comes back as they settle for less"
		if r.State.Quarantined > 0 {
			held += fmt.Sprintf(", and %s %s was granted to a server that is gone and comes back when its longest hold is over", r.State.Quarantined, q.currency)
		}
		d.Reasons = append(d.Reasons, Reason{CodeBudgetHeld, held, name})
		return d
	}
	left := fmt.Sprintf("%s %s is left", r.Remaining, q.currency)
	if r.Amount > 0 {
		left += fmt.Sprintf(", the call may cost %s %s", r.Amount, q.currency)
	}
	end := time.Unix(r.Account.ID.End, 0)
	switch b := q.snap.Budget(r.Account.ID.Budget); {
	case b == nil || b.Limit == 0 || r.Amount > r.State.Ceil: // no period will have room for it
		left += "; that is beyond the limit of a whole period"
	case b.Period.Calendar == charter.Window:
		left += "; the window ends " + end.UTC().Format(time.RFC3339)
	default:
		d.RetryDelay = max(0, end.Sub(q.now))
		left += "; the next period starts " + end.UTC().Format(time.RFC3339)
	}
	return deny(d, Reason{CodeBudgetExhausted, left, name})
}

// overflow pays for the call on the cheapest tier that charter and policy permit from the charter's overflow allowance, in
// place of the leaf budget. A nil decision says that the allowance cannot.
func (s *Service) overflow(ctx context.Context, q *query, d *Decision, plan *routing.Plan) (*Decision, *ledger.Hold, error) {
	candidates, _, err := s.price(q.candidates[:0], nil, q, plan, s.cheapestFirst(plan, q.charter, q.snap.Catalog()))
	if err != nil || len(candidates) == 0 {
		return nil, nil, err
	}
	n := 1
	for n < len(candidates) && candidates[n].model.Tier == candidates[0].model.Tier {
		n++
	}
	candidates = candidates[:n]
	for i := range candidates {
		candidates[i].effect = routing.Downgrade
	}
	q.wanted = s.wanted(q, s.models(plan, q.charter, q.snap.Catalog()))
	leaf := q.path[0].id
	allowance := step{id: ledger.AccountID{Budget: leaf.Budget, Overflow: q.charter.ID, Start: leaf.Start, End: leaf.End}, span: q.path[0].span}
	accounts, _, err := s.accounts(ctx, nil, nil, q.snap, q.charter.ID, append([]step{allowance}, q.path[1:]...), q.now)
	if err != nil {
		return nil, nil, err
	}
	if e := q.charter.Exhausted; e.Mode == charter.ExhaustedTrickle && q.hold {
		if wait := s.trickle.take(q.charter.ID, e.RequestsPerMinute, q.now); wait > 0 {
			d.Effect, d.RetryDelay = routing.Throttle, wait
			d.Reasons = append(d.Reasons, Reason{CodeTrickleLimit,
				fmt.Sprintf("the budget is used up and the charter's trickle of %d calls a minute is taken", e.RequestsPerMinute), statusName(leaf)})
			return d, nil, nil
		}
	}
	h, res, err := s.take(ctx, q, accounts, candidates)
	if err != nil {
		return nil, nil, err
	}
	if res.Choice < 0 {
		return nil, nil, nil
	}
	d.offline = q.offline
	d.Reasons = append(d.Reasons, Reason{CodeOverflow, "the budget is used up: the charter's overflow allowance pays, on the cheapest permitted tier", statusName(allowance.id)})
	s.fill(d, q, plan, candidates, res.Choice)
	return d, h, nil
}
