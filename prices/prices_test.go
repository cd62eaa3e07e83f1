package prices_test

import (
	"errors"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/internal/dataset"
	"github.com/chartergate/chartergate/prices"
)

func genai(t *testing.T) *prices.Book {
	t.Helper()
	b, err := prices.Load(dataset.File(t, "prices/genai-prices.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func utc(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}

func TestModelsAreFoundAsPayloadsNameThem(t *testing.T) {
	b := genai(t)
	for _, s := range b.Skipped {
		if s.Why != "it has no prices" {
			t.Errorf("skipped: %+v", s)
		}
	}
	for _, c := range []struct {
		provider, model, at string
		input, output       money.Nanos // nanos per million
	}{
		{"anthropic", "claude-sonnet-4-5-20250929", "2026-01-01T00:00:00Z", 3e9, 15e9},
		{"", "claude-sonnet-4-5-20250929", "2026-01-01T00:00:00Z", 3e9, 15e9},
		{"Anthropic", "claude-opus-4-6", "2026-01-01T00:00:00Z", 5e9, 25e9},
		{"openai", "o3", "2025-06-09T23:59:59Z", 10e9, 40e9},
		{"openai", "o3-2025-04-16", "2025-06-10T00:00:00Z", 2e9, 8e9},
		{"azure", "gpt-4o-2024-11-20", "2026-01-01T00:00:00Z", 2.5e9, 10e9},
		{"bedrock", "us.anthropic.claude-sonnet-5-20260601-v1:0", "2026-09-01T00:00:00Z", 3.3e9, 16.5e9},
		{"google-vertex", "claude-3-5-haiku-20241022", "2026-01-01T00:00:00Z", 0.8e9, 4e9},
		{"deepseek", "deepseek-chat", "2026-01-01T00:30:00Z", 0.27e9, 1.1e9},
		{"deepseek", "deepseek-chat", "2026-01-01T16:30:00Z", 0.135e9, 0.55e9},
	} {
		p, err := b.Find(c.provider, c.model, utc(c.at))
		if err != nil {
			t.Errorf("%s %s: %v", c.provider, c.model, err)
			continue
		}
		in, _ := p.Rate(pricing.Input)
		out, _ := p.Rate(pricing.Output)
		if in != c.input || out != c.output {
			t.Errorf("%s %s at %s: %d and %d", c.provider, c.model, c.at, in, out)
		}
	}
	for _, c := range []struct{ provider, model string }{{"nobody", "gpt-4o"}, {"", "unheard-of"}, {"openai", "unheard-of"}} {
		if p, err := b.Find(c.provider, c.model, utc("2026-01-01T00:00:00Z")); err == nil {
			t.Errorf("%s %s: %+v", c.provider, c.model, p)
		} else if _, ok := errors.AsType[*prices.NotFoundError](err); !ok {
			t.Errorf("%s %s: %v", c.provider, c.model, err)
		}
	}
}

// Beyond the threshold the whole call costs more, with the cached tokens counted.
func TestLongContextsArePricedAsTheListSays(t *testing.T) {
	p, err := genai(t).Find("anthropic", "claude-sonnet-4-5", utc("2026-01-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		u    usage.Usage
		want money.Nanos
	}{
		{usage.Usage{InputTokens: 200_000, OutputTokens: 1000}, 615_000_000},
		{usage.Usage{InputTokens: 200_001, OutputTokens: 1000}, 1_222_506_000},
		{usage.Usage{InputTokens: 100_000, CacheReadTokens: 100_001, OutputTokens: 1000}, 600_000_000 + 60_000_600 + 22_500_000},
	} {
		if got, err := p.Cost(&c.u); err != nil || got != c.want {
			t.Errorf("%+v costs %d, %v; want %d", c.u, got, err, c.want)
		}
	}
}
