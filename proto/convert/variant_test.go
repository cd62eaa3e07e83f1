package convert_test

import (
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
)

// A slice's price, which is one under terms, costs in the client what it costs in the server.
func TestPricesUnderTermsKeepTheirCost(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := pricing.New("m", start, "USD", map[pricing.Unit]money.Nanos{pricing.Input: 3_333_333_333, pricing.CacheRead: 333_333_333, pricing.Output: 15e9, pricing.Request: 7})
	if err := p.SetVariants([]pricing.Variant{
		{ServiceTier: "batch", Multiplier: pricing.NewRatio(1, 3)},
		{Region: "eu", Multiplier: pricing.NewRatio(11, 10)},
		{From: time.Hour, To: 2 * time.Hour, Rates: map[pricing.Unit]money.Nanos{pricing.Input: 1e9}},
		{OverInput: 1000, Rates: map[pricing.Unit]money.Nanos{pricing.Input: 6e9}},
		{OverInput: 2000, Multiplier: pricing.NewRatio(7, 5)},
		{OverInput: 1500, Excess: true, Rates: map[pricing.Unit]money.Nanos{pricing.Input: 9e9}},
	}); err != nil {
		t.Fatal(err)
	}
	b, err := pricing.NewBook([]*pricing.Price{p}, pricing.Contract{
		Adjustments: []pricing.Adjustment{{Factor: pricing.NewRatio(17, 20)}, {Region: "eu", Factor: pricing.NewRatio(21, 20)}},
		Rates:       []pricing.ExchangeRate{{From: "USD", To: "EUR", Effective: start, Rate: pricing.NewRatio(923_456_789, 1_000_000_000)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, terms := range []pricing.Terms{
		{Time: start}, {ServiceTier: "batch", Time: start}, {ServiceTier: "batch", Region: "eu", Time: start.Add(90 * time.Minute)}, {Region: "eu", Time: start},
	} {
		for _, currency := range []string{"USD", "EUR"} {
			price, err := b.For("m", terms)
			if err == nil {
				price, err = b.In(price, currency, start)
			}
			if err != nil {
				t.Fatal(err)
			}
			again := convert.PriceFromProto(convert.PriceToProto(price))
			for _, input := range []int64{1, 999, 1000, 1001, 1499, 1501, 2000, 2001, 1_000_000} {
				u := usage.Usage{InputTokens: input / 2, CacheReadTokens: input - input/2, OutputTokens: 77}
				want, err := price.Cost(&u)
				got, err2 := again.Cost(&u)
				if err != nil || err2 != nil || got != want || again.Currency != currency {
					t.Errorf("%+v in %s, %d tokens: %d, %v; the server says %d, %v", terms, currency, input, got, err2, want, err)
				}
			}
		}
	}
}
