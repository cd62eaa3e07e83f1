package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// Lever is a way to spend less on the same tasks.
type Lever int

// Levers, numbered as in the API.
const (
	LeverUnspecified  Lever = iota
	LeverCaching            // prompt caching, of the input cost of repeated prefixes
	LeverCachingTotal       // prompt caching, of the whole cost
	LeverRouting            // cheaper tiers, against all calls on the dearest permitted one
	LeverTrimming           // shorter contexts, of the input cost
	LeverSubstitution       // calls on a cheaper model than they wanted, against the wanted one
	LeverAll                // all of these together
)

// Range is what is published of a lever, in per mille.
type Range struct{ Low, High int64 }

// Ranges are the published ranges: prompt caching saves 40 to 90% of the input of repeated prefixes, and 30 to 50% in all
// for a copilot; tier routing 50 to 85%; context trimming 10 to 35%; substitution 80 to 95%; all four 60 to 85%.
var Ranges = map[Lever]Range{
	LeverCaching: {400, 900}, LeverCachingTotal: {300, 500}, LeverRouting: {500, 850}, LeverTrimming: {100, 350},
	LeverSubstitution: {800, 950}, LeverAll: {600, 850},
}

// Verdict is a measure against its range.
type Verdict int

// Verdicts, numbered as in the API.
const (
	NotMeasured Verdict = iota
	Below
	Within
	Above
)

// Effect is what a lever saved.
type Effect struct {
	Lever    Lever
	Baseline money.Nanos // what the lever bears on would have cost without it
	Saved    money.Nanos // of the baseline; negative where it cost more
	Permille int64       // Saved of Baseline, rounded half up
	Verdict  Verdict
	Summary  string
	Causes   []Cause // where it is below its range or not measured; what would save most first
}

// CauseCode says why a lever saves less than others publish.
type CauseCode int

// Causes, numbered as in the API.
const (
	CauseUnspecified CauseCode = iota
	CausePrefixChanges
	CauseShortTTL
	CauseShortPrompts
	CauseWritePremium
	CauseUnusedCache
	CauseFewRepeats
	CauseNoFingerprints
	CauseExpensiveTier
	CauseContextOverhead
	CauseGrowingHistory
)

// Cause is a cause with the evidence of the window.
type Cause struct {
	Code      CauseCode
	Calls, Of int64        // so many of so many calls
	Tokens    int64        // that it is about
	CouldSave *money.Nanos // nil: not known
	Summary   string
	Action    string
}

// Optimization is what the levers saved one feature, in one currency.
type Optimization struct {
	Feature, Currency string
	Totals            usage.Totals
	Cost              money.Nanos
	Effects           []Effect // by lever
	Unpriced          []string // models without a price in the currency now: their calls are not compared
}

// OptimizeBy is what the rows of Optimize are summed by.
var OptimizeBy = []string{usage.DimFeature, usage.DimTier, usage.DimModel, usage.DimProvider, usage.DimEffect}

// Optimizer knows what optimizations are measured against.
type Optimizer struct {
	Charter func(feature string) *charter.Charter // nil for one that is gone: all tiers are permitted then
	Catalog *charter.Catalog
	Prices  *pricing.Book
	At      time.Time // whose prices compare models: rates of the standard tier without thresholds
}

// Optimize measures each feature's levers from the sums of a window, the dearest feature first. What caching and
// substitution saved was counted at settlement; the rest is compared at prices of o.At. Error: money.ErrOverflow.
func (o *Optimizer) Optimize(rows []usage.Row) ([]Optimization, error) {
	type key struct{ feature, currency string }
	groups := map[key][]*usage.Row{}
	for i := range rows {
		k := key{rows[i].Keys[0], rows[i].Currency}
		groups[k] = append(groups[k], &rows[i])
	}
	list := make([]Optimization, 0, len(groups))
	for k, group := range groups {
		m := measure{o: o, Optimization: Optimization{Feature: k.feature, Currency: k.currency}, rows: group, flat: map[string]*pricing.Price{}}
		if err := m.run(); err != nil {
			return nil, err
		}
		list = append(list, m.Optimization)
	}
	slices.SortFunc(list, func(a, b Optimization) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Feature, b.Feature), cmp.Compare(a.Currency, b.Currency))
	})
	return list, nil
}

// measure is a feature under measurement.
type measure struct {
	Optimization
	o    *Optimizer
	rows []*usage.Row // by OptimizeBy
	flat map[string]*pricing.Price
	err  error // the first; sums after it are of no use
}

func tierOf(r *usage.Row) string     { return r.Keys[1] }
func modelOf(r *usage.Row) string    { return r.Keys[2] }
func providerOf(r *usage.Row) string { return r.Keys[3] }
func effectOf(r *usage.Row) string   { return r.Keys[4] }

func (m *measure) run() error {
	for _, r := range m.rows {
		if err := m.Totals.Add(&r.Totals); err != nil {
			return err
		}
	}
	var err error
	if m.Cost, err = m.Totals.Cost.Total(); err != nil {
		return err
	}
	caching, total := m.caching()
	m.Effects = append(m.Effects, caching, total, m.routing(), m.trimming(), m.substitution())
	m.Effects = append(m.Effects, m.all())
	slices.Sort(m.Unpriced)
	m.Unpriced = slices.DeleteFunc(slices.Compact(m.Unpriced), func(model string) bool {
		return !slices.ContainsFunc(m.rows, func(r *usage.Row) bool { return modelOf(r) == model })
	})
	return m.err
}

// judge fills in what follows from baseline and saving.
func (e *Effect) judge() {
	p, ok := Ratio(int64(e.Saved), 1000, int64(e.Baseline))
	if !ok {
		e.Verdict = NotMeasured
		return
	}
	switch r := Ranges[e.Lever]; {
	case p < r.Low:
		e.Verdict = Below
	case p <= r.High:
		e.Verdict = Within
	default:
		e.Verdict = Above
	}
	e.Permille = p
}

// against names the range that an effect is in, for a sentence.
func (e *Effect) against() string {
	r := Ranges[e.Lever]
	return fmt.Sprintf("%s the published %s to %s", [...]string{"not measured against", "below", "within", "above"}[e.Verdict], percent(r.Low), percent(r.High))
}

// add is a + b, and remembers an overflow.
func (m *measure) add(a, b money.Nanos) money.Nanos {
	sum, err := money.Add(a, b)
	m.fail(err)
	return sum
}

func (m *measure) sub(a, b money.Nanos) money.Nanos {
	d, err := money.Sub(a, b)
	m.fail(err)
	return d
}

func (m *measure) fail(err error) {
	if m.err == nil {
		m.err = err
	}
}

// price gives the flat price of a model in the feature's currency: its rates without conditions, and without a fee for
// each request, which sums of calls do not have. nil where there is none.
func (m *measure) price(model string) *pricing.Price {
	if p, known := m.flat[model]; known {
		return p
	}
	var flat *pricing.Price
	if p, err := m.o.Prices.Lookup(model, m.o.At); err == nil && p.Currency == m.Currency {
		rates := map[pricing.Unit]money.Nanos{}
		for u := pricing.Input; u < pricing.Request; u++ { // the last unit
			if rate, ok := p.Rate(u); ok {
				rates[u] = rate
			}
		}
		flat = pricing.New(model, p.Effective, p.Currency, rates)
		flat.GPUPerMInput, flat.GPUPerMOutput, flat.OverheadPPM = p.GPUPerMInput, p.GPUPerMOutput, p.OverheadPPM
		flat.Accelerators = p.Accelerators
	} else {
		m.Unpriced = append(m.Unpriced, model)
	}
	m.flat[model] = flat
	return flat
}

// tokens is the part of a usage that another model would have too.
func tokens(u *usage.Usage) usage.Usage {
	t := *u
	t.ContextOverheadTokens, t.RetrievalHops, t.EmbeddingTokens, t.VectorQueries, t.ToolCalls = 0, 0, 0, 0, nil
	t.GPUMilliseconds, t.StorageBytes, t.EgressBytes = 0, 0, 0
	return t
}

// cost prices a usage; false where the price has no rate for a part of it.
func (m *measure) cost(p *pricing.Price, u usage.Usage) (money.Nanos, bool) {
	if p == nil {
		return 0, false
	}
	c, err := p.Cost(&u)
	if err != nil {
		m.Unpriced = append(m.Unpriced, p.Model)
		return 0, false
	}
	return c, true
}

// worth is what n tokens cost as input of a row's model, less what they cost in a cache; 0 where that is not known.
func (m *measure) worth(r *usage.Row, n int64) money.Nanos {
	p := m.price(modelOf(r))
	in, ok := m.cost(p, usage.Usage{InputTokens: n})
	read, ok2 := m.cost(p, usage.Usage{CacheReadTokens: n})
	if !ok || !ok2 {
		return 0
	}
	return max(0, in-read)
}

// asInput is what n tokens cost as input of a row's model.
func (m *measure) asInput(r *usage.Row, n int64) money.Nanos {
	c, _ := m.cost(m.price(modelOf(r)), usage.Usage{InputTokens: n})
	return c
}

// amount writes money for people: to a hundredth, or a ten-thousandth below 1.
func (m *measure) amount(n money.Nanos) string {
	digits, unit := 2, int64(10_000_000)
	if n > -money.Unit && n < money.Unit {
		digits, unit = 4, 100_000
	}
	sign := ""
	if n < 0 {
		sign, n = "-", -max(n, -(1<<63-1))
	}
	n = (n + money.Nanos(unit)/2) / money.Nanos(unit)
	whole, scale := int64(n), int64(100)
	if digits == 4 {
		scale = 10_000
	}
	return fmt.Sprintf("%s%d.%0*d %s", sign, whole/scale, digits, whole%scale, m.Currency)
}

// percent writes per mille as percent.
func percent(permille int64) string {
	sign := ""
	if permille < 0 {
		sign, permille = "-", -permille
	}
	return strings.TrimSuffix(fmt.Sprintf("%s%d.%d", sign, permille/10, permille%10), ".0") + "%"
}

// part is n of whole as percent; `0%` of nothing.
func part(n, whole int64) string {
	p, _ := Ratio(n, 1000, whole)
	return percent(p)
}
