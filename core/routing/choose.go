package routing

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// Candidate is a model that can serve a call, with its price and what the estimate costs on it.
type Candidate struct {
	Model     *charter.Model
	Price     *pricing.Price
	MaxOutput int64
	Cost      money.Nanos
	Effect    Effect // of the decision, if it is chosen
}

// Why says what kind of reason keeps a model from serving a call.
type Why int

// Kinds of reasons.
const (
	LacksCapability Why = iota
	NoRoom              // the prompt is too long for it, or for the policy
	NoPrice
	NoRate    // of exchange, from the currency of its price
	NotProven // it is smaller than the model asked for, without an evaluation that says that it will do
)

// Unfit says why a model cannot serve a call.
type Unfit struct {
	Why     Why
	Model   string
	Message string
}

// Models gives the permitted models that a plan names, in its order and once each; for a nil plan all, from the cheapest
// tier to the dearest.
func Models(plan *Plan, c *charter.Charter, catalog *charter.Catalog) []*charter.Model {
	var models []*charter.Model
	add := func(m *charter.Model) {
		if m != nil && Permitted(c, m) && !slices.Contains(models, m) {
			models = append(models, m)
		}
	}
	addTier := func(tier string) {
		if catalog == nil {
			return
		}
		for i := range catalog.Models {
			if m := &catalog.Models[i]; m.Tier == tier {
				add(m)
			}
		}
	}
	if plan == nil {
		if catalog != nil {
			for _, t := range catalog.Tiers {
				addTier(t.ID)
			}
		}
		return models
	}
	for _, id := range plan.Models {
		add(catalog.Model(id))
	}
	for _, t := range plan.Tiers {
		addTier(t)
	}
	return models
}

// Permitted says whether a charter permits a model.
func Permitted(c *charter.Charter, m *charter.Model) bool {
	return (len(c.PermittedTiers) == 0 || slices.Contains(c.PermittedTiers, m.Tier)) &&
		(len(c.PermittedModels) == 0 || slices.Contains(c.PermittedModels, m.ID))
}

// OverflowModels gives the permitted models that a plan names, all where it names none, from the cheapest tier to the
// dearest: an overflow allowance pays for the first tier of them.
func OverflowModels(plan *Plan, c *charter.Charter, catalog *charter.Catalog) []*charter.Model {
	if !plan.names() {
		return Models(nil, c, catalog)
	}
	models := Models(plan, c, catalog)
	slices.SortStableFunc(models, func(a, b *charter.Model) int { return catalog.Rank(a.Tier) - catalog.Rank(b.Tier) })
	return models
}

// Strictest is the plan of a charter whose calls run though a policy gave no decision: the lowest tier of which it permits
// a model, and what the other policies say, if there are any.
func Strictest(others *Plan, c *charter.Charter, catalog *charter.Catalog) *Plan {
	plan := &Plan{Effect: Downgrade}
	if all := Models(nil, c, catalog); len(all) > 0 {
		plan.Tiers = []string{all[0].Tier}
	}
	if others == nil {
		return plan
	}
	return Combine(catalog, others, plan)
}

// Refuses says that a plan lets no call run.
func (p *Plan) Refuses() bool { return p.Effect == Deny || p.Effect == Throttle }

// Price appends those of the models that can serve the call to dst, in order, with their cost in a currency, and why each
// of the others cannot to unfit. plan may be nil: then it sets no limits. All of in but its budgets must be set.
// Error: money.ErrOverflow.
func Price(dst []Candidate, unfit []Unfit, in *Input, currency string, plan *Plan, models []*charter.Model) ([]Candidate, []Unfit, error) {
	est, cache := &in.Call.Estimate, CacheUnspecified
	if plan != nil {
		cache = plan.PromptCache
	}
	for _, m := range models {
		not := func(why Why, format string, args ...any) {
			unfit = append(unfit, Unfit{why, m.ID, fmt.Sprintf(format, args...)})
		}
		if missing := lacks(m, in.Call.Capabilities); missing != "" {
			not(LacksCapability, "model %s lacks the capability %q", m.ID, missing)
			continue
		}
		if Substitutes(in.Call, in.Catalog, m) {
			if missing := Unproven(in.Call, in.Charter, m.ID, in.Now); missing != "" {
				not(NotProven, "model %s may not serve in place of %s: the charter has no passing, unexpired evaluation of it for %q", m.ID, in.Call.Model, missing)
				continue
			}
		}
		c := Candidate{Model: m, MaxOutput: est.MaxOutputTokens}
		if c.MaxOutput == 0 || c.MaxOutput > m.MaxOutputTokens {
			c.MaxOutput = m.MaxOutputTokens
		}
		input := est.InputTokens
		if plan != nil {
			if plan.MaxOutputTokens > 0 {
				c.MaxOutput = min(c.MaxOutput, plan.MaxOutputTokens)
			}
			if plan.MaxInputTokens > 0 && input > plan.MaxInputTokens {
				not(NoRoom, "the policy allows %d input tokens, the call has %d: trim the context", plan.MaxInputTokens, input)
				continue
			}
		}
		if room := m.ContextTokens - input; c.MaxOutput > room {
			c.MaxOutput = room
		}
		if c.MaxOutput < 0 || (c.MaxOutput == 0 && est.MaxOutputTokens > 0) {
			not(NoRoom, "%d input tokens leave no room for output in the %d tokens of %s", input, m.ContextTokens, m.ID)
			continue
		}
		var err error
		if c.Price, err = PriceOf(in, m.ID, currency); err == nil {
			c.Cost, err = est.Cost(c.Price, c.MaxOutput, cache)
		}
		if noRate, ok := errors.AsType[*pricing.NoRateError](err); ok {
			not(NoRate, "%v", &CurrencyError{m.ID, noRate})
			continue
		}
		unpriced, isUnpriced := errors.AsType[*pricing.UnpricedError](err)
		switch {
		case isUnpriced:
			not(NoPrice, "%v", unpriced)
			continue
		case err != nil:
			return dst, unfit, err
		}
		dst = append(dst, c)
	}
	return dst, unfit, nil
}

// PriceOf is the price of a model for a call, in a currency. Errors: *pricing.UnpricedError, *pricing.NoRateError.
func PriceOf(in *Input, model, currency string) (*pricing.Price, error) {
	at := in.Now
	p, err := in.Prices.For(model, pricing.Terms{ServiceTier: in.Call.ServiceTier, Region: in.Call.Region, Time: at})
	if err != nil {
		return nil, err
	}
	return in.Prices.In(p, currency, at)
}

// CurrencyError says that a model is priced in another currency than the budgets, and that no exchange rate is known.
type CurrencyError struct {
	Model string
	Err   *pricing.NoRateError
}

// Unwrap gives the missing rate.
func (e *CurrencyError) Unwrap() error { return e.Err }

func (e *CurrencyError) Error() string {
	return fmt.Sprintf("model %q is priced in %s, the budgets are in %s: %v", e.Model, e.Err.From, e.Err.To, e.Err)
}

// Rate says of each candidate which effect its choice would have: the plan's, or Downgrade where it is of a lower tier
// than the plan would have first or the call asks for. first is that of the plan.
func Rate(candidates []Candidate, call *Call, plan *Plan, catalog *charter.Catalog) (first int) {
	asked, first := askedRank(call, catalog), wantedRank(plan, catalog)
	for i := range candidates {
		c := &candidates[i]
		c.Effect = plan.Effect
		if rank := catalog.Rank(c.Model.Tier); rank < first || rank < asked {
			c.Effect = Downgrade
		}
	}
	return first
}

// Overflow keeps the candidates that an overflow allowance pays for: those of the cheapest tier.
func Overflow(candidates []Candidate) []Candidate {
	n := 0
	for n < len(candidates) && candidates[n].Model.Tier == candidates[0].Model.Tier {
		candidates[n].Effect = Downgrade
		n++
	}
	return candidates[:n]
}

// Wanted is the model that a call asks for, by itself or by its tier, or else the first of the plan's models; empty if
// there is none.
func Wanted(call *Call, c *charter.Charter, catalog *charter.Catalog, plan []*charter.Model) string {
	if catalog.Model(call.Model) != nil {
		return call.Model
	}
	if catalog != nil && call.Tier != "" {
		for i := range catalog.Models {
			if m := &catalog.Models[i]; m.Tier == call.Tier && Permitted(c, m) {
				return m.ID
			}
		}
	}
	if len(plan) > 0 {
		return plan[0].ID
	}
	return ""
}

// wantedRank is the rank of the tier that a plan would have first.
func wantedRank(plan *Plan, catalog *charter.Catalog) int {
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

// askedRank is the rank of the tier that the call asks for, directly or by its model; -1 if it asks for none.
func askedRank(call *Call, catalog *charter.Catalog) int {
	if call.Tier != "" {
		return catalog.Rank(call.Tier)
	}
	if m := catalog.Model(call.Model); m != nil {
		return catalog.Rank(m.Tier)
	}
	return -1
}

// lacks is the first capability that a model does not have; empty if it has all.
func lacks(m *charter.Model, capabilities []string) string {
	for _, c := range capabilities {
		if !slices.Contains(m.Capabilities, c) {
			return c
		}
	}
	return ""
}

// CallKey is what of a call a budget has its own ceiling for; empty where the call does not say it.
func CallKey(per charter.Per, call *Call) string {
	switch per {
	case charter.PerUser:
		return call.User
	case charter.PerCohort:
		return call.Cohort
	case charter.PerAgent:
		return call.Agent
	}
	return call.Run
}

// Trickle lets calls through at a number a minute, evenly spaced (GCRA with a burst of one). The zero value lets the
// next call through.
type Trickle struct{ next time.Time }

// Take lets a call through, or says how long to wait.
func (t *Trickle) Take(perMinute int32, now time.Time) (wait time.Duration) {
	if now.Before(t.next) {
		return t.next.Sub(now)
	}
	t.next = now.Add(time.Minute / time.Duration(perMinute))
	return 0
}
