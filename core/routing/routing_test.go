package routing

import (
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// The hold is what the dearest usage costs that the estimate and the decision allow.
func TestAnEstimateHoldsWhatACacheWriteCosts(t *testing.T) {
	rates := func(rates map[pricing.Unit]money.Nanos) *pricing.Price {
		return pricing.New("m", day, "USD", rates)
	}
	sonnet := rates(map[pricing.Unit]money.Nanos{
		pricing.Input: 3e9, pricing.CacheRead: 3e8, pricing.CacheWrite5m: 3.75e9, pricing.CacheWrite1h: 6e9, pricing.Output: 15e9,
	})
	thinker := rates(map[pricing.Unit]money.Nanos{pricing.Input: 3e9, pricing.CacheWrite5m: 3.75e9, pricing.Output: 15e9, pricing.Reasoning: 20e9})
	free := rates(map[pricing.Unit]money.Nanos{pricing.Input: 3e9, pricing.CacheWrite5m: 0, pricing.Output: 15e9}) // as OpenAI's
	none := rates(map[pricing.Unit]money.Nanos{pricing.Input: 3e9, pricing.Output: 15e9})
	long := rates(map[pricing.Unit]money.Nanos{pricing.Input: 3e9, pricing.Output: 15e9})
	if err := long.SetVariants([]pricing.Variant{{OverInput: 5000, Rates: map[pricing.Unit]money.Nanos{pricing.CacheWrite5m: 7.5e9}}}); err != nil {
		t.Fatal(err)
	}
	plain := Estimate{InputTokens: 10_000, CachedInputTokens: 4000}
	told := Estimate{InputTokens: 10_000, CachedInputTokens: 4000, CacheWrite5mTokens: 1000, CacheWrite1hTokens: 500}
	for name, c := range map[string]struct {
		price    *pricing.Price
		estimate Estimate
		cache    PromptCache
		want     usage.Usage // of which it is the cost
	}{
		"no advice":                     {sonnet, plain, CacheUnspecified, usage.Usage{InputTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"off":                           {sonnet, plain, CacheOff, usage.Usage{InputTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"5 minutes":                     {sonnet, plain, Cache5m, usage.Usage{CacheWrite5mTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"1 hour":                        {sonnet, plain, Cache1h, usage.Usage{CacheWrite1hTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"1 hour at the 5-minute rate":   {thinker, plain, Cache1h, usage.Usage{CacheWrite1hTokens: 6000, CacheReadTokens: 4000, ReasoningTokens: 100}},
		"reasoning":                     {thinker, plain, Cache5m, usage.Usage{CacheWrite5mTokens: 6000, CacheReadTokens: 4000, ReasoningTokens: 100}},
		"writes that cost less":         {free, plain, Cache5m, usage.Usage{InputTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"no rate for writes":            {none, plain, Cache5m, usage.Usage{InputTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"a rate for long contexts only": {long, plain, Cache5m, usage.Usage{CacheWrite5mTokens: 6000, CacheReadTokens: 4000, OutputTokens: 100}},
		"the caller says": {sonnet, told, CacheUnspecified,
			usage.Usage{InputTokens: 4500, CacheReadTokens: 4000, CacheWrite5mTokens: 1000, CacheWrite1hTokens: 500, OutputTokens: 100}},
		"the caller says, and there is advice": {sonnet, told, Cache1h,
			usage.Usage{InputTokens: 4500, CacheReadTokens: 4000, CacheWrite5mTokens: 1000, CacheWrite1hTokens: 500, OutputTokens: 100}},
	} {
		want, err := c.price.Cost(&c.want)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.estimate.Cost(c.price, 100, c.cache); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = plain.Cost(thinker, 100, Cache5m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
