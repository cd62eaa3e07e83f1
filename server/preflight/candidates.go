package preflight

import (
	"sync"
	"sync/atomic"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

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
	m := routing.Models(plan, c, catalog)
	known.models.Store(key, m)
	known.size.Add(1)
	return m
}

// price gives those of the models that can serve the call, in order, with their cost; and why each of the others cannot.
func (s *Service) price(dst []routing.Candidate, q *query, plan *routing.Plan, models []*charter.Model) ([]routing.Candidate, []Reason, error) {
	dst, unfit, err := routing.Price(dst, nil, &q.input, q.currency, plan, models)
	var reasons []Reason
	for _, u := range unfit {
		reasons = append(reasons, Reason{Code: unfitCodes[u.Why], Message: u.Message})
	}
	return dst, reasons, err
}

var unfitCodes = [...]Code{
	routing.LacksCapability: CodeCapabilityMissing, routing.NoRoom: CodeContextTooLong,
	routing.NoPrice: CodeNoPrice, routing.NoRate: CodeNoExchangeRate, routing.NotProven: CodeEvaluationMissing,
}
