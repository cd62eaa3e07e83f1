package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// The records that tests start from: one budget tree, one charter, a catalog and prices.

func owner() *chartergatev1.Owner {
	return &chartergatev1.Owner{Name: "Dana Fox", Email: "dana@example.com"}
}

func aBudget(id, parent string) *chartergatev1.Budget {
	b := &chartergatev1.Budget{
		Name: "budgets/" + id, Owner: owner(), LimitNanos: 1000e9,
		Period: &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_MONTH, TimeZone: "Europe/Zurich"},
	}
	if parent != "" {
		b.Parent = "budgets/" + parent
	}
	return b
}

func aCharter(id, budget string) *chartergatev1.Charter {
	return &chartergatev1.Charter{
		Name: "charters/" + id, Owner: owner(), Team: "Support", Stage: chartergatev1.Stage_STAGE_PRODUCTION,
		Budget: "budgets/" + budget, PermittedTiers: []string{"economy"}, Labels: map[string]string{"team": "support"},
	}
}

func aCatalog() *chartergatev1.Catalog {
	return &chartergatev1.Catalog{
		Tiers: []*chartergatev1.Tier{{Id: "economy"}, {Id: "premium"}},
		Models: []*chartergatev1.Model{
			{Id: "small", Provider: "acme", Tier: "economy", ContextTokens: 8000, MaxOutputTokens: 1000},
			{Id: "large", Provider: "acme", Tier: "premium", ContextTokens: 8000, MaxOutputTokens: 1000},
		},
	}
}

func aPriceBook(id string) *chartergatev1.PriceBook {
	return &chartergatev1.PriceBook{
		Name: "priceBooks/" + id,
		Prices: []*chartergatev1.Price{{
			Model: "small", EffectiveTime: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			InputNanos: ptr(int64(150e6)), OutputNanos: ptr(int64(600e6)), ToolCallNanos: map[string]int64{"web_search": 10e12},
		}},
	}
}

func resourceOf(m resource) *chartergatev1.Resource {
	switch m := m.(type) {
	case *chartergatev1.Budget:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Budget{Budget: m}}
	case *chartergatev1.Charter:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Charter{Charter: m}}
	case *chartergatev1.Catalog:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Catalog{Catalog: m}}
	case *chartergatev1.PriceBook:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_PriceBook{PriceBook: m}}
	case *chartergatev1.Policy:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Policy{Policy: m}}
	}
	return nil
}

func apply(resources ...resource) *chartergatev1.ApplyRequest {
	req := &chartergatev1.ApplyRequest{}
	for _, r := range resources {
		req.Resources = append(req.Resources, resourceOf(r))
	}
	return req
}

// company applies the records: budgets acme > support, the charter chat, the catalog and the prices.
func (r *rig) company(t *testing.T) {
	t.Helper()
	// The charter comes before what it names: the order does not matter.
	_, err := r.manifests.Apply(t.Context(), apply(aCharter("chat", "support"), aBudget("support", "acme"),
		aBudget("acme", ""), aCatalog(), aPriceBook("list")))
	if err != nil {
		t.Fatal(err)
	}
}

const regoAllow = `package chartergate.routing

decision := {"effect": "allow", "tiers": ["economy"]}
`
