package pricing

import (
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

const perM = money.Unit // a rate of 1.00

func varied(t testing.TB, variants ...Variant) *Price {
	p := New("m", day, "USD", map[Unit]money.Nanos{Input: 2 * perM, CacheRead: perM / 5, Output: 10 * perM, Request: 3 * perM})
	if err := p.SetVariants(variants); err != nil {
		t.Fatal(err)
	}
	return p
}

func costs(t *testing.T, p *Price, terms Terms, u usage.Usage, want money.Nanos) {
	t.Helper()
	q, err := p.For(terms)
	if err != nil {
		t.Error(err)
		return
	}
	if got, err := q.Cost(&u); err != nil || got != want {
		t.Errorf("%+v under %+v costs %d, %v; want %d", u, terms, got, err, want)
	}
}

func TestVariantsApplyWhereTheyHold(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	half := Ratio{1, 2}
	million := usage.Usage{InputTokens: 1e6, OutputTokens: 1e6}
	noon := at("2026-01-05T12:00:00Z") // a Monday
	const request = 3_000
	p := varied(t,
		Variant{ServiceTier: "batch", Multiplier: half},
		Variant{ServiceTier: "priority", Rates: map[Unit]money.Nanos{Input: 4 * perM, Output: 20 * perM}},
		Variant{Region: "eu", Multiplier: Ratio{11, 10}},
		Variant{OverInput: 2e6, Rates: map[Unit]money.Nanos{Input: 4 * perM, Output: 15 * perM}},
		Variant{OverInput: 4e6, Rates: map[Unit]money.Nanos{Input: 6 * perM}},
	)
	for _, tier := range []string{"", "standard", "default", "auto"} {
		costs(t, p, Terms{ServiceTier: tier, Time: noon}, million, 12*perM/1+request)
	}
	costs(t, p, Terms{ServiceTier: "batch"}, million, 6*perM+request) // the fee of a request is not of tokens
	costs(t, p, Terms{ServiceTier: "priority"}, million, 24*perM+request)
	costs(t, p, Terms{Region: "eu"}, million, 13*perM+perM/5+request)
	costs(t, p, Terms{Region: "ap"}, million, 12*perM+request)
	costs(t, p, Terms{ServiceTier: "batch", Region: "eu"}, million, 6*perM+perM*6/10+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 2e6}, 4*perM+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 1e6, CacheReadTokens: 1e6 + 1, OutputTokens: 1e6}, 4*perM+perM/5+200+15*perM+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 5e6, OutputTokens: 1e6}, 30*perM+15*perM+request)
	costs(t, p, Terms{ServiceTier: "batch"}, usage.Usage{InputTokens: 5e6}, 15*perM+request)
	if _, err := p.For(Terms{ServiceTier: "flex"}); err == nil || !strings.Contains(err.Error(), "service tier flex") {
		t.Errorf("a service tier that has no price: %v", err)
	}

	p = varied(t,
		Variant{From: 16*time.Hour + 30*time.Minute, To: 30 * time.Minute, Multiplier: half},
		Variant{Days: 1<<time.Saturday | 1<<time.Sunday, Multiplier: Ratio{3, 4}},
	)
	costs(t, p, Terms{Time: noon}, million, 12*perM+request)
	costs(t, p, Terms{Time: at("2026-01-05T16:29:59Z")}, million, 12*perM+request)
	costs(t, p, Terms{Time: at("2026-01-05T16:30:00Z")}, million, 6*perM+request)
	costs(t, p, Terms{Time: at("2026-01-06T00:29:59Z")}, million, 6*perM+request)
	costs(t, p, Terms{Time: at("2026-01-06T00:30:00Z")}, million, 12*perM+request)
	costs(t, p, Terms{Time: at("2026-01-04T12:00:00Z")}, million, 9*perM+request)
	costs(t, p, Terms{Time: at("2026-01-04T20:00:00+01:00")}, million, 4*perM+perM/2+request)
	if got, err := p.Cost(&million); err != nil || got != 12*perM+request {
		t.Errorf("without a time: %d, %v", got, err)
	}
}

func TestOnlyTheExcessIsDearer(t *testing.T) {
	p := varied(t,
		Variant{OverInput: 1e6, Excess: true, Rates: map[Unit]money.Nanos{Input: 4 * perM}},
		Variant{OverInput: 2e6, Excess: true, Rates: map[Unit]money.Nanos{Input: 6 * perM, CacheRead: perM}},
		Variant{ServiceTier: "batch", Multiplier: Ratio{1, 2}},
	)
	const request = 3_000
	costs(t, p, Terms{}, usage.Usage{InputTokens: 1e6, OutputTokens: 1e6}, 12*perM+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 1e6 + 1}, 2*perM+4_000+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 3e6, OutputTokens: 1e6}, 2*perM+4*perM+6*perM+10*perM+request)
	// The cache holds the prompt's beginning: half a million of the rest is beyond the first million.
	costs(t, p, Terms{}, usage.Usage{InputTokens: 1e6, CacheReadTokens: 5e5}, perM/10+perM+2*perM+request)
	costs(t, p, Terms{}, usage.Usage{InputTokens: 5e5, CacheReadTokens: 25e5}, perM/5+perM/5+perM/2+3*perM+request)
	costs(t, p, Terms{ServiceTier: "batch"}, usage.Usage{InputTokens: 3e6}, 6*perM+request)
}

// What the parts of a call cost is what big rationals say, under multipliers of any kind.
func TestMultipliersAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens := Ratio{rapid.Uint64Range(1, 1e6).Draw(t, "n"), rapid.Uint64Range(1, 1e6).Draw(t, "d")}
		whole := Ratio{rapid.Uint64Range(1, 1e4).Draw(t, "whole n"), rapid.Uint64Range(1, 1e4).Draw(t, "whole d")}
		p := New("m", day, "USD", map[Unit]money.Nanos{Input: money.Nanos(rapid.Int64Range(0, 1e12).Draw(t, "rate")), Request: money.Nanos(rapid.Int64Range(0, 1e12).Draw(t, "fee"))})
		input, fee := p.rates[Input], p.rates[Request]
		if err := p.SetVariants([]Variant{{Region: "eu", Multiplier: tokens}, {Multiplier: whole, whole: true}}); err != nil {
			t.Fatal(err)
		}
		p, err := p.For(Terms{Region: "eu"})
		if err != nil {
			t.Fatal(err)
		}
		u := usage.Usage{InputTokens: rapid.Int64Range(0, 1e9).Draw(t, "tokens")}
		rat := func(r Ratio) *big.Rat {
			return new(big.Rat).SetFrac(new(big.Int).SetUint64(r.Num), new(big.Int).SetUint64(r.Den))
		}
		sum := new(big.Rat).Mul(big.NewRat(u.InputTokens, 1e6), big.NewRat(int64(input), 1))
		sum.Add(sum.Mul(sum, rat(tokens)), big.NewRat(int64(fee), 1e6))
		sum.Add(sum.Mul(sum, rat(whole)), big.NewRat(1, 2))
		want := new(big.Int).Div(sum.Num(), sum.Denom())
		got, err := p.Cost(&u)
		split, c, err2 := p.Split(&u)
		parts, err3 := c.Total()
		if errors.Is(err, money.ErrOverflow) && !want.IsInt64() {
			return
		}
		if err != nil || err2 != nil || err3 != nil || want.Cmp(big.NewInt(int64(got))) != 0 || split != got || parts != got {
			t.Fatalf("cost %d, split %d, components %d, want %s: %v, %v, %v", got, split, parts, want, err, err2, err3)
		}
	})
}

func TestBadVariantsAreRefused(t *testing.T) {
	rates := map[Unit]money.Nanos{Input: 1}
	for says, v := range map[string][]Variant{
		"changes nothing":               {{ServiceTier: "batch"}},
		"which the price itself is for": {{ServiceTier: "standard", Rates: rates}},
		"has no over_input_tokens":      {{Excess: true, Rates: rates}},
		"which takes rates":             {{Excess: true, OverInput: 1, Multiplier: Ratio{1, 2}}},
		"a rate for output_tokens":      {{Excess: true, OverInput: 1, Rates: map[Unit]money.Nanos{Output: 1}}},
		"between 00:00 and 23:59":       {{From: 24 * time.Hour, Rates: rates}},
		"over_input_tokens -1":          {{OverInput: -1, Rates: rates}},
		"multiplier that is not":        {{Multiplier: Ratio{0, 1}}},
		"the conditions of variants[0]": {{ServiceTier: "batch", Rates: rates}, {ServiceTier: "batch", Multiplier: Ratio{1, 2}}},
		"are 33, at most 32":            make([]Variant, 33),
		"one of seven":                  {{Days: 128, Rates: rates}},
	} {
		err := New("m", day, "USD", rates).SetVariants(v)
		if e, ok := errors.AsType[*VariantError](err); !ok || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v; want %q", v, e, says)
		}
	}
}

func TestVariantsDoNotAllocate(t *testing.T) {
	p := varied(t, Variant{ServiceTier: "batch", Multiplier: Ratio{1, 2}}, Variant{From: 1, To: 2, Multiplier: Ratio{1, 2}},
		Variant{OverInput: 100, Rates: map[Unit]money.Nanos{Input: 1}}, Variant{OverInput: 50, Excess: true, Rates: map[Unit]money.Nanos{Input: 1}})
	b, err := NewBook([]*Price{p})
	if err != nil {
		t.Fatal(err)
	}
	u := usage.Usage{InputTokens: 80, CacheReadTokens: 10, OutputTokens: 10}
	if n := testing.AllocsPerRun(100, func() {
		p, err := b.For("m", Terms{ServiceTier: "batch", Time: day})
		if err == nil {
			_, err = p.Cost(&u)
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
