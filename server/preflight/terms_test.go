package preflight_test

import (
	"context"
	"errors"
	"testing"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// A call is held and settled on the same terms, in the budgets' currency.
func TestTermsOfTheCallArePriced(t *testing.T) {
	w := newWorld(t)
	w.company(1000 * money.Unit)
	past := noon.AddDate(-1, 0, 0)
	p := pricing.New("small", past, "EUR", map[pricing.Unit]money.Nanos{pricing.Input: money.Unit, pricing.Output: 2 * money.Unit})
	if err := p.SetVariants([]pricing.Variant{
		{ServiceTier: "batch", Multiplier: pricing.NewRatio(1, 2)},
		{Region: "eu", Multiplier: pricing.NewRatio(11, 10)},
		{OverInput: 1000, Rates: map[pricing.Unit]money.Nanos{pricing.Input: 2 * money.Unit}},
	}); err != nil {
		t.Fatal(err)
	}
	book := &charter.PriceBook{ID: "lab", Currency: "EUR", Prices: []*pricing.Price{p}}
	w.apply(book)
	d, h := w.reserve(call(1000, 500))
	if h != nil || len(d.Reasons) == 0 || d.Reasons[len(d.Reasons)-1].Code != preflight.CodeNoExchangeRate {
		t.Fatalf("without an exchange rate: %+v", d)
	}
	with := *book
	with.Rates = []pricing.ExchangeRate{{From: "EUR", To: "USD", Effective: past, Rate: pricing.NewRatio(5, 4)}}
	w.apply(&with)
	for _, c := range []struct {
		tier, region string
		in           int64
		held, cost   money.Nanos // of in input and 500, then 100 output tokens
	}{
		{"", "", 1000, 2_500_000, 1_500_000},
		{"batch", "", 1000, 1_250_000, 750_000},
		{"batch", "eu", 1000, 1_375_000, 825_000},
		{"", "", 1001, 2_502_500 + 1_250_000, 2_502_500 + 250_000},
	} {
		asked := call(c.in, 500)
		asked.ServiceTier, asked.Region = c.tier, c.region
		d, h := w.reserve(asked)
		if h == nil || h.Amount != c.held || d.Currency != "USD" {
			t.Errorf("%+v holds %+v: %+v", c, h, d)
			continue
		}
		if s := w.settle(h.Token, c.in, 100); s.Cost != c.cost || s.Currency != "USD" {
			t.Errorf("%+v settles %+v", c, s)
		}
	}
	asked := call(10, 10)
	asked.ServiceTier = "priority"
	if d, h := w.reserve(asked); h != nil {
		t.Errorf("a service tier without a price: %+v", d)
	}
	w.apply(book) // the rate is gone
	_, err := w.gate.RecordUsage(context.Background(), &preflight.Use{Call: *call(1, 1), Model: "small", Usage: usage.Usage{InputTokens: 1}, RequestID: "r"})
	if e, ok := errors.AsType[*pricing.NoRateError](err); !ok || e.From != "EUR" || e.To != "USD" {
		t.Errorf("usage without an exchange rate: %v", err)
	}
}

// What the decision advises to write to the provider's cache is held at the rate of a write, so that settling it forces
// nothing.
func TestAdvisedCacheWritesAreHeld(t *testing.T) {
	w := newWorld(t)
	w.company(1000 * money.Unit)
	past := noon.AddDate(-1, 0, 0)
	w.apply(&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{pricing.New("small", past, "USD", map[pricing.Unit]money.Nanos{
		pricing.Input: money.Unit, pricing.CacheWrite5m: money.Unit * 5 / 4, pricing.CacheWrite1h: 2 * money.Unit, pricing.Output: 2 * money.Unit,
	})}})
	told := call(2000, 500)
	told.Estimate.CacheWrite1hTokens = 1500
	for _, c := range []struct {
		call *routing.Call
		held money.Nanos
		used usage.Usage
	}{
		{call(1000, 500), 2_000_000, usage.Usage{InputTokens: 1000, OutputTokens: 500}}, // too short for advice
		{call(2000, 500), 3_500_000, usage.Usage{CacheWrite5mTokens: 2000, OutputTokens: 500}},
		{told, 4_500_000, usage.Usage{InputTokens: 500, CacheWrite1hTokens: 1500, OutputTokens: 500}},
	} {
		d, h := w.reserve(c.call)
		if h == nil || h.Amount != c.held || d.Cost != c.held {
			t.Errorf("%+v holds %+v, want %s", c.call.Estimate, h, c.held)
			continue
		}
		s, err := w.gate.Settle(t.Context(), h.Token, &c.used, "", usage.OutcomeUnknown)
		if err != nil || s.Cost != c.held || s.Forced != 0 {
			t.Errorf("%+v settles %+v, %v", c.used, s, err)
		}
	}
}
