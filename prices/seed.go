package prices

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// seed.json is made from pydantic/genai-prices (MIT, see seed/LICENSE) by `go generate`.
//
//go:generate go run ./seed ../../shared/data/prices/genai-prices.json seed.json
//go:embed seed.json
var seed []byte

// SeedInfo says where the shipped price list comes from.
type SeedInfo struct {
	Date   string `json:"date"` // when the list was made
	Source string `json:"source"`
}

var readSeed = sync.OnceValues(func() (*Book, error) {
	var file struct {
		SeedInfo
		Providers json.RawMessage `json:"providers"`
	}
	if err := decode(seed, &file); err != nil {
		return nil, err
	}
	b, err := Parse(fmt.Sprintf("shipped prices of %s", file.Date), GenAI, file.Providers)
	if err != nil {
		return nil, err
	}
	b.Info = file.SeedInfo
	for _, p := range b.Providers {
		for _, m := range p.Models {
			for _, price := range m.Prices {
				price.Source += " " + file.Date
				if err := supplement(p.ID, m.ID, price); err != nil {
					return nil, err
				}
			}
		}
	}
	return b, nil
})

// Seed is the price list in this binary: the main providers' models, with its date and source in Info.
func Seed() (*Book, error) { return readSeed() }

// supplement adds what Anthropic's pricing page says and genai-prices leaves out: a write to the 1-hour cache is twice the
// input, batches are half, 1,000 web searches are 10.00.
func supplement(provider, model string, p *pricing.Price) error {
	input, ok := p.Rate(pricing.Input)
	if provider != "anthropic" || !ok || !strings.HasPrefix(model, "claude") {
		return nil
	}
	rates := ratesOf(p)
	if _, caches := rates[pricing.CacheWrite5m]; caches {
		rates[pricing.CacheWrite1h] = 2 * input
	}
	variants := p.Variants()
	for i, v := range variants {
		if r, ok := v.Rates[pricing.Input]; ok && rates[pricing.CacheWrite1h] > 0 {
			variants[i].Rates[pricing.CacheWrite1h] = 2 * r
		}
	}
	q := pricing.New(p.Model, p.Effective, p.Currency, rates)
	q.Provider, q.Source, q.Tools = p.Provider, p.Source, map[string]money.Nanos{"web_search": 10_000 * money.Unit}
	err := q.SetVariants(append(variants, pricing.Variant{ServiceTier: "batch", Multiplier: pricing.NewRatio(1, 2)}))
	*p = *q
	return err
}
