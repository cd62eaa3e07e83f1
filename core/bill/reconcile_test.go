package bill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

var september = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)

// Whatever was counted and billed, the parts of each variance add up to it, and the rows to the two sums.
func TestExplanationsAddUp(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 7))
		var spends []Spend
		var charges []Charge
		var ledger, billed money.Nanos
		names := func(kind string, n int) string { return fmt.Sprint(kind, r.IntN(n)) }
		for range r.IntN(40) {
			s := Spend{Provider: names("p", 2), Model: names("m", 3), Feature: names("f", 3), Currency: names("C", 2), Day: september.AddDate(0, 0, r.IntN(3))}
			if r.IntN(4) > 0 {
				s.InputTokens, s.Input = r.Int64N(1e9), money.Nanos(r.Int64N(1e12))
			}
			if r.IntN(4) > 0 {
				s.OutputTokens, s.Output = r.Int64N(1e6), money.Nanos(r.Int64N(1e12))
			}
			if r.IntN(4) == 0 {
				s.Other = money.Nanos(r.Int64N(1e10))
			}
			if r.IntN(4) == 0 {
				s.Adjusted = money.Nanos(r.Int64N(2e9) - 1e9)
			}
			ledger += s.total()
			spends = append(spends, s)
		}
		classes := []string{ClassInput, ClassOutput, ClassCacheRead, ClassCompute, ""}
		for range r.IntN(60) {
			c := Charge{Provider: names("p", 2), Model: names("m", 3), Currency: names("C", 2), Day: september.AddDate(0, 0, r.IntN(3)), Class: classes[r.IntN(len(classes))],
				Cost: money.Nanos(r.Int64N(2e12) - 1e11)}
			if r.IntN(3) > 0 {
				c.Feature = names("f", 4)
			}
			if r.IntN(5) > 0 {
				c.Tokens = r.Int64N(1e9)
			}
			billed += c.Cost
			charges = append(charges, c)
		}
		x, err := Reconcile(spends, charges)
		if err != nil {
			t.Fatal(err)
		}
		var l, b money.Nanos
		for _, v := range x.Rows {
			sum := money.Nanos(0)
			for c, n := range v.Parts {
				if !slices.Contains(Causes, c) {
					t.Errorf("cause %s", c)
				}
				sum += n
			}
			if sum != v.Amount() {
				t.Fatalf("seed %d: %+v: the parts add up to %s, the variance is %s", seed, v, sum, v.Amount())
			}
			l, b = l+v.Ledger, b+v.Billed
		}
		if l != ledger || b != billed {
			t.Fatalf("seed %d: the rows add up to %s and %s, not %s and %s", seed, l, b, ledger, billed)
		}
	}
}

func TestSumsThatDoNotFit(t *testing.T) {
	s := []Spend{{Model: "m", Currency: "USD", Day: september, InputTokens: 1, Input: 1<<62 - 1}}
	if _, err := Reconcile(s, nil); err == nil {
		t.Error("the sum is accepted")
	}
}

func TestNames(t *testing.T) {
	n := NewNames([]Spend{{Provider: "bedrock", Model: "claude-3-sonnet"}, {Provider: "bedrock", Model: "claude-3-5-sonnet-20241022"}, {Provider: "openai", Model: "gpt-4o"},
		{Provider: "azure", Model: "gpt-4o"}, {Provider: "", Model: "own"}}, map[string]string{"house": "own"})
	for _, c := range [][4]string{
		{"AWS", "Claude3Sonnet", "bedrock", "claude-3-sonnet"}, {"AWS", "anthropic.claude-3-5-sonnet-20241022-v2:0", "bedrock", "claude-3-5-sonnet-20241022"},
		{"AWS", "Claude 3.5 Sonnet", "bedrock", "claude-3-5-sonnet-20241022"}, {"OpenAI", "gpt-4o-2024-08-06", "openai", "gpt-4o"},
		{"Microsoft", "gpt-4o", "azure", "gpt-4o"}, {"Acme", "house", "", "own"}, {"Acme", "unheard-of", "Acme", "unheard-of"},
	} {
		if p, m := n.Match(c[0], c[1]); p != c[2] || m != c[3] {
			t.Errorf("%s %s is %q %q", c[0], c[1], p, m)
		}
	}
}
