package pricing

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

func from(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

func priced(model, provider string, effective time.Time, rate money.Nanos) *Price {
	p := New(model, effective, "USD", map[Unit]money.Nanos{Input: rate, Request: 0})
	p.Provider, p.Book = provider, "priceBooks/lab"
	return p
}

func TestContractsAdjustPrices(t *testing.T) {
	b, err := NewBook([]*Price{
		priced("gpt-5.5", "openai", from(2026, 1, 1), 8*perM), priced("gpt-5.5", "openai", from(2026, 7, 1), 4*perM), priced("claude", "anthropic", from(2026, 1, 1), 3*perM),
	}, Contract{"priceBooks/lab", []Adjustment{
		{Provider: "openai", From: from(2026, 3, 1), To: from(2026, 9, 1), Factor: NewRatio(85, 100)},
		{Provider: "openai", Model: "gpt-*", Region: "eu", Factor: NewRatio(11, 10)},
	}, nil})
	if err != nil {
		t.Fatal(err)
	}
	u := usage.Usage{InputTokens: 1_000_000}
	for _, c := range []struct {
		model, region string
		at            time.Time
		want          money.Nanos
	}{
		{"gpt-5.5", "", from(2026, 2, 28), 8_000_000_000},
		{"gpt-5.5", "", from(2026, 3, 1), 6_800_000_000},
		{"gpt-5.5", "eu", from(2026, 3, 1), 7_480_000_000},
		{"gpt-5.5", "eu", from(2026, 1, 1), 8_800_000_000},
		{"gpt-5.5", "", from(2026, 7, 1), 3_400_000_000},
		{"gpt-5.5", "", from(2026, 9, 1), 4_000_000_000},
		{"claude", "eu", from(2026, 4, 1), 3_000_000_000},
	} {
		p, err := b.For(c.model, Terms{Region: c.region, Time: c.at})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Cost(&u); err != nil || got != c.want {
			t.Errorf("%s in %q at %s costs %d, %v; want %d", c.model, c.region, c.at, got, err, c.want)
		}
		if !p.Effective.Equal(from(2026, 1, 1)) && !p.Effective.Equal(from(2026, 7, 1)) {
			t.Errorf("the price is from %s", p.Effective)
		}
	}
	if _, err := b.Lookup("gpt-5.5", from(2025, 12, 31)); err == nil {
		t.Error("an adjustment made a price before there was one")
	}
}

func TestPricesAreConvertedExactly(t *testing.T) {
	b, err := NewBook([]*Price{priced("m", "", from(2026, 1, 1), perM)}, Contract{Rates: []ExchangeRate{
		{"USD", "EUR", from(2026, 2, 1), NewRatio(92, 100)}, {"USD", "EUR", from(2026, 1, 10), NewRatio(333_333_333, 1_000_000_000)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := b.Lookup("m", from(2026, 1, 1))
	for at, want := range map[time.Time]money.Nanos{from(2026, 1, 10): 2_333, from(2026, 1, 31): 2_333, from(2026, 2, 1): 6_440} {
		q, err := b.In(p, "EUR", at) // 7 tokens are 7000 nanos of USD
		if err != nil {
			t.Fatal(err)
		}
		again, _ := b.In(p, "EUR", at)
		if got, err := q.Cost(&usage.Usage{InputTokens: 7}); err != nil || got != want || q.Currency != "EUR" || again != q {
			t.Errorf("at %s: %d %s, %v; want %d", at, got, q.Currency, err, want)
		}
	}
	for _, c := range []struct {
		currency string
		at       time.Time
		says     string
	}{{"EUR", from(2026, 1, 9), "from USD to EUR at 2026-01-09T00:00:00Z"}, {"EUR", from(2026, 1, 9), "the first is from 2026-01-10"}, {"CHF", from(2026, 3, 1), "from USD to CHF"}} {
		_, err := b.In(p, c.currency, c.at)
		if e, ok := errors.AsType[*NoRateError](err); !ok || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%v; want %q", err, c.says)
		}
	}
	if q, err := b.In(p, "USD", from(2025, 1, 1)); err != nil || q != p {
		t.Error("a price in its own currency needs a rate")
	}
}

func TestCorrectionsRestate(t *testing.T) {
	fix := priced("m", "", from(2026, 2, 1), 2*perM)
	fix.Expires, fix.Corrects = from(2026, 3, 1), &Corrected{from(2026, 1, 1), "the vendor's page was read wrong"}
	b, err := NewBook([]*Price{priced("m", "", from(2026, 1, 1), 3*perM), fix, priced("m", "", from(2026, 6, 1), perM)})
	if err != nil {
		t.Fatal(err)
	}
	u := usage.Usage{InputTokens: 1_000_000}
	for at, want := range map[time.Time]money.Nanos{from(2026, 1, 31): 3e9, from(2026, 2, 1): 2e9, from(2026, 2, 28): 2e9, from(2026, 3, 1): 3e9, from(2026, 6, 1): 1e9} {
		p, err := b.Lookup("m", at)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := p.Cost(&u); got != want {
			t.Errorf("at %s: %d, want %d", at, got, want)
		}
	}
	list := b.Corrections()
	if len(list) != 1 || !list[0].From.Equal(from(2026, 2, 1)) || !list[0].To.Equal(from(2026, 3, 1)) || list[0].Reason == "" {
		t.Fatalf("%+v", list)
	}
	diff, parts, err := Restate(&u, list[0].Old, list[0].New)
	if sum, _ := parts.Total(); err != nil || diff != -1e9 || sum != diff || parts.Input != diff {
		t.Errorf("restated by %d, %+v, %v", diff, parts, err)
	}
	if len(b.History("m")) != 2 {
		t.Errorf("%d prices as published", len(b.History("m")))
	}
}

func TestDatesThatDoNotFitAreRefused(t *testing.T) {
	until := func(p *Price, end time.Time) *Price { p.Expires = end; return p }
	corrects := func(p *Price, of time.Time) *Price { p.Corrects = &Corrected{of, "typo"}; return p }
	one := Contract{"priceBooks/lab", []Adjustment{{Provider: "openai", From: from(2026, 1, 1), To: from(2026, 6, 1), Factor: NewRatio(1, 2)}}, nil}
	with := func(a Adjustment) []Contract { return []Contract{one, {"priceBooks/two", []Adjustment{a}, nil}} }
	rates := func(r ...ExchangeRate) []Contract { return []Contract{{"priceBooks/fx", nil, r}} }
	p := func(m time.Month) *Price { return priced("m", "", from(2026, m, 1), 1) }
	for says, c := range map[string]struct {
		prices    []*Price
		contracts []Contract
	}{
		"two prices from 2026-01-01":                      {[]*Price{p(1), p(1)}, nil},
		"before it begins":                                {[]*Price{until(p(2), from(2026, 1, 1))}, nil},
		"overlaps the next, which begins at 2026-03-01":   {[]*Price{until(p(1), from(2026, 4, 1)), p(3)}, nil},
		"leaves a gap to the next":                        {[]*Price{until(p(1), from(2026, 2, 1)), p(3)}, nil},
		"from 2026-02-01T00:00:00Z, which is":             {[]*Price{p(1), corrects(p(1), from(2026, 2, 1))}, nil},
		"not there":                                       {[]*Price{corrects(p(1), from(2026, 1, 1))}, nil},
		"not within its time":                             {[]*Price{p(1), p(3), corrects(until(p(2), from(2026, 4, 1)), from(2026, 1, 1))}, nil},
		"overlaps another correction":                     {[]*Price{p(1), corrects(p(2), from(2026, 1, 1)), corrects(p(3), from(2026, 1, 1))}, nil},
		"priceBooks/two: adjustments[0] overlaps another": {nil, with(Adjustment{Provider: "openai", From: from(2026, 5, 31), Factor: NewRatio(1, 2)})},
		"no multiplier above 0":                           {nil, with(Adjustment{})},
		"may only be its end":                             {nil, with(Adjustment{Model: "g*t", Factor: NewRatio(1, 2)})},
		"a second one from USD to EUR":                    {nil, rates(ExchangeRate{"USD", "EUR", day, NewRatio(1, 2)}, ExchangeRate{"USD", "EUR", day, NewRatio(1, 3)})},
		"to itself":                                       {nil, rates(ExchangeRate{"USD", "USD", day, NewRatio(1, 2)})},
	} {
		_, err := NewBook(c.prices, c.contracts...)
		if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v; want %q", err, says)
		}
	}
	b, err := NewBook([]*Price{until(p(1), from(2026, 2, 1))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Lookup("m", from(2026, 2, 1)); err == nil {
		t.Error("a price that has ended is still there")
	}
	if _, err := NewBook(nil, with(Adjustment{Provider: "openai", From: from(2026, 6, 1), Factor: NewRatio(1, 2)})...); err != nil {
		t.Error(err)
	}
}
