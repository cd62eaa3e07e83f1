package report

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
)

// open gives an empty store on a real SQLite file.
func open(t testing.TB) *sql.Store {
	t.Helper()
	s, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "usage.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func pick[V any](r *rand.Rand, of ...V) V { return of[r.IntN(len(of))] }

// someRollup is one hour of the last 70 days of one of a few attributions.
func someRollup(r *rand.Rand) usage.Rollup {
	n := func() int64 { return r.Int64N(1e9) }
	feature := pick(r, "chat", "search", "agent", "mail")
	return usage.Rollup{
		Hour: now.Truncate(time.Hour).Add(-time.Duration(r.IntN(70*24)) * time.Hour),
		Attribution: usage.Attribution{
			Feature: feature, Owner: pick(r, "Ada", "Kim", ""), Team: "t-" + feature, Budget: "b-" + feature, BudgetPath: "acme/b-" + feature,
			Cohort: pick(r, "", "free", "pro"), Tier: pick(r, "economy", "premium"), Model: pick(r, "small", "large"), Provider: "p",
			PromptPattern: pick(r, "", "p1", usage.OtherKey), Effect: pick(r, "allow", "downgrade"), Currency: pick(r, "USD", "USD", "EUR"),
			Labels: map[string]string{"env": pick(r, "prod", "test")},
		},
		Totals: usage.Totals{
			Calls: r.Int64N(100), Refused: r.Int64N(3), Successes: r.Int64N(50), Failures: r.Int64N(9), Forced: money.Nanos(r.Int64N(99)),
			Usage: usage.Usage{InputTokens: n(), CacheReadTokens: n(), OutputTokens: n(), RetrievalHops: n(), ToolCalls: map[string]int64{"web": n()}},
			Cost:  usage.Cost{Input: money.Nanos(n()), ContextOverhead: money.Nanos(n()), Output: money.Nanos(n()), Retrieval: money.Nanos(n()), Tools: money.Nanos(n()), Compute: money.Nanos(n()), Other: money.Nanos(n())},
			Saved: usage.Saved{CacheRead: money.Nanos(n()), CacheWrite: money.Nanos(n()), Downgrade: money.Nanos(n() - 5e8)},
		},
	}
}

// fill puts rollups into a store and gives them.
func fill(t testing.TB, s store.Usage, r *rand.Rand, n int) []usage.Rollup {
	t.Helper()
	rollups := make([]usage.Rollup, n)
	for i := range rollups {
		rollups[i] = someRollup(r)
	}
	if err := s.Apply(t.Context(), []store.BatchID{{Owner: "o", N: 0}}, rollups); err != nil {
		t.Fatal(err)
	}
	return rollups
}

// added sums rollups by currency, one by one.
func added(t testing.TB, rollups []usage.Rollup, in func(*usage.Rollup) bool) map[string]*Line {
	t.Helper()
	by := map[string]*Line{}
	for i := range rollups {
		if r := &rollups[i]; in(r) {
			if by[r.Currency] == nil {
				by[r.Currency] = &Line{}
			}
			if err := by[r.Currency].Add(&r.Totals); err != nil {
				t.Fatal(err)
			}
		}
	}
	return by
}

func maker(s Sums) *Maker { return &Maker{Sums: s, Now: now, Charters: &charter.Snapshot{}} }

// Whatever an allocation is by, and however many of its rows are shown, it adds up to what went in.
func TestAllocationsAddUp(t *testing.T) {
	s := open(t)
	rollups := fill(t, s, rand.New(rand.NewPCG(1, 1)), 600)
	w, _ := (&Ask{Last: 60 * 24 * time.Hour}).Window(now, "")
	whole := added(t, rollups, func(r *usage.Rollup) bool { return !r.Hour.Before(w.From) })
	all := append(slices.Clone(usage.Dimensions), "label:env", "label:none")
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		by := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 4, rapid.ID).Draw(t, "by")
		limit := rapid.IntRange(1, 60).Draw(t, "limit")
		tables, err := maker(s).Allocation(ctx, w, by, nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(tables) != len(whole) {
			t.Fatalf("%d currencies", len(tables))
		}
		for _, table := range tables {
			checkTable(t, &table, whole[table.Currency], by, limit)
		}
	})
}

func checkTable(t *rapid.T, table *Table, want *Line, by []string, limit int) {
	if !reflect.DeepEqual(table.Total.Totals, want.Totals) || table.Total.Total != want.Total {
		t.Fatalf("%s: total %+v, want %+v", table.Currency, table.Total, want)
	}
	lines := table.Lines
	if table.Rest != nil {
		lines = append(slices.Clone(lines), *table.Rest)
	}
	var sum Line
	var share int32
	rows := 0
	for i := range lines {
		parts, _ := lines[i].Cost.Total()
		if parts != lines[i].Total {
			t.Fatalf("%v: components are %d, the cost is %d", lines[i].Keys, parts, lines[i].Total)
		}
		if err := sum.Add(&lines[i].Totals); err != nil {
			t.Fatal(err)
		}
		share += lines[i].Share
		rows += lines[i].Rows
	}
	if !reflect.DeepEqual(sum.Totals, want.Totals) || share != 1000 || table.Total.Share != 1000 || rows != table.Total.Rows {
		t.Fatalf("rows add up to %+v with %d per mille of %d combinations", sum, share, rows)
	}
	if len(table.Lines) > limit {
		t.Fatalf("%d rows of at most %d", len(table.Lines), limit)
	}
	for d, part := range table.By {
		if part.Dimension == usage.DimCohort && len(by) == 1 && table.Rest == nil {
			if last := table.Lines[len(table.Lines)-1]; last.Keys[d] != "" || last.Total != part.Unallocated {
				t.Fatalf("the last row is %v with %d, unallocated is %d", last.Keys, last.Total, part.Unallocated)
			}
		}
		if part.Dimension == "label:none" && part.Unallocated != want.Total {
			t.Fatalf("%d is without a label that nothing has, of %d", part.Unallocated, want.Total)
		}
	}
}

// Conditions part a whole, and the parts add up to it.
func TestConditionsPartTheWhole(t *testing.T) {
	s := open(t)
	rollups := fill(t, s, rand.New(rand.NewPCG(2, 2)), 300)
	w, _ := (&Ask{Last: 80 * 24 * time.Hour}).Window(now, "")
	whole := added(t, rollups, func(*usage.Rollup) bool { return true })
	for _, parts := range [][]string{{"cohort=", "cohort=free", "cohort=pro"}, {"label:env=prod", "label:env=test"}, {"tier=economy", "tier=premium"}} {
		sum := map[string]money.Nanos{}
		for _, p := range parts {
			where, err := Filters([]string{p})
			if err != nil {
				t.Fatal(err)
			}
			tables, err := maker(s).Allocation(t.Context(), w, nil, where, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, table := range tables {
				sum[table.Currency] += table.Total.Total
			}
		}
		for currency, line := range whole {
			if sum[currency] != line.Total {
				t.Errorf("%v add up to %d %s, want %d", parts, sum[currency], currency, line.Total)
			}
		}
	}
}

// The points of a trend add up to its window, in every zone and step, and so do its series with what is not shown.
func TestTrendsAddUp(t *testing.T) {
	s := open(t)
	rollups := fill(t, s, rand.New(rand.NewPCG(3, 3)), 600)
	for _, zone := range []string{"UTC", "Europe/Zurich", "America/New_York"} {
		for step := StepHour; step <= StepMonth; step++ {
			ask := Ask{From: at("2026-10-20T07"), To: at("2026-11-24T00"), Zone: zone}
			w, err := ask.Window(now, "")
			if err != nil {
				t.Fatal(err)
			}
			ahead, _ := (&Ask{Zone: zone}).Window(now, "this-month")
			trends, err := maker(s).Trend(t.Context(), &TrendAsk{Window: w, By: []string{usage.DimFeature, usage.DimCohort}, Step: step, Limit: 1000, Forecast: ahead})
			if err != nil {
				t.Fatal(err)
			}
			whole := added(t, rollups, func(r *usage.Rollup) bool { return !r.Hour.Before(w.From) && r.Hour.Before(w.To) })
			b := w.Before(now)
			before := added(t, rollups, func(r *usage.Rollup) bool { return !r.Hour.Before(b.From) && r.Hour.Before(b.To) })
			month := added(t, rollups, func(r *usage.Rollup) bool { return !r.Hour.Before(ahead.From) })
			for _, trend := range trends {
				name := fmt.Sprint(zone, " step ", step, " ", trend.Currency)
				total := checkSeries(t, name, &trend.Total)
				var cost, previous money.Nanos
				for i := range trend.Series {
					sum := checkSeries(t, name, &trend.Series[i])
					cost += sum
					previous += trend.Series[i].Previous
				}
				if want := whole[trend.Currency].Total; total != want || cost != want {
					t.Errorf("%s: points %d, series %d, want %d", name, total, cost, want)
				}
				if want := before[trend.Currency].Total; trend.Total.Previous != want || previous > want {
					t.Errorf("%s: before %d, series %d, want %d", name, trend.Total.Previous, previous, want)
				}
				if want := month[trend.Currency].Total; trend.Total.Settled != want || trend.Total.Forecast.Expected < want {
					t.Errorf("%s: this month %d (%+v), want %d", name, trend.Total.Settled, trend.Total.Forecast, want)
				}
			}
		}
	}
}

func checkSeries(t *testing.T, name string, s *Series) (sum money.Nanos) {
	t.Helper()
	var calls int64
	for i, p := range s.Points {
		sum += p.Cost
		calls += p.Calls
		if i > 0 && *p.Change != p.Cost-s.Points[i-1].Cost {
			t.Errorf("%s: %s changed by %d", name, p.Start, *p.Change)
		}
	}
	if sum != s.Cost || calls != s.Calls || s.Change != s.Cost-s.Previous {
		t.Errorf("%s, %v: points are %d in %d calls, the window %d in %d", name, s.Keys, sum, calls, s.Cost, s.Calls)
	}
	return sum
}

// Series beyond the limit are in the total.
func TestTrendShowsTheDearest(t *testing.T) {
	s := open(t)
	fill(t, s, rand.New(rand.NewPCG(4, 4)), 300)
	w, _ := (&Ask{Last: 30 * 24 * time.Hour}).Window(now, "")
	ahead, _ := (&Ask{}).Window(now, "this-month")
	trends, err := maker(s).Trend(t.Context(), &TrendAsk{Window: w, By: []string{usage.DimFeature}, Step: StepDay, Limit: 2, Forecast: ahead})
	if err != nil {
		t.Fatal(err)
	}
	for _, trend := range trends {
		if len(trend.Series) != 2 || trend.More != 2 || trend.Series[0].Cost < trend.Series[1].Cost || trend.Total.Cost <= trend.Series[0].Cost+trend.Series[1].Cost {
			t.Errorf("%s: %d series and %d more", trend.Currency, len(trend.Series), trend.More)
		}
	}
}

// Shares add up to the whole, each within one per mille of its exact value.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.Int64Range(-1e9, 1<<40), 1, 50).Draw(t, "parts")
		amounts := make([]money.Nanos, len(parts))
		var total money.Nanos
		for i, p := range parts {
			amounts[i] = money.Nanos(p)
			total += amounts[i]
		}
		shares := Shares(total, amounts)
		var sum int32
		for i, s := range shares {
			sum += s
			if exact := float64(parts[i]) * 1000 / float64(total); total > 0 && (float64(s) < exact-1.001 || float64(s) > exact+1.001) {
				t.Fatalf("%d of %d is %d per mille", parts[i], total, s)
			}
		}
		if total > 0 && sum != 1000 || total <= 0 && sum != 0 {
			t.Fatalf("shares add up to %d", sum)
		}
	})
	if got := Shares(3, []money.Nanos{1, 1, 1}); !slices.Equal(got, []int32{334, 333, 333}) {
		t.Error(got)
	}
	if got := Shares(1<<63-1, []money.Nanos{1 << 62, 1<<62 - 1}); !slices.Equal(got, []int32{500, 500}) {
		t.Error(got)
	}
}

func TestQuestionsThatCannotBe(t *testing.T) {
	many := make([]string, MaxFilters+1)
	for _, err := range []error{
		CheckDimensions([]string{"colour"}), CheckDimensions([]string{"team", "team"}), CheckDimensions([]string{"label:"}),
		CheckDimensions(make([]string, MaxDimensions+1)),
		second(Filters([]string{"team"})), second(Filters([]string{"colour=red"})), second(Filters(many)),
	} {
		if _, ok := err.(*FieldError); !ok {
			t.Errorf("%v", err)
		}
	}
	got, err := Filters([]string{"team=a=b", "team=c", "team=c", "cohort="})
	if err != nil || !reflect.DeepEqual(got, map[string][]string{"team": {"a=b", "c"}, "cohort": {""}}) {
		t.Errorf("%v, %v", got, err)
	}
}

func second[V any](_ V, err error) error { return err }

// An empty store gives empty reports.
func TestNothing(t *testing.T) {
	s := open(t)
	w, _ := (&Ask{Last: time.Hour}).Window(now, "")
	ctx := context.Background()
	m := maker(s)
	if tables, err := m.Allocation(ctx, w, []string{"team"}, nil, 1); err != nil || tables != nil && len(tables) != 0 {
		t.Errorf("%v, %v", tables, err)
	}
	if trends, err := m.Trend(ctx, &TrendAsk{Window: w, By: []string{"team"}, Step: StepDay, Limit: 1, Forecast: w}); err != nil || len(trends) != 0 {
		t.Errorf("%v, %v", trends, err)
	}
	if briefs, stages, err := m.Executive(ctx, w, nil, 5); err != nil || len(briefs)+len(stages) != 0 {
		t.Errorf("%v, %v, %v", briefs, stages, err)
	}
	if risks, err := m.Risks(ctx, Notice); err != nil || len(risks) != 0 {
		t.Errorf("%v, %v", risks, err)
	}
}
