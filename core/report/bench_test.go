package report

import (
	"fmt"
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// BenchmarkAllocate folds 1,000 features x 4 tiers x 10 cohorts.
func BenchmarkAllocate(b *testing.B) {
	rows := make([]usage.Row, 0, 40_000)
	for f := range 1000 {
		for tier := range 4 {
			for cohort := range 10 {
				n := int64(f*37+tier*11+cohort) % 9973
				rows = append(rows, usage.Row{
					Keys: []string{fmt.Sprint("feature-", f), fmt.Sprint("tier-", tier), fmt.Sprint("cohort-", cohort)}, Currency: "USD",
					Totals: usage.Totals{Calls: n, Cost: usage.Cost{Input: money.Nanos(n * 1e6), Output: money.Nanos(n * 3e6)}},
				})
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Allocate([]string{"feature", "tier", "cohort"}, rows, DefaultRows); err != nil {
			b.Fatal(err)
		}
	}
}
