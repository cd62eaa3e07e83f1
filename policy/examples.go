package policy

import (
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

var exampleTime = time.Date(2026, 11, 23, 10, 15, 0, 0, time.UTC)

func exampleCatalog() *charter.Catalog {
	return charter.WithMeta(&charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "standard"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "small", Provider: "example", Tier: "economy", Capabilities: []string{"chat", "tools"}, ContextTokens: 128_000, MaxOutputTokens: 16_384},
			{ID: "medium", Provider: "example", Tier: "standard", Capabilities: []string{"chat", "tools", "vision"}, ContextTokens: 128_000, MaxOutputTokens: 16_384},
			{ID: "large", Provider: "example", Tier: "premium", Capabilities: []string{"chat", "tools", "vision", "code"}, ContextTokens: 200_000, MaxOutputTokens: 64_000},
		},
	}, charter.Meta{}).(*charter.Catalog)
}

func examplePrices() *pricing.Book {
	var prices []*pricing.Price
	for id, rate := range map[string]money.Nanos{"small": 150_000_000, "medium": 2_500_000_000, "large": 5_000_000_000} {
		prices = append(prices, pricing.New(id, time.Time{}, "USD", map[pricing.Unit]money.Nanos{pricing.Input: rate, pricing.Output: 4 * rate}))
	}
	book, err := pricing.NewBook(prices)
	if err != nil {
		panic(err) // three prices of three models
	}
	return book
}

func exampleCharter() *charter.Charter {
	return &charter.Charter{ID: "example", Team: "example", Stage: charter.StageProduction}
}

// vetted are one call on budgets that are fresh, over their alert, and used up.
func vetted() []*routing.Input {
	catalog, prices := exampleCatalog(), examplePrices()
	var list []*routing.Input
	for name, permille := range map[string]int32{"a fresh budget": 100, "a budget over its alert": 900, "a used-up budget": 1000} {
		list = append(list, &routing.Input{
			Now: exampleTime,
			Call: &routing.Call{
				Feature: "example", TaskClass: "chat", Capabilities: []string{"chat"}, User: "u-1", Cohort: "all",
				Estimate: routing.Estimate{InputTokens: 1200, MaxOutputTokens: 400}, Labels: map[string]string{"example": name},
			},
			Charter: exampleCharter(), Catalog: catalog, Prices: prices,
			Budgets: []routing.BudgetState{{ID: "example", UtilizationPermille: permille, AlertPermille: 800}, {ID: "all", UtilizationPermille: 300, AlertPermille: 900}},
		})
	}
	return list
}

// Examples are calls of an example company, ten a second, on a path of four budgets that fill up on the way. What a call
// does not say of its task, user and cohort takes turns.
func Examples(calls []*routing.Call) []*routing.Input {
	catalog, prices, feature := exampleCatalog(), examplePrices(), exampleCharter()
	classes := []string{"chat", "rag", "code", "classify", "summarize"}
	var whole, used int64
	for _, c := range calls {
		whole += c.Estimate.InputTokens + 4*c.Estimate.MaxOutputTokens
	}
	list := make([]*routing.Input, len(calls))
	for i, c := range calls {
		call := *c
		call.Feature = feature.ID
		if call.TaskClass == "" {
			call.TaskClass = classes[i%len(classes)]
		}
		if call.User == "" {
			call.User = fmt.Sprint("u-", i%500)
		}
		if call.Cohort == "" {
			call.Cohort = fmt.Sprint("c-", i%10)
		}
		used += call.Estimate.InputTokens + 4*call.Estimate.MaxOutputTokens
		in := &routing.Input{Now: exampleTime.Add(time.Duration(i) * time.Second / 10), Call: &call, Charter: feature, Catalog: catalog, Prices: prices}
		for level, permille := range []int64{1010, 850, 700, 600} { // at the end, from the feature's own budget up
			in.Budgets = append(in.Budgets, routing.BudgetState{ID: fmt.Sprint("level-", level), AlertPermille: 800,
				UtilizationPermille: int32(permille * used / max(whole, 1))})
		}
		list[i] = in
	}
	return list
}

// ExampleMix makes up n calls; always the same.
func ExampleMix(n int) []*routing.Call {
	calls := make([]*routing.Call, n)
	for i := range calls {
		x := uint64(i+1) * 0x9e3779b97f4a7c15
		calls[i] = &routing.Call{Estimate: routing.Estimate{InputTokens: int64(20 + x>>40%8000), MaxOutputTokens: int64(1 + x>>20%800)}}
	}
	return calls
}
