package preflight

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

// candidate is a model that may serve a call, with its price and what the estimate costs on it.
type candidate struct {
	model     *charter.Model
	price     *pricing.Price
	maxOutput int64
	cost      money.Nanos
	effect    routing.Effect // of the decision, if it is chosen
}

// expansions remembers which models the tiers of a plan stand for. It is made anew when the catalog changes, and when it
// is full: plans and charters come and go.
type expansions struct {
	catalog *charter.Catalog
	models  sync.Map // expansionKey -> []*charter.Model
	size    atomic.Int64
}

const maxExpansions = 65_536

type expansionKey struct {
	plan    *routing.Plan // nil: all permitted
	charter *charter.Charter
}

// models gives the permitted models that a plan names, in its order; for a nil plan all, from the cheapest tier to the
// dearest.
func (s *Service) models(plan *routing.Plan, c *charter.Charter, catalog *charter.Catalog) []*charter.Model {
	known := s.expanded.Load()
	if known == nil || known.catalog != catalog || known.size.Load() >= maxExpansions {
		known = &expansions{catalog: catalog}
		s.expanded.Store(known)
	}
	key := expansionKey{plan, c}
	if m, ok := known.models.Load(key); ok {
		return m.([]*charter.Model)
	}
	m := expand(plan, c, catalog)
	known.models.Store(key, m)
	known.size.Add(1)
	return m
}

// cheapestFirst gives the permitted models that a plan names, all where it names none, from the cheapest tier to the
// dearest.
func (s *Service) cheapestFirst(plan *routing.Plan, c *charter.Charter, catalog *charter.Catalog) []*charter.Model {
	if len(plan.Models)+len(plan.Tiers) == 0 {
		return s.models(nil, c, catalog)
	}
	models := slices.Clone(s.models(plan, c, catalog))
	slices.SortStableFunc(models, func(a, b *charter.Model) int { return catalog.Rank(a.Tier) - catalog.Rank(b.Tier) })
	return models
}

func expand(plan *routing.Plan, c *charter.Charter, catalog *charter.Catalog) []*charter.Model {
	var models []*charter.Model
	add := func(m *charter.Model) {
		if m != nil && permitted(c, m) && !slices.Contains(models, m) {
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

func permitted(c *charter.Charter, m *charter.Model) bool {
	return (len(c.PermittedTiers) == 0 || slices.Contains(c.PermittedTiers, m.Tier)) &&
		(len(c.PermittedModels) == 0 || slices.Contains(c.PermittedModels, m.ID))
}

// price gives those of the models that can serve the call, in order, with their cost; and why each of the others cannot.
func (s *Service) price(dst []candidate, reasons []Reason, q *query, plan *routing.Plan, models []*charter.Model) ([]candidate, []Reason, error) {
	est, cache := &q.call.Estimate, routing.CacheUnspecified
	if plan != nil {
		cache = plan.PromptCache
	}
	for _, m := range models {
		if missing := lacks(m, q.call.Capabilities); missing != "" {
			reasons = append(reasons, Reason{Code: CodeCapabilityMissing, Message: fmt.Sprintf("model %s lacks the capability %q", m.ID, missing)})
			continue
		}
		c := candidate{model: m, maxOutput: est.MaxOutputTokens}
		if c.maxOutput == 0 || c.maxOutput > m.MaxOutputTokens {
			c.maxOutput = m.MaxOutputTokens
		}
		input := est.InputTokens
		if plan != nil {
			if plan.MaxOutputTokens > 0 {
				c.maxOutput = min(c.maxOutput, plan.MaxOutputTokens)
			}
			if plan.MaxInputTokens > 0 && input > plan.MaxInputTokens {
				reasons = append(reasons, Reason{Code: CodeContextTooLong, Message: fmt.Sprintf("the policy allows %d input tokens, the call has %d: trim the context", plan.MaxInputTokens, input)})
				continue
			}
		}
		if room := m.ContextTokens - input; c.maxOutput > room {
			c.maxOutput = room
		}
		if c.maxOutput < 0 || (c.maxOutput == 0 && est.MaxOutputTokens > 0) {
			reasons = append(reasons, Reason{Code: CodeContextTooLong, Message: fmt.Sprintf("%d input tokens leave no room for output in the %d tokens of %s", input, m.ContextTokens, m.ID)})
			continue
		}
		var err error
		if c.price, err = q.snap.Prices().For(m.ID, pricing.Terms{ServiceTier: q.call.ServiceTier, Region: q.call.Region, Time: q.now}); err == nil {
			if c.price, err = q.snap.Prices().In(c.price, q.currency, q.now); err == nil {
				c.cost, err = est.Cost(c.price, c.maxOutput, cache)
			}
		}
		if noRate, ok := errors.AsType[*pricing.NoRateError](err); ok {
			reasons = append(reasons, Reason{Code: CodeNoExchangeRate, Message: (&CurrencyError{m.ID, noRate}).Error()})
			continue
		}
		unpriced, isUnpriced := errors.AsType[*pricing.UnpricedError](err)
		switch {
		case isUnpriced:
			reasons = append(reasons, Reason{Code: CodeNoPrice, Message: unpriced.Error()})
			continue
		case err != nil:
			return dst, reasons, err
		}
		dst = append(dst, c)
	}
	return dst, reasons, nil
}

func lacks(m *charter.Model, capabilities []string) string {
	for _, c := range capabilities {
		if !slices.Contains(m.Capabilities, c) {
			return c
		}
	}
	return ""
}
