package sql

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store/storetest"
)

// BenchmarkAllocation asks for 90 days of 1,000 features x 4 tiers x 10 cohorts, of which every one is used in every hour:
// the last 14 days are kept by the hour.
func BenchmarkAllocation(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { allocation(b, "sqlite:"+filepath.Join(b.TempDir(), "usage.db")) })
	b.Run("postgres", func(b *testing.B) { allocation(b, storetest.StartPostgres(b).NewDatabase(b)) })
}

func allocation(b *testing.B, url string) {
	s, err := Open(b.Context(), url, Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	now := time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)
	from := now.AddDate(0, 0, -90)
	hourly := floorDay(now.AddDate(0, 0, -14))
	fill(b, s, from, hourly, now)
	start := time.Now()
	if err := s.Compact(b.Context(), hourly); err != nil {
		b.Fatal(err)
	}
	b.Logf("compacted in %s", time.Since(start).Round(time.Millisecond))
	q := usage.Query{From: from, To: now, By: []string{usage.DimFeature, usage.DimTier, usage.DimCohort}}
	if _, _, err := s.Sum(b.Context(), q); err != nil { // reads the dims
		b.Fatal(err)
	}
	for _, by := range [][]string{q.By, {usage.DimTeam, usage.DimTier}} {
		b.Run(fmt.Sprint(len(by), " dimensions"), func(b *testing.B) {
			q.By = by
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for b.Loop() {
				rows, _, err := s.Sum(b.Context(), q)
				if err != nil || len(by) == 3 && len(rows) != 40_000 {
					b.Fatalf("%d rows, %v", len(rows), err)
				}
			}
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.Sys)/(1<<20), "MiB-sys")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/(1<<20), "MiB/op")
		})
	}
}

// fill writes a row for each hour, and for the days before hourly one for each day.
func fill(b *testing.B, s *Store, from, hourly, to time.Time) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	var packs [8][]byte // values differ from hour to hour
	err := s.transact(b.Context(), func(t *tx) error {
		ids, err := s.intern(t)
		if err != nil {
			return err
		}
		var dims []int64
		for f := range 1000 {
			for tier := range 4 {
				for cohort := range 10 {
					id, err := ids.id(&usage.Attribution{
						Feature: fmt.Sprint("feature-", f), Owner: fmt.Sprint("owner-", f%97), Team: fmt.Sprint("team-", f%20), Budget: fmt.Sprint("budget-", f),
						BudgetPath: fmt.Sprintf("org/dep-%d/budget-%d", f%20, f), Cohort: fmt.Sprint("cohort-", cohort), Tier: fmt.Sprint("tier-", tier),
						Model: fmt.Sprint("model-", tier), Provider: "p", Effect: "allow", Currency: "USD", Labels: map[string]string{"env": "prod"},
					})
					if err != nil {
						return err
					}
					dims = append(dims, id)
				}
			}
		}
		for i := range packs {
			by := map[int64]*sums{}
			for _, id := range dims {
				calls := 1 + r.Int64N(200)
				totals := usage.Totals{Calls: calls, Successes: calls * 9 / 10, Failures: calls / 20}
				totals.Usage.InputTokens, totals.Usage.CacheReadTokens, totals.Usage.OutputTokens = calls*r.Int64N(4000), calls*r.Int64N(2000), calls*r.Int64N(500)
				totals.Cost.Input, totals.Cost.Output = 1+7*1e5*(1+totals.Cost.Input), 3e6
				totals.Saved.CacheRead = 1234567
				by[id] = &sums{}
				if err := by[id].add(&totals); err != nil {
					return err
				}
			}
			packs[i] = pack(by)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	bytes, rows := 0, 0
	err = s.transact(b.Context(), func(t *tx) error {
		for at := from; at.Before(to); rows++ {
			p := packs[rows%len(packs)]
			bytes += len(p)
			if _, err := t.insert(levelHour, at.Unix(), p); err != nil {
				return err
			}
			if at.Before(hourly) {
				at = floorDay(at).AddDate(0, 0, 1)
			} else {
				at = at.Add(time.Hour)
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d rows of %d attributions, %d MiB", rows, 40_000, bytes>>20)
}
