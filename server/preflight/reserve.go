package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
)

// Retry delays of refusals that time may change.
const (
	retryHeld   = time.Second // money in flight comes back as calls settle
	retryPolicy = time.Minute // a policy throttles by things that change slowly
)

// query is one call on its way to a decision, with the scratch space that it needs. Queries are used again.
type query struct {
	call     *routing.Call
	snap     *charter.Snapshot
	charter  *charter.Charter
	now      time.Time
	path     []step
	accounts []*ledger.Account
	currency string
	ttl      time.Duration
	hold     bool          // Reserve, not Check
	calls    int64         // to hold a slice for; 0: one call
	offline  bool          // after the deadline
	recalled time.Duration // by Clock.Boot: since when the call waits for idle money of other replicas; 0: it does not
	wanted   string        // the model that the call or, where that asks for none, the policy would have
	asked    money.Nanos   // the least that a call costs which the policy refused for want of money; 0: not known

	input      routing.Input
	steps      [charter.MaxDepth]step
	open       [charter.MaxDepth]*ledger.Account
	states     [charter.MaxDepth]routing.BudgetState
	candidates [16]candidate
	amounts    [16]money.Nanos
}

var queries = sync.Pool{New: func() any { return new(query) }}

// admit says whether a hold may be asked for now, and how long it lasts: ledger.DefaultTTL for 0.
func (s *Service) admit(at, ttl time.Duration) (time.Duration, error) {
	if ttl == 0 {
		ttl = min(ledger.DefaultTTL, s.MaxTTL)
	}
	if ttl < 0 || ttl > s.MaxTTL {
		return 0, &TTLError{ttl, s.MaxTTL}
	}
	return ttl, s.alive(at)
}

// Check decides without holding money. Errors: *FeatureUnknownError, *KeyRequiredError,
// *UnavailableError, *ForwardError.
func (s *Service) Check(ctx context.Context, call *routing.Call) (*Decision, error) {
	if err := s.alive(s.Clock.Boot()); err != nil {
		return nil, err
	}
	d, _, err := s.decide(ctx, call, 0, false, 0)
	return d, err
}

// Reserve decides and, when the call may run, holds the estimate's price on every budget of the path. ttl 0 is
// ledger.DefaultTTL. Errors: those of Check, *TTLError, money.ErrOverflow, *ForwardError.
func (s *Service) Reserve(ctx context.Context, call *routing.Call, ttl time.Duration) (*Decision, *Hold, error) {
	start := s.Clock.Boot()
	ttl, err := s.admit(start, ttl)
	if err != nil {
		return nil, nil, err
	}
	d, h, err := s.decide(ctx, call, ttl, true, 0)
	if err != nil {
		return nil, nil, err
	}
	var hold *Hold
	if h != nil {
		s.signal(call, d, h)
		hold = &Hold{s.sealer.seal(s.ledger.Owner, h, h.Expires), h.Amount, h.Expires}
	}
	// gofail: var afterHold struct{}
	end := s.Clock.Boot()
	if err := s.confirm(end, d, h); err != nil { // the answer may come too late to be ours to give
		return nil, nil, err
	}
	if !guard.ExpiryWhenChecked && h != nil {
		h.Expires = s.Clock.Now().Add(ttl)
		hold = &Hold{s.sealer.seal(s.ledger.Owner, h, h.Expires), h.Amount, h.Expires}
	}
	s.Metrics.Decision(d.Effect)
	s.Metrics.ReserveSeconds((end - start).Seconds())
	return d, hold, nil
}

func (s *Service) decide(ctx context.Context, call *routing.Call, ttl time.Duration, hold bool, calls int64) (answer *Decision, held *ledger.Hold, err error) {
	snap, now := s.Control.Snapshot(), s.Clock.Now()
	c := snap.Charter(call.Feature)
	if c == nil {
		return nil, nil, &FeatureUnknownError{call.Feature}
	}
	q := queries.Get().(*query)
	defer func() {
		if s.Meter != nil && hold && err == nil {
			s.Meter.Decided(&q.input, answer)
		}
		*q = query{} // nothing stays reachable
		queries.Put(q)
	}()
	q.call, q.snap, q.charter, q.now, q.ttl, q.hold, q.calls = call, snap, c, now, ttl, hold, calls
	q.input = routing.Input{Now: now, Call: call, Charter: c}
	q.offline = s.Offline > 0 && int64(s.Clock.Boot()) >= s.deadline.Load()
	path, closed, err := s.path(q.steps[:0], snap, c, call, now)
	if err != nil {
		return nil, nil, err
	}
	q.path, q.currency = path, path[0].budget.Currency
	d := &Decision{Currency: q.currency, CharterRevision: c.Revision}
	if c.Stage == charter.StageRetired {
		return deny(d, Reason{Code: CodeStage, Message: "the feature is retired: its charter allows no calls"}), nil, nil
	}
	if closed != nil {
		d.RetryDelay = max(0, closed.span.Start.Sub(now))
		return deny(d, Reason{CodeBudgetExhausted, "the budget's window, " + closed.span.String() + ", is not now", statusName(closed.id)}), nil, nil
	}
	var states []routing.BudgetState
	var plan *routing.Plan
	for again := true; again; {
		q.accounts, states, err = s.accounts(ctx, q.open[:0], q.states[:0], snap, c.ID, path, now)
		if err != nil {
			return nil, nil, err
		}
		q.input = routing.Input{
			Now: now, Call: call, Charter: c, Budgets: states, Catalog: snap.Catalog(), Prices: snap.Prices(), Epoch: snap.Epoch,
		}
		plan, err = s.Decider.Decide(ctx, &q.input)
		if again = err == nil && refuses(plan); again {
			if again, err = s.comesBack(ctx, q); err != nil {
				return nil, nil, err
			}
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		s.policyFailed(c, now, err)
		d.Reasons = append(d.Reasons, Reason{Code: CodePolicyFailed, Message: "the charter's fail mode applies: " + err.Error()})
		if c.FailMode != charter.FailStrictestTier {
			d.Effect = routing.Deny
			return d, nil, nil
		}
		strictest := &routing.Plan{Effect: routing.Downgrade, Tiers: s.strictest(c, snap.Catalog())}
		if plan == nil {
			plan = strictest
		} else { // what the other policies say stands
			plan = routing.Combine(snap.Catalog(), plan, strictest)
		}
	}
	d.PolicyRevision = plan.Revision
	d.Reasons = slices.Grow(d.Reasons, len(plan.Reasons)+1)
	for _, r := range plan.Reasons {
		d.Reasons = append(d.Reasons, Reason{Code: CodePolicy, Message: r})
	}
	for i := range states {
		if states[i].UtilizationPermille >= states[i].AlertPermille {
			d.Reasons = append(d.Reasons, Reason{CodeBudgetAlert, "the budget is over its alert threshold", statusName(path[i].id)})
		}
	}
	if refuses(plan) {
		return s.refused(ctx, q, d, plan)
	}
	return s.fit(ctx, q, d, plan)
}

func refuses(plan *routing.Plan) bool {
	return plan.Effect == routing.Deny || plan.Effect == routing.Throttle
}

// comesBack says that a call which is refused should be looked at again: a budget of its path seemed to be used up, and
// what other replicas hold idle of it was asked for. Another replica may have to look. Error: *ForwardError, ctx's.
func (s *Service) comesBack(ctx context.Context, q *query) (again bool, err error) {
	s.mu.Lock()
	if !slices.ContainsFunc(q.accounts, usedUp) {
		s.mu.Unlock()
		return false, nil
	}
	err = s.toHome(ctx, q)
	wait, atMost := false, time.Duration(0)
	if err == nil && q.hold {
		wait, atMost = s.ledger.Recall(s.Clock.Now(), q.accounts)
	}
	changed := s.changed
	s.mu.Unlock()
	if !wait {
		return false, err
	}
	s.wake()
	return s.waitForIdle(ctx, q, changed, atMost)
}

func usedUp(a *ledger.Account) bool { return a.Utilization() >= 1000 }

// waitForIdle waits for idle money of other replicas. Once for about ledger.TightWait in all: again is false when that is
// over, as where etcd does not answer.
func (s *Service) waitForIdle(ctx context.Context, q *query, changed <-chan struct{}, atMost time.Duration) (again bool, err error) {
	now := s.Clock.Boot()
	if q.recalled == 0 {
		q.recalled = now
	}
	if now-q.recalled >= ledger.TightWait {
		return false, nil
	}
	if err := s.Clock.Wait(ctx, changed, atMost); err != nil && !errors.Is(err, ErrWaited) {
		return false, err
	}
	return true, nil
}

func deny(d *Decision, r Reason) *Decision {
	d.Effect = routing.Deny
	d.Reasons = append(d.Reasons, r)
	return d
}

// strictest is the lowest tier that the charter permits a model of.
func (s *Service) strictest(c *charter.Charter, catalog *charter.Catalog) []string {
	if all := s.models(nil, c, catalog); len(all) > 0 {
		return []string{all[0].Tier}
	}
	return nil
}

// fit takes the first of the plan's models whose price fits the money left on every budget.
func (s *Service) fit(ctx context.Context, q *query, d *Decision, plan *routing.Plan) (*Decision, *ledger.Hold, error) {
	models := s.models(plan, q.charter, q.snap.Catalog())
	candidates, why, err := s.price(q.candidates[:0], nil, q, plan, models)
	if err != nil {
		return nil, nil, err
	}
	if len(candidates) == 0 {
		if len(models) == 0 {
			why = append(why, notPermitted(plan, q.snap.Catalog()))
		}
		d.Effect, d.Reasons = routing.Deny, append(d.Reasons, why...)
		return d, nil, nil
	}
	catalog := q.snap.Catalog()
	asked := askedRank(q.call, catalog)
	first := wantedRank(plan, catalog)
	for i := range candidates {
		c := &candidates[i]
		c.effect = plan.Effect
		if rank := catalog.Rank(c.model.Tier); rank < first || rank < asked {
			c.effect, q.wanted = routing.Downgrade, s.wanted(q, models)
		}
	}
	h, res, err := s.take(ctx, q, q.accounts, candidates)
	if err != nil {
		return nil, nil, err
	}
	d.offline = q.offline
	if res.Choice < 0 {
		return s.exhausted(ctx, q, d, plan, &res.Refused)
	}
	chosen := &candidates[res.Choice]
	if res.Choice > 0 {
		d.Reasons = append(d.Reasons, Reason{CodeFittedToBudget,
			fmt.Sprintf("%s would have cost %s %s; %s fits the money left", candidates[0].model.ID, candidates[0].cost, q.currency, chosen.model.ID),
			statusName(res.Bound.ID)})
	}
	if catalog.Rank(chosen.model.Tier) < first && res.Choice == 0 { // it was not money
		d.Reasons = append(d.Reasons, why...)
		if len(models) > 0 && catalog.Rank(models[0].Tier) < first {
			d.Reasons = append(d.Reasons, notPermitted(plan, catalog))
		}
	}
	if chosen.effect == routing.Downgrade && len(d.Reasons) == 0 {
		d.Reasons = append(d.Reasons, Reason{Code: CodePolicy, Message: "the policy chose a cheaper tier than the one asked for"})
	}
	s.fill(d, q, plan, candidates, res.Choice)
	return d, h, nil
}

// wantedRank is the rank of the tier that a plan would have first.
func wantedRank(plan *routing.Plan, catalog *charter.Catalog) int {
	if len(plan.Models) > 0 {
		if m := catalog.Model(plan.Models[0]); m != nil {
			return catalog.Rank(m.Tier)
		}
	}
	if len(plan.Tiers) > 0 {
		return catalog.Rank(plan.Tiers[0])
	}
	return -1
}

// wanted is the model that a call asks for, by itself or by its tier, or else the first of the plan's.
func (s *Service) wanted(q *query, plan []*charter.Model) string {
	catalog := q.snap.Catalog()
	if catalog.Model(q.call.Model) != nil {
		return q.call.Model
	}
	for _, m := range s.models(nil, q.charter, catalog) {
		if m.Tier == q.call.Tier {
			return m.ID
		}
	}
	if len(plan) > 0 {
		return plan[0].ID
	}
	return ""
}

// notPermitted says that what a plan would have first is not to be had.
func notPermitted(plan *routing.Plan, catalog *charter.Catalog) Reason {
	var missing []string
	for _, t := range plan.Tiers {
		if catalog.Rank(t) < 0 {
			missing = append(missing, "tier "+t)
		}
	}
	for _, m := range plan.Models {
		if catalog.Model(m) == nil {
			missing = append(missing, "model "+m)
		}
	}
	if len(missing) > 0 {
		return Reason{Code: CodeNotPermitted, Message: "the policy chose what the catalog does not have: " + strings.Join(missing, ", ")}
	}
	return Reason{Code: CodeNotPermitted, Message: "the charter does not permit all that the policy chose: " + strings.Join(append(slices.Clone(plan.Models), plan.Tiers...), ", ")}
}

// askedRank is the rank of the tier that the call asks for, directly or by its model; -1 if it asks for none.
func askedRank(call *routing.Call, catalog *charter.Catalog) int {
	if call.Tier != "" {
		return catalog.Rank(call.Tier)
	}
	if m := catalog.Model(call.Model); m != nil {
		return catalog.Rank(m.Tier)
	}
	return -1
}

// fill writes the chosen model and its limits into the decision.
func (s *Service) fill(d *Decision, q *query, plan *routing.Plan, candidates []candidate, choice int) {
	c := &candidates[choice]
	d.Effect = c.effect
	d.Tier, d.Model, d.Provider = c.model.Tier, c.model.ID, c.model.Provider
	d.Cost, d.Price, d.PriceRevision = c.cost, c.price, c.price.Revision
	d.MaxOutputTokens = c.maxOutput
	d.MaxInputTokens = c.model.ContextTokens - c.maxOutput
	if plan.MaxInputTokens > 0 {
		d.MaxInputTokens = min(d.MaxInputTokens, plan.MaxInputTokens)
	}
	d.TrimContextToTokens, d.PromptCache = plan.TrimContextToTokens, plan.PromptCache
	for i := range candidates {
		if a := &candidates[i]; i != choice && a.cost <= c.cost {
			d.Alternates = append(d.Alternates, Alternate{a.model.Tier, a.model.ID, a.cost})
		}
	}
}

// take holds the first candidate that fits, waiting for grants where they are needed. Check only looks.
func (s *Service) take(ctx context.Context, q *query, accounts []*ledger.Account, candidates []candidate) (*ledger.Hold, ledger.Result, error) {
	amounts := q.amounts[:0]
	for i := range candidates {
		amounts = append(amounts, candidates[i].cost)
	}
	here := false
	for {
		s.mu.Lock()
		if s.failure != nil {
			err := &UnavailableError{s.failure.Error()}
			s.mu.Unlock()
			return nil, ledger.Result{}, err
		}
		if !q.hold {
			res := s.ledger.Check(s.Clock.Now(), accounts, amounts, here)
			if res.Forward {
				if err := s.toHome(ctx, q); err != nil {
					s.mu.Unlock()
					return nil, res, err
				}
				res = s.ledger.Check(s.Clock.Now(), accounts, amounts, true)
			}
			s.mu.Unlock()
			return nil, res, nil
		}
		if q.calls > 0 {
			for i := range candidates {
				amounts[i] = ledger.SliceAmount(accounts, candidates[i].cost, q.calls)
			}
		}
		now := s.Clock.Now() // expiry counts from when the money is checked
		res := s.ledger.Reserve(now, accounts, amounts, q.ttl, ledger.Call{
			Feature: q.call.Feature, User: q.call.User, Cohort: q.call.Cohort, Agent: q.call.Agent, Run: q.call.Run,
			PromptPattern: q.call.PromptPattern, Task: q.call.Task, ServiceTier: q.call.ServiceTier, Region: q.call.Region, Leased: q.calls > 0, Time: q.now,
		}, here)
		if res.Forward {
			if err := s.toHome(ctx, q); err != nil {
				s.mu.Unlock()
				return nil, res, err
			}
			here = true
			s.mu.Unlock()
			continue
		}
		if q.offline && (res.Wait || res.Hold != nil && !s.takeOffline(res.Hold.Amount)) {
			if res.Hold != nil {
				s.ledger.Undo(res.Hold)
			}
			s.mu.Unlock()
			return nil, res, &UnavailableError{"etcd does not answer, and what this server may hold without it is used up"}
		}
		changed, grants := s.changed, s.ledger.WantsAdjustment()
		if res.Hold != nil {
			c := &candidates[res.Choice]
			res.Hold.Call.Tier, res.Hold.Call.Model, res.Hold.Call.Effect = c.model.Tier, c.model.ID, c.effect
			if c.effect == routing.Downgrade && q.wanted != c.model.ID {
				res.Hold.Call.Wanted = q.wanted
			}
		}
		s.mu.Unlock()
		if grants {
			s.wake()
		}
		switch {
		case !res.Wait:
			return res.Hold, res, nil
		case res.AtMost > 0: // idle money elsewhere may come back; if not, it is refused
			again, err := s.waitForIdle(ctx, q, changed, res.AtMost)
			if err != nil || !again {
				return nil, res, err
			}
			continue
		}
		if err := s.await(ctx, changed, "etcd does not answer, so no more of the budget can be granted"); err != nil {
			return nil, ledger.Result{}, err
		}
	}
}

// confirm is alive for an answer that is about to be given: a hold that the deadline overtook is counted, too.
func (s *Service) confirm(at time.Duration, d *Decision, h *ledger.Hold) error {
	if h == nil || int64(at) < s.deadline.Load() || !guard.DeadlineCheck {
		return s.alive(at)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil && (d.offline || s.Offline > 0 && s.takeOffline(h.Amount)) {
		return nil
	}
	return &UnavailableError{"etcd has not confirmed this server's ownership in time"}
}

// takeOffline counts a hold that is made while etcd does not answer. Called with the lock.
func (s *Service) takeOffline(x money.Nanos) bool {
	if s.offline+x > s.Offline {
		return false
	}
	s.offline += x
	return true
}
