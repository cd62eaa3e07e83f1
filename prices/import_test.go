package prices_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/prices"
)

func listOf(t *testing.T, models string) *prices.Book {
	t.Helper()
	b, err := prices.Parse("list", "", []byte(`[{"id": "lab", "models": [`+models+`]}]`))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func told(changes []prices.Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s %s", c.Kind, c.Model)
		if !c.Effective.IsZero() {
			fmt.Fprintf(&b, " %s", c.Effective.Format("2006-01-02"))
		}
		for _, r := range c.Rates {
			fmt.Fprintf(&b, " [%s %s>%s]", r.Name, r.Old, r.New)
		}
		fmt.Fprintf(&b, "%s; ", c.Why)
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// An import adds prices from its time on and leaves those that have begun; the same list again changes nothing.
func TestImportsKeepHistory(t *testing.T) {
	day := utc("2026-06-01T00:00:00Z")
	imp := prices.Import{Effective: day}
	model := func(id, prices string) string {
		return fmt.Sprintf(`{"id": %q, "match": {"equals": %q}, "prices": %s}`, id, id, prices)
	}
	list := listOf(t, model("a", `{"input_mtok": 1}`)+","+model("b", `[{"prices": {"input_mtok": 4}}, {"constraint": {"start_date": "2026-01-01"}, "prices": {"input_mtok": 3}},
		{"constraint": {"start_date": "2026-09-01"}, "prices": {"input_mtok": 2}}]`)+","+model("c", `{}`))
	book, changes, err := imp.Into(nil, list)
	want := "added a 2026-06-01 [audio_input_tokens >1.00] [input_tokens >1.00]; added b 2026-01-01 [audio_input_tokens >3.00] [input_tokens >3.00]; " +
		"changed b 2026-09-01 [audio_input_tokens 3.00>2.00] [input_tokens 3.00>2.00]; skipped cit has no prices"
	if err != nil || told(changes) != want {
		t.Fatalf("%v: %s\nwant %s", err, told(changes), want)
	}
	again, changes, err := imp.Into(book, list)
	if err != nil || told(changes) != "unchanged a; unchanged b; skipped cit has no prices" || len(again) != len(book) {
		t.Fatalf("%v: %s", err, told(changes))
	}
	// What the book has of its own stays; a later import adds a price, and changes the one that has not begun.
	own := pricing.New("a", day, "USD", map[pricing.Unit]money.Nanos{pricing.Input: money.Unit, pricing.AudioInput: money.Unit, pricing.VectorQuery: 5})
	own.Tools = map[string]money.Nanos{"search": 7}
	book[slices.IndexFunc(book, func(p *pricing.Price) bool { return p.Model == "a" })] = own
	list = listOf(t, model("a", `{"input_mtok": 1.5, "output_mtok": {"base": 2, "tiers": [{"start": 1000, "price": 3}]}}`)+","+
		model("b", `[{"prices": {"input_mtok": 3}}, {"constraint": {"start_date": "2026-09-01"}, "prices": {"input_mtok": 1}}]`))
	next, changes, err := prices.Import{Effective: utc("2026-07-01T00:00:00Z")}.Into(book, list)
	want = "changed a 2026-07-01 [audio_input_tokens 1.00>1.50] [audio_output_tokens >2.00] [input_tokens 1.00>1.50] [output_tokens >2.00] " +
		"[over 1000: audio_output_tokens >3.00] [over 1000: output_tokens >3.00]; changed b 2026-09-01 [audio_input_tokens 2.00>1.00] [input_tokens 2.00>1.00]"
	if err != nil || told(changes) != want {
		t.Fatalf("%v: %s\nwant %s", err, told(changes), want)
	}
	b, err := pricing.NewBook(next)
	if err != nil {
		t.Fatal(err)
	}
	for at, rate := range map[string]money.Nanos{"2026-06-30T23:59:59Z": 1_000, "2026-07-01T00:00:00Z": 1_500} {
		p, err := b.Lookup("a", utc(at))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := p.Cost(&usage.Usage{InputTokens: 1}); got != rate {
			t.Errorf("at %s: %d", at, got)
		}
	}
	p, _ := b.Lookup("a", utc("2026-08-01T00:00:00Z"))
	if r, ok := p.Rate(pricing.VectorQuery); !ok || r != 5 || p.Tools["search"] != 7 || p.Provider != "lab" {
		t.Errorf("what the list does not know is gone: %+v", p)
	}
	if _, _, err := (prices.Import{Providers: []string{"nobody"}}).Into(nil, list); err == nil {
		t.Error("an unknown provider has prices")
	} else if _, ok := errors.AsType[*prices.NotFoundError](err); !ok {
		t.Error(err)
	}
}

func TestRealListsAreImported(t *testing.T) {
	for name, list := range map[string]*prices.Book{"genai": genai(t), "seed": seed(t)} {
		imp := prices.Import{Effective: utc("2026-11-23T00:00:00Z")}
		book, changes, err := imp.Into(nil, list)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pricing.NewBook(book); err != nil {
			t.Error(err)
		}
		again, changes2, err := imp.Into(book, list)
		if err != nil || len(again) != len(book) || slices.ContainsFunc(changes2, func(c prices.Change) bool { return c.Kind == prices.Added || c.Kind == prices.Changed }) {
			t.Errorf("%s twice: %d and %d prices, %v", name, len(book), len(again), err)
		}
		t.Logf("%s: %d prices of %d changes", name, len(book), len(changes))
	}
}

func seed(t *testing.T) *prices.Book {
	b, err := prices.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheSeedIsTheListWithWhatAnthropicPublishes(t *testing.T) {
	s := seed(t)
	if s.Info.Date == "" || !strings.Contains(s.Info.Source, "MIT") || len(s.Skipped) > 0 {
		t.Errorf("%+v, skipped %+v", s.Info, s.Skipped)
	}
	at := utc("2026-11-23T00:00:00Z")
	for _, c := range []struct {
		tier string
		u    usage.Usage
		want money.Nanos
	}{
		{"", usage.Usage{InputTokens: 1000, CacheWrite1hTokens: 1000, OutputTokens: 1000}, 3_000_000 + 6_000_000 + 15_000_000},
		{"batch", usage.Usage{InputTokens: 1000, OutputTokens: 1000, ToolCalls: map[string]int64{"web_search": 1}}, 9_000_000 + 10_000_000},
		{"", usage.Usage{InputTokens: 200_001, CacheWrite1hTokens: 1000}, 1_200_006_000 + 12_000_000},
		{"batch", usage.Usage{InputTokens: 200_002}, 600_006_000},
	} {
		p, err := s.For("anthropic", "claude-sonnet-4-5-20250929", pricing.Terms{ServiceTier: c.tier, Time: at})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Cost(&c.u); err != nil || got != c.want {
			t.Errorf("%q %+v costs %d, %v; want %d", c.tier, c.u, got, err, c.want)
		}
	}
	list := genai(t)
	for _, p := range s.Providers {
		for _, m := range p.Models {
			want, err := list.Model(p.ID, m.ID)
			if err != nil || want.ID != m.ID && p.ID == "anthropic" {
				continue
			}
			a, err1 := s.Find(p.ID, want.ID, at)
			b, err2 := list.Find(p.ID, want.ID, at)
			if err1 != nil || err2 != nil {
				continue
			}
			u := usage.Usage{InputTokens: 300_000, CacheReadTokens: 7, CacheWrite5mTokens: 9, OutputTokens: 11}
			x, errA := a.Cost(&u)
			y, errB := b.Cost(&u)
			if (errA == nil) != (errB == nil) || x != y {
				t.Errorf("%s %s: %d, %v; the list says %d, %v", p.ID, m.ID, x, errA, y, errB)
			}
		}
	}
}
