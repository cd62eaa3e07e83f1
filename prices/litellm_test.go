package prices_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/prices"
)

// testdata/litellm.json holds entries of BerriAI/litellm (MIT), model_prices_and_context_window.json of release 1.109.1.
func TestLiteLLMsPricesAreRead(t *testing.T) {
	b, err := prices.Load("testdata/litellm.json", "")
	if err != nil {
		t.Fatal(err)
	}
	k := int64(1000)
	monday, saturday := utc("2026-01-05T03:00:00Z"), utc("2026-01-10T03:00:00Z")
	for _, c := range []struct {
		provider, model string
		terms           pricing.Terms
		u               usage.Usage
		want            money.Nanos
	}{
		{"openai", "gpt-5.4", pricing.Terms{}, usage.Usage{InputTokens: 272 * k, OutputTokens: k}, 680_000_000 + 15_000_000},
		{"openai", "gpt-5.4", pricing.Terms{}, usage.Usage{InputTokens: 272*k + 1, OutputTokens: k}, 1_360_005_000 + 22_500_000},
		{"openai", "gpt-5.4", pricing.Terms{ServiceTier: "batch"}, usage.Usage{InputTokens: k, CacheReadTokens: k, OutputTokens: k}, 1_250_000 + 130_000 + 7_500_000},
		{"openai", "gpt-5.4", pricing.Terms{ServiceTier: "flex"}, usage.Usage{InputTokens: 300 * k}, 750_000_000},
		{"openai", "gpt-5.4", pricing.Terms{ServiceTier: "priority"}, usage.Usage{InputTokens: k}, 5_000_000},
		{"openai", "gpt-5.4", pricing.Terms{Region: "eu"}, usage.Usage{InputTokens: k, OutputTokens: k}, 2_750_000 + 16_500_000},
		{"anthropic", "claude-sonnet-4-5-20250929", pricing.Terms{}, usage.Usage{CacheWrite5mTokens: k, CacheWrite1hTokens: k, ToolCalls: map[string]int64{"web_search": 3}},
			3_750_000 + 6_000_000 + 30_000_000},
		{"", "claude-opus-5", pricing.Terms{ServiceTier: "fast", Region: "us"}, usage.Usage{OutputTokens: k}, 55_000_000},
		{"bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", pricing.Terms{}, usage.Usage{InputTokens: 200*k + 1, CacheWrite1hTokens: k}, 1_320_006_600 + 13_200_000},
		{"azure", "gpt-4o", pricing.Terms{}, usage.Usage{InputTokens: k}, 2_500_000},
		{"google", "gemini-2.5-pro", pricing.Terms{ServiceTier: "priority"}, usage.Usage{InputTokens: 200*k + 1}, 900_004_500},
		{"dashscope", "qwen-flash", pricing.Terms{}, usage.Usage{InputTokens: 256*k + 1}, 64_000_250},
		{"deepseek", "deepseek-flash", pricing.Terms{Time: monday}, usage.Usage{InputTokens: k}, 300_000},
		{"deepseek", "deepseek-flash", pricing.Terms{Time: monday.Add(time.Hour)}, usage.Usage{InputTokens: k}, 150_000},
		{"deepseek", "deepseek-flash", pricing.Terms{Time: saturday}, usage.Usage{InputTokens: k, CacheReadTokens: k}, 153_000},
	} {
		p, err := b.For(c.provider, c.model, c.terms)
		if err != nil {
			t.Errorf("%s %s: %v", c.provider, c.model, err)
			continue
		}
		if got, err := p.Cost(&c.u); err != nil || got != c.want {
			t.Errorf("%s under %+v: %+v costs %d, %v; want %d", c.model, c.terms, c.u, got, err, c.want)
		}
	}
	if m, err := b.Model("", "gpt-4o"); err != nil || m.Provider != "openai" {
		t.Errorf("a model that two sell is of %+v, %v", m, err)
	}
	if len(b.Skipped) != 1 || !strings.Contains(b.Skipped[0].Why, "input_cost_per_pixel") {
		t.Errorf("skipped: %+v", b.Skipped)
	}
}

func TestBadListsAreRefused(t *testing.T) {
	for says, data := range map[string]string{
		"EOF":                ``,
		"more after the end": `[] []`,
		"byte 2":             `[}`,
		"cannot unmarshal":   `"a"`,
		"a match is":         `[{"id": "a", "models": [{"id": "m", "match": {"equals": "m", "regex": "m"}, "prices": {}}]}]`,
		"match regex":        `[{"id": "a", "models": [{"id": "m", "match": {"regex": "("}, "prices": {}}]}]`,
	} {
		if _, err := prices.Parse("list.json", "", []byte(data)); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "list.json: ") {
			t.Errorf("%s: %v; want %q", data, err, says)
		}
	}
	if _, err := prices.Parse("list.json", "csv", nil); err == nil || !strings.Contains(err.Error(), "unknown format") {
		t.Error(err)
	}
	b, err := prices.Parse("list.json", "", []byte(`[{"id": "a", "models": [
		{"id": "negative", "match": {"equals": "negative"}, "prices": {"input_mtok": -1}},
		{"id": "huge", "match": {"equals": "huge"}, "prices": {"input_mtok": 1e999999999}},
		{"id": "larger", "match": {"equals": "larger"}, "prices": {"input_mtok": 1e11}},
		{"id": "unknown", "match": {"equals": "unknown"}, "prices": {"smell_mtok": 1}},
		{"id": "fine", "match": {"equals": "fine"}, "prices": {"input_mtok": 0.1234567894}}]}]`))
	if err != nil || len(b.Skipped) != 4 {
		t.Fatalf("%+v, %v", b, err)
	}
	p, err := b.Find("a", "fine", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := p.Rate(pricing.Input); r != 123_456_789 {
		t.Errorf("rate %d", r)
	}
	if _, err := b.Find("a", "negative", time.Now()); err == nil {
		t.Error("a model without a price is free")
	}
}
