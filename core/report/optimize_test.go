package report

import (
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// optimizer knows an economy and a premium model; the premium one costs 3.00 a million tokens of input, 0.30 from cache,
// 3.75 and 6.00 written, and 15.00 of output, ten times the economy one.
func optimizer(t *testing.T) *Optimizer {
	t.Helper()
	price := func(model string, cents money.Nanos) *pricing.Price {
		c := cents * money.Unit / 100
		return pricing.New(model, noon.AddDate(-1, 0, 0), "USD", map[pricing.Unit]money.Nanos{
			pricing.Input: 100 * c, pricing.CacheRead: 10 * c, pricing.CacheWrite5m: 125 * c, pricing.CacheWrite1h: 200 * c, pricing.Output: 500 * c,
		})
	}
	// 300 cents input: c is 3 cents.
	book, err := pricing.NewBook([]*pricing.Price{price("claude-sonnet-4-5", 3), price("small", 3)})
	if err != nil {
		t.Fatal(err)
	}
	small := pricing.New("small", noon.AddDate(0, -1, 0), "USD", map[pricing.Unit]money.Nanos{
		pricing.Input: 3 * money.Unit / 10, pricing.CacheRead: 3 * money.Unit / 100, pricing.Output: 15 * money.Unit / 10,
	})
	large, err := book.Lookup("claude-sonnet-4-5", noon)
	if err != nil {
		t.Fatal(err)
	}
	if book, err = pricing.NewBook([]*pricing.Price{large, small}); err != nil {
		t.Fatal(err)
	}
	catalog := charter.WithMeta(&charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "small", Provider: "lab", Tier: "economy"}, {ID: "claude-sonnet-4-5", Provider: "anthropic", Tier: "premium"},
		},
	}, charter.Meta{}).(*charter.Catalog)
	return &Optimizer{Charter: func(string) *charter.Charter { return nil }, Catalog: catalog, Prices: book, At: noon}
}

// priced makes a row with the cost and savings that settlement counts for its usage.
func priced(t *testing.T, o *Optimizer, effect string, model string, calls int64, u usage.Usage, s usage.Signals) usage.Row {
	t.Helper()
	p, err := o.Prices.Lookup(model, o.At)
	if err != nil {
		t.Fatal(err)
	}
	cost := func(u usage.Usage) money.Nanos {
		c, err := p.Cost(&u)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	tier := o.Catalog.Model(model).Tier
	r := usage.Row{Keys: []string{"chat", tier, model, o.Catalog.Model(model).Provider, effect}, Currency: "USD"}
	r.Calls, r.Usage, r.Signals = calls, u, s
	in := u
	in.OutputTokens = 0
	r.Cost.Input = cost(in)
	r.Cost.Output = cost(usage.Usage{OutputTokens: u.OutputTokens})
	if u.ContextOverheadTokens > 0 {
		r.Cost.ContextOverhead = r.Cost.Input * money.Nanos(u.ContextOverheadTokens) / money.Nanos(u.AllInput())
		r.Cost.Input -= r.Cost.ContextOverhead
	}
	r.Saved.CacheRead = cost(usage.Usage{InputTokens: u.CacheReadTokens}) - cost(usage.Usage{CacheReadTokens: u.CacheReadTokens})
	r.Saved.CacheWrite = cost(usage.Usage{CacheWrite5mTokens: u.CacheWrite5mTokens}) - cost(usage.Usage{InputTokens: u.CacheWrite5mTokens})
	return r
}

func optimize(t *testing.T, o *Optimizer, rows ...usage.Row) Optimization {
	t.Helper()
	list, err := o.Optimize(rows)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d optimizations, %v", len(list), err)
	}
	return list[0]
}

func effect(t *testing.T, x *Optimization, l Lever) *Effect {
	t.Helper()
	for i := range x.Effects {
		if x.Effects[i].Lever == l {
			return &x.Effects[i]
		}
	}
	t.Fatalf("lever %d is missing", l)
	return nil
}

func cause(e *Effect, code CauseCode) *Cause {
	for i := range e.Causes {
		if e.Causes[i].Code == code {
			return &e.Causes[i]
		}
	}
	return nil
}

const million = 1_000_000

// Worked by hand: 10M input tokens, 4M of them read from cache, 2M written.
func TestCachingIsMeasured(t *testing.T) {
	o := optimizer(t)
	x := optimize(t, o, priced(t, o, "allow", "claude-sonnet-4-5", 1000, usage.Usage{
		InputTokens: 4 * million, CacheReadTokens: 4 * million, CacheWrite5mTokens: 2 * million, OutputTokens: million,
	}, usage.Signals{
		Prefixed: 1000, Repeats: 600, LateRepeats: 100, StaleRepeats: 10, PrefixChanges: 300, ShortPrompts: 20, RepeatTokens: 4 * million, LateTokens: 8 * million,
	}))
	e := effect(t, &x, LeverCaching)
	// Reads save 4 x 2.70 = 10.80, writes cost 2 x 0.75 = 1.50 more: 9.30 of 12M repeated tokens at 3.00 = 36.00.
	if e.Saved != 93*money.Unit/10 || e.Baseline != 36*money.Unit || e.Permille != 258 || e.Verdict != Below {
		t.Errorf("%+v", e)
	}
	if want := "Prompt caching saved 9.30 USD, 25.8% of what repeated prefixes would have cost: below the published 40% to 90%. 40% of the input tokens were read from a cache."; e.Summary != want {
		t.Errorf("%q", e.Summary)
	}
	// A cache of 1 hour reads 8M more: 21.60, less 2M writes x 2.25 = 4.50.
	if c := cause(e, CauseShortTTL); c == nil || *c.CouldSave != 171*money.Unit/10 || c.Calls != 100 || c.Of != 600 || c.Tokens != 8*million {
		t.Errorf("short TTL: %+v", c)
	}
	// 1,024 tokens for 300 calls, at 2.70 a million.
	if c := cause(e, CausePrefixChanges); c == nil || *c.CouldSave != 829_440_000 || c.Tokens != 307_200 {
		t.Errorf("prefix changes: %+v", c)
	}
	if c := cause(e, CauseShortPrompts); c == nil || c.Calls != 20 || !strings.Contains(c.Summary, "claude-sonnet-4-5: 1,024") {
		t.Errorf("short prompts: %+v", c)
	}
	if c := cause(e, CauseWritePremium); c == nil || *c.CouldSave != 0 {
		t.Errorf("write premium: %+v", c)
	}
	if cause(e, CauseUnusedCache) != nil || cause(e, CauseFewRepeats) != nil || cause(e, CauseNoFingerprints) != nil {
		t.Errorf("causes that are not there: %+v", e.Causes)
	}
	if e.Causes[0].Code != CauseShortTTL {
		t.Errorf("the first cause is %+v", e.Causes[0])
	}
	// In all: 9.30 of 12.00 + 1.20 + 7.50 + 15.00 + 9.30 = 45.00.
	if e := effect(t, &x, LeverCachingTotal); e.Baseline != 45*money.Unit || e.Permille != 207 || e.Verdict != Below {
		t.Errorf("in all: %+v", e)
	}
}

func TestCausesOfCaching(t *testing.T) {
	o := optimizer(t)
	for _, test := range []struct {
		name string
		use  usage.Usage
		s    usage.Signals
		want CauseCode
		save money.Nanos
	}{
		{"writes that are not read", usage.Usage{CacheWrite5mTokens: 10 * million, CacheReadTokens: million}, usage.Signals{Prefixed: 10, Repeats: 9, RepeatTokens: million},
			CauseWritePremium, 675 * money.Unit / 100}, // 9 of 10 tokens are not read: more than 7.50 - 2.70
		{"writes that cost more than reads save", usage.Usage{CacheWrite5mTokens: 4 * million, CacheReadTokens: 3 * million}, usage.Signals{Prefixed: 10, Repeats: 9, RepeatTokens: 3 * million},
			CauseWritePremium, 75 * money.Unit / 100}, // 1 of 4 tokens is not read, of 3.00
		{"repeats that are not read", usage.Usage{InputTokens: 10 * million}, usage.Signals{Prefixed: 10, Repeats: 9, RepeatTokens: 5 * million}, CauseUnusedCache, 135 * money.Unit / 10},
		{"few repeats", usage.Usage{InputTokens: 10 * million}, usage.Signals{Prefixed: 10, Repeats: 1, RepeatTokens: million}, CauseUnusedCache, 27 * money.Unit / 10},
		{"the least a provider caches", usage.Usage{InputTokens: 10 * million}, usage.Signals{Prefixed: 1000, PrefixChanges: 999}, CausePrefixChanges, 1024 * 999 * 2700},
	} {
		x := optimize(t, o, priced(t, o, "allow", "claude-sonnet-4-5", 10, test.use, test.s))
		if c := cause(effect(t, &x, LeverCaching), test.want); c == nil || *c.CouldSave != test.save {
			t.Errorf("%s: %+v", test.name, c)
		}
	}
	x := optimize(t, o, priced(t, o, "allow", "claude-sonnet-4-5", 10, usage.Usage{InputTokens: million}, usage.Signals{}))
	if c := cause(effect(t, &x, LeverCaching), CauseNoFingerprints); c == nil || c.Calls != 10 {
		t.Errorf("no fingerprints: %+v", c)
	}
}

// Every saving is taken a second way, with exact fractions.
func TestRoutingAndAllAreMeasured(t *testing.T) {
	o := optimizer(t)
	dear := priced(t, o, "allow", "claude-sonnet-4-5", 700, usage.Usage{InputTokens: 6 * million, CacheReadTokens: million, OutputTokens: million}, usage.Signals{})
	cheap := priced(t, o, "downgrade", "small", 300, usage.Usage{InputTokens: 3 * million, OutputTokens: 2 * million}, usage.Signals{TrimCalls: 5, TrimmedTokens: million})
	cheap.Saved.Downgrade = 351 * money.Unit / 10 // 3 x 2.70 + 2 x 13.50
	x := optimize(t, o, dear, cheap)
	rat := func(s string) *big.Rat { r, _ := new(big.Rat).SetString(s); return r }
	nanos := func(r *big.Rat) money.Nanos {
		r = new(big.Rat).Mul(r, rat("1000000000"))
		if !r.IsInt() {
			t.Fatalf("%s is no whole nano", r)
		}
		return money.Nanos(r.Num().Int64())
	}
	cost := nanos(new(big.Rat).Add(rat("33.3"), rat("3.9"))) // 6x3 + 0.3 + 15; 3x0.3 + 2x1.5
	if x.Cost != cost {
		t.Errorf("cost %s", x.Cost)
	}
	if e := effect(t, &x, LeverRouting); e.Saved != nanos(rat("35.1")) || e.Baseline != cost+e.Saved || e.Verdict != Below || e.Permille != 485 {
		t.Errorf("routing: %+v", e)
	} else if c := cause(e, CauseExpensiveTier); c == nil || c.Calls != 700 || *c.CouldSave != 1_050_000_000 { // half of 72.30, less 35.10
		t.Errorf("expensive tier: %+v", c)
	}
	if e := effect(t, &x, LeverSubstitution); e.Saved != nanos(rat("35.1")) || e.Baseline != nanos(rat("39")) || e.Permille != 900 || e.Verdict != Within {
		t.Errorf("substitution: %+v", e)
	}
	if e := effect(t, &x, LeverTrimming); e.Saved != nanos(rat("0.3")) || e.Baseline != nanos(rat("19.5")) || e.Verdict != Below { // input 18.30 + 0.90
		t.Errorf("trimming: %+v", e)
	}
	// All on the dearest, without cache, untrimmed: 11M x 3 + 3M x 15 = 78.
	if e := effect(t, &x, LeverAll); e.Baseline != nanos(rat("78")) || e.Saved != nanos(rat("78"))-cost || e.Verdict != Below {
		t.Errorf("all: %+v", e)
	}
}

func TestTrimmingWithoutDirectives(t *testing.T) {
	o := optimizer(t)
	x := optimize(t, o, priced(t, o, "allow", "claude-sonnet-4-5", 10, usage.Usage{InputTokens: million, ContextOverheadTokens: million / 4},
		usage.Signals{RunCalls: 8, RunGrowth: 100_000}))
	e := effect(t, &x, LeverTrimming)
	if c := cause(e, CauseContextOverhead); e.Verdict != NotMeasured || c == nil || *c.CouldSave != 75*money.Unit/100 {
		t.Errorf("%+v", e)
	}
	if c := cause(e, CauseGrowingHistory); c == nil || *c.CouldSave != 3*money.Unit/10 || !strings.Contains(c.Summary, "12,500 tokens a call") {
		t.Errorf("%+v", e)
	}
	if e.Summary != "No decision said to trim a context. 25% of the input tokens, 0.7500 USD, are context overhead." {
		t.Errorf("%q", e.Summary)
	}
}

func TestOneTierIsNotRouted(t *testing.T) {
	o := optimizer(t)
	o.Charter = func(string) *charter.Charter { return &charter.Charter{PermittedTiers: []string{"premium"}} }
	x := optimize(t, o, priced(t, o, "allow", "claude-sonnet-4-5", 10, usage.Usage{InputTokens: million}, usage.Signals{}))
	if e := effect(t, &x, LeverRouting); e.Verdict != NotMeasured || !strings.Contains(e.Summary, "one tier only") {
		t.Errorf("%+v", e)
	}
}

func TestModelsWithoutPriceAreNamed(t *testing.T) {
	o := optimizer(t)
	r := priced(t, o, "allow", "small", 10, usage.Usage{InputTokens: million, CacheReadTokens: million}, usage.Signals{Prefixed: 1, Repeats: 1, RepeatTokens: million})
	r.Keys[2] = "gone"
	x := optimize(t, o, r)
	if len(x.Unpriced) != 1 || x.Unpriced[0] != "gone" {
		t.Errorf("%v", x.Unpriced)
	}
	if e := effect(t, &x, LeverCaching); e.Verdict != NotMeasured {
		t.Errorf("%+v", e)
	}
}

func TestAmountsForPeople(t *testing.T) {
	m := measure{Optimization: Optimization{Currency: "USD"}}
	for n, want := range map[money.Nanos]string{
		0: "0.0000 USD", 49_999: "0.0000 USD", 50_000: "0.0001 USD", -50_000: "-0.0001 USD", money.Unit: "1.00 USD", -1_234_567_890_123: "-1234.57 USD",
	} {
		if got := m.amount(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0%", 5: "0.5%", 1000: "100%", -123: "-12.3%"} {
		if got := percent(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
