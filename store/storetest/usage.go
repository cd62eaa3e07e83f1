package storetest

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// RunUsage proves a store.Usage. open gives an empty store that keeps 5 keys of a dimension apart, as two servers see it;
// they may be one and the same.
func RunUsage(t *testing.T, open func(t *testing.T) (a, b store.Usage)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, a, b store.Usage)
	}{
		{"an empty store has nothing", emptyUsage},
		{"a batch counts once", batchOnce},
		{"servers that apply at once lose nothing", applyTogether},
		{"sums are those of a model, whatever is asked and compacted", usageModel},
		{"sums by any dimension add up to the whole", anyDimension},
		{"an hour keeps the first keys apart", boundedKeys},
		{"hours become days", hoursBecomeDays},
		{"a sum that does not fit is refused", usageOverflow},
		{"a query that cannot be is refused", badQueries},
		{"coverage says what is counted", coverage},
		{"a hold has one outcome", holdOutcomes},
		{"a run and a task have one outcome", taskOutcomes},
		{"an adjustment counts once and apart", adjustments},
		{"decisions are found again", keptDecisions},
		{"what is old is deleted", prune},
		{"one server leads", leads},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := open(t)
			test.run(t, a, b)
		})
	}
}

var october = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

func hour(n int) time.Time { return october.Add(time.Duration(n) * time.Hour) }

func attributed(feature, cohort string) usage.Attribution {
	return usage.Attribution{
		Feature: feature, Owner: "Ada", Team: "search", Budget: "b-" + feature, BudgetPath: "org/b-" + feature, Cohort: cohort,
		Tier: "standard", Model: "m", Provider: "p", PromptPattern: "", Effect: "allow", Currency: "USD",
		Labels: map[string]string{"env": "prod"},
	}
}

func spent(n int64) usage.Totals {
	return usage.Totals{Calls: 1, Cost: usage.Cost{Input: money.Nanos(n)}, Usage: usage.Usage{InputTokens: n, ToolCalls: map[string]int64{"search": 1}}}
}

func apply(t *testing.T, u store.Usage, batches []store.BatchID, rollups ...usage.Rollup) {
	t.Helper()
	if err := u.Apply(t.Context(), batches, rollups); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, u store.Usage, q usage.Query) []usage.Row {
	t.Helper()
	rows, _, err := u.Sum(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func emptyUsage(t *testing.T, a, _ store.Usage) {
	rows, c, err := a.Sum(t.Context(), usage.Query{From: hour(0), To: hour(24), By: []string{usage.DimFeature}})
	if err != nil || len(rows) != 0 || len(c.Through) != 0 || !c.AsOf.IsZero() {
		t.Errorf("%v, %+v, %v", rows, c, err)
	}
	if err := a.Compact(t.Context(), hour(0)); err != nil {
		t.Error(err)
	}
}

func batchOnce(t *testing.T, a, b store.Usage) {
	first := []store.BatchID{{Owner: "o", N: 0}, {Owner: "o", N: 1}, {Owner: "p", N: 7}}
	r := usage.Rollup{Hour: hour(0), Attribution: attributed("f", "c"), Totals: spent(5)}
	apply(t, a, first, r)
	for _, again := range [][]store.BatchID{{{Owner: "o", N: 1}}, {{Owner: "o", N: 2}, {Owner: "p", N: 7}}, first} {
		if err := b.Apply(t.Context(), again, []usage.Rollup{r}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%v again: %v", again, err)
		}
	}
	known, err := b.Applied(t.Context(), []store.BatchID{{Owner: "o", N: 0}, {Owner: "o", N: 2}, {Owner: "p", N: 7}, {Owner: "p", N: 6}, {Owner: "q", N: 0}})
	if err != nil || !reflect.DeepEqual(known, map[store.BatchID]bool{{Owner: "o", N: 0}: true, {Owner: "p", N: 7}: true}) {
		t.Errorf("applied: %v, %v", known, err)
	}
	apply(t, b, []store.BatchID{{Owner: "o", N: 2}}, r)
	rows := sumOf(t, a, usage.Query{From: hour(0), To: hour(1)})
	if len(rows) != 1 || rows[0].Calls != 2 || rows[0].Cost.Input != 10 {
		t.Errorf("%+v", rows)
	}
}

func applyTogether(t *testing.T, a, b store.Usage) {
	const each, batches = 4, 10
	var running sync.WaitGroup
	for w := range each {
		for _, u := range []store.Usage{a, b} { // both try the same batches
			running.Go(func() {
				for n := range uint64(batches) {
					id := []store.BatchID{{Owner: fmt.Sprint("o", w), N: n}}
					err := u.Apply(t.Context(), id, []usage.Rollup{{Hour: hour(int(n)), Attribution: attributed(fmt.Sprint("f", n), fmt.Sprint(w)), Totals: spent(1)}})
					if err != nil && !errors.Is(err, store.ErrConflict) {
						t.Error(err)
					}
					if n%4 == 0 {
						if err := u.Compact(t.Context(), hour(-24)); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
	}
	running.Wait()
	rows := sumOf(t, b, usage.Query{From: hour(0), To: hour(24), By: []string{usage.DimFeature}})
	for _, r := range rows {
		if r.Calls != each {
			t.Errorf("%v has %d calls", r.Keys, r.Calls)
		}
	}
	if len(rows) != batches {
		t.Errorf("%d features", len(rows))
	}
}

// pick gives a random rollup within four months.
func pick(r *rand.Rand) usage.Rollup {
	at := attributed(fmt.Sprint("f", r.IntN(5)), fmt.Sprint("c", r.IntN(4)))
	at.Tier, at.Effect, at.Currency = fmt.Sprint("t", r.IntN(2)), []string{"allow", "downgrade"}[r.IntN(2)], []string{"USD", "EUR"}[r.IntN(2)]
	at.Labels = map[string]string{"env": fmt.Sprint("e", r.IntN(3))}
	if r.IntN(3) == 0 {
		at.Labels = nil
	}
	var totals usage.Totals
	for _, p := range totals.Columns() {
		if r.IntN(3) == 0 {
			*p = r.Int64N(1 << r.IntN(40))
		}
	}
	totals.Saved.Downgrade = -money.Nanos(r.IntN(1000))
	for range r.IntN(3) {
		totals.AddTool(fmt.Sprint("tool", r.IntN(4)), r.Int64N(100))
	}
	return usage.Rollup{Hour: hour(r.IntN(24 * 120)), Attribution: at, Totals: totals}
}

// modelSum is what Sum promises, from the rollups themselves.
func modelSum(rollups []usage.Rollup, q usage.Query) []usage.Row {
	by := map[string]*usage.Row{}
	for _, r := range rollups {
		if r.Hour.Before(q.From) || !r.Hour.Before(q.To) {
			continue
		}
		fits := true
		for d, any := range q.Where {
			fits = fits && slices.Contains(any, r.Key(d))
		}
		if !fits {
			continue
		}
		row := &usage.Row{Start: q.Start(r.Hour), Keys: make([]string, len(q.By)), Currency: r.Currency}
		for i, d := range q.By {
			row.Keys[i] = r.Key(d)
		}
		name := fmt.Sprint(row.Start.Unix(), row.Keys, row.Currency)
		if by[name] == nil {
			by[name] = row
		}
		if err := by[name].Totals.Add(&r.Totals); err != nil {
			panic(err)
		}
	}
	var rows []usage.Row
	for _, r := range by {
		rows = append(rows, *r)
	}
	slices.SortFunc(rows, func(a, b usage.Row) int {
		if c := a.Start.Compare(b.Start); c != 0 {
			return c
		}
		if c := slices.Compare(a.Keys, b.Keys); c != 0 {
			return c
		}
		return strings.Compare(a.Currency, b.Currency)
	})
	return rows
}

func usageModel(t *testing.T, a, b store.Usage) {
	r := rand.New(rand.NewPCG(1, 2))
	var all []usage.Rollup
	dimensions := append([]string{usage.DimLabel + "env", usage.DimLabel + "none"}, usage.Dimensions...)
	for round := range 12 {
		for n := range 6 {
			var some []usage.Rollup
			for range 20 {
				some = append(some, pick(r))
			}
			apply(t, []store.Usage{a, b}[n%2], []store.BatchID{{Owner: "o", N: uint64(round*6 + n)}}, some...)
			all = append(all, some...)
		}
		if round%3 == 2 { // hours are kept: every query is exact
			if err := a.Compact(t.Context(), hour(-24)); err != nil {
				t.Fatal(err)
			}
		}
		for range 12 {
			from := r.IntN(24 * 120)
			q := usage.Query{From: hour(from), To: hour(from + 1 + r.IntN(24*120)), Step: usage.Step(r.IntN(4))}
			for _, d := range r.Perm(len(dimensions))[:r.IntN(4)] {
				q.By = append(q.By, dimensions[d])
			}
			if r.IntN(2) == 0 {
				q.Where = map[string][]string{usage.DimFeature: {"f1", "f3"}, usage.DimLabel + "env": {"", "e1"}}
			}
			if got, want := sumOf(t, b, q), modelSum(all, q); len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v:\n got %+v\nwant %+v", q, got, want)
			}
		}
	}
}

func anyDimension(t *testing.T, a, b store.Usage) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range uint64(20) {
		var some []usage.Rollup
		for range 20 {
			x := pick(r)
			x.Cohort, x.Currency = fmt.Sprint(r.IntN(40)), "USD" // more than an hour keeps apart
			x.Hour = hour(r.IntN(3))
			some = append(some, x)
		}
		apply(t, a, []store.BatchID{{Owner: "o", N: n}}, some...)
	}
	q := usage.Query{From: hour(0), To: hour(24)}
	whole := sumOf(t, b, q)
	for _, d := range append([]string{usage.DimLabel + "env"}, usage.Dimensions...) {
		q.By = []string{d}
		var sum usage.Totals
		for _, row := range sumOf(t, b, q) {
			if err := sum.Add(&row.Totals); err != nil {
				t.Fatal(err)
			}
		}
		if len(whole) != 1 || !reflect.DeepEqual(sum, whole[0].Totals) {
			t.Errorf("by %s: %+v, the whole is %+v", d, sum, whole)
		}
	}
}

func boundedKeys(t *testing.T, a, b store.Usage) {
	for i := range 12 {
		x := usage.Rollup{Hour: hour(0), Attribution: attributed("f", fmt.Sprint("c", i)), Totals: spent(1)}
		x.PromptPattern, x.Labels = fmt.Sprint("p", i/6), map[string]string{"customer": fmt.Sprint(i)}
		apply(t, []store.Usage{a, b}[i%2], nil, x)
	}
	apply(t, a, nil, usage.Rollup{Hour: hour(0), Attribution: attributed("f", "c1"), Totals: spent(1)},
		usage.Rollup{Hour: hour(0), Attribution: attributed("f", ""), Totals: spent(1)},
		usage.Rollup{Hour: hour(1), Attribution: attributed("f", "c9"), Totals: spent(1)})
	for d, want := range map[string]map[string]int64{
		usage.DimCohort:             {"": 1, "c0": 1, "c1": 2, "c2": 1, "c3": 1, "c4": 1, usage.OtherKey: 7},
		usage.DimPromptPattern:      {"": 2, "p0": 6, "p1": 6},
		usage.DimLabel + "customer": {"": 2, "0": 1, "1": 1, "2": 1, "3": 1, "4": 1, usage.OtherKey: 7},
	} {
		got := map[string]int64{}
		for _, r := range sumOf(t, a, usage.Query{From: hour(0), To: hour(1), By: []string{d}}) {
			got[r.Keys[0]] = r.Calls
		}
		if !maps.Equal(got, want) {
			t.Errorf("by %s: %v, want %v", d, got, want)
		}
	}
	if r := sumOf(t, a, usage.Query{From: hour(1), To: hour(2), By: []string{usage.DimCohort}}); len(r) != 1 || r[0].Keys[0] != "c9" {
		t.Errorf("the next hour: %+v", r)
	}
}

func hoursBecomeDays(t *testing.T, a, b store.Usage) {
	at := attributed("f", "c")
	for h := range 24 * 3 {
		apply(t, a, []store.BatchID{{Owner: "o", N: uint64(h)}}, usage.Rollup{Hour: hour(h), Attribution: at, Totals: spent(1)})
	}
	for range 2 { // again changes nothing
		if err := b.Compact(t.Context(), hour(24*2)); err != nil {
			t.Fatal(err)
		}
		late := usage.Rollup{Hour: hour(30), Attribution: at, Totals: usage.Totals{Successes: 1}}
		apply(t, a, nil, late)
		rows := sumOf(t, a, usage.Query{From: hour(0), To: hour(24 * 3), Step: usage.Hour})
		calls, successes := int64(0), int64(0)
		for i, r := range rows {
			calls, successes = calls+r.Calls, successes+r.Successes
			if i < 1 && (r.Calls != 24 || !r.Start.Equal(hour(24*i))) {
				t.Errorf("day %d by hour: %+v", i, r)
			}
		}
		if calls != 72 || rows[len(rows)-1].Calls != 1 {
			t.Errorf("%d calls by hour, the last %+v", calls, rows[len(rows)-1])
		}
		days := sumOf(t, b, usage.Query{From: hour(0), To: hour(24 * 3), Step: usage.Day})
		if len(days) != 3 || days[0].Calls != 24 || days[1].Calls != 24 || days[2].Calls != 24 || days[1].Successes != successes || successes == 0 {
			t.Errorf("by day: %+v", days)
		}
	}
	if m := sumOf(t, b, usage.Query{From: hour(0), To: hour(24 * 31), Step: usage.Month}); len(m) != 1 || m[0].Calls != 72 || m[0].Successes != 2 {
		t.Errorf("by month: %+v", m)
	}
}

func usageOverflow(t *testing.T, a, _ store.Usage) {
	half := usage.Rollup{Hour: hour(0), Attribution: attributed("f", "c"), Totals: spent(1 << 62)}
	apply(t, a, []store.BatchID{{Owner: "o", N: 0}}, half)
	if err := a.Apply(t.Context(), []store.BatchID{{Owner: "o", N: 1}}, []usage.Rollup{half, half}); !errors.Is(err, usage.ErrOverflow) {
		t.Errorf("in one hour: %v", err)
	}
	half.Hour = hour(1)
	apply(t, a, []store.BatchID{{Owner: "o", N: 1}}, half) // what failed before left nothing
	if _, _, err := a.Sum(t.Context(), usage.Query{From: hour(0), To: hour(2)}); !errors.Is(err, usage.ErrOverflow) {
		t.Errorf("in the sum: %v", err)
	}
	if rows := sumOf(t, a, usage.Query{From: hour(0), To: hour(2), Step: usage.Hour}); len(rows) != 2 {
		t.Errorf("%+v", rows)
	}
}

func badQueries(t *testing.T, a, _ store.Usage) {
	for name, q := range map[string]usage.Query{
		"no window":         {},
		"half an hour":      {From: hour(0), To: hour(1).Add(time.Minute)},
		"nothing":           {From: hour(1), To: hour(1)},
		"no dimension":      {From: hour(0), To: hour(1), By: []string{"colour"}},
		"a dimension twice": {From: hour(0), To: hour(1), By: []string{usage.DimTier, usage.DimTier}},
		"a label of no key": {From: hour(0), To: hour(1), Where: map[string][]string{usage.DimLabel: {"x"}}},
		"no step":           {From: hour(0), To: hour(1), Step: 9},
	} {
		if _, _, err := a.Sum(t.Context(), q); !isQueryError(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func isQueryError(err error) bool { _, ok := errors.AsType[*usage.QueryError](err); return ok }

func coverage(t *testing.T, a, b store.Usage) {
	r := usage.Rollup{Hour: hour(5), Newest: hour(5).Add(time.Minute), Attribution: attributed("f", "c"), Totals: spent(1)}
	apply(t, a, []store.BatchID{{Owner: "o", N: 0}, {Owner: "o", N: 1}, {Owner: "o", N: 3}}, r)
	r.Hour, r.Newest = hour(4), hour(4)
	apply(t, b, []store.BatchID{{Owner: "p", N: 9}}, r)
	_, c, err := b.Sum(t.Context(), usage.Query{From: hour(0), To: hour(1)})
	want := usage.Coverage{Through: []usage.Position{{Owner: "o", Batch: 1}, {Owner: "p", Batch: 9}}, AsOf: hour(5).Add(time.Minute)}
	if err != nil || !reflect.DeepEqual(c, want) {
		t.Errorf("%+v, %v", c, err)
	}
	apply(t, b, []store.BatchID{{Owner: "o", N: 2}})
	if _, c, _ = b.Sum(t.Context(), usage.Query{From: hour(5), To: hour(6)}); len(c.Through) != 1 || c.Through[0].Batch != 3 || !c.AsOf.Equal(want.AsOf) {
		t.Errorf("%+v", c)
	}
}
