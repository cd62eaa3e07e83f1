package billing

import (
	"encoding/csv"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/internal/dataset"
)

// rows reads a file without any of the package's code.
func rows(t *testing.T, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]string
	for _, record := range all[1:] {
		m := make(map[string]string)
		for i, name := range all[0] {
			m[strings.TrimPrefix(name, "\ufeff")] = record[i]
		}
		list = append(list, m)
	}
	return list
}

func rat(t *testing.T, s string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is not a number", s)
	}
	return r
}

// halfAway rounds to nanos, independently of the package.
func halfAway(r *big.Rat) int64 {
	x := new(big.Rat).Mul(r, big.NewRat(1e9, 1))
	half := big.NewRat(1, 2)
	if x.Sign() < 0 {
		half.Neg(half)
	}
	x.Add(x, half)
	return new(big.Int).Quo(x.Num(), x.Denom()).Int64()
}

func TestSamplesSumToTheirFiles(t *testing.T) {
	for _, c := range []struct {
		file, format, currency, billed, effective, list string
		rows                                            int64
	}{
		{"focus-1.0-sample.csv", "FOCUS 1.0", "USD", "BilledCost", "EffectiveCost", "ListCost", 1000},
		{"azure-ea-sample.csv", "Azure EA", "CAD", "CostInBillingCurrency", "CostInBillingCurrency", "", 27},
	} {
		t.Run(c.file, func(t *testing.T) {
			path := dataset.File(t, "billing/"+c.file)
			report, err := Scan(path, Options{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if report.Format != c.format || report.Imported != c.rows || report.Skipped != 0 || len(report.Totals) != 1 {
				t.Fatalf("%+v", report)
			}
			total := report.Totals[0]
			if total.Currency != c.currency {
				t.Errorf("currency %s", total.Currency)
			}
			for _, x := range []struct {
				column, exact string
				lines         string
			}{{c.billed, total.BilledExact, total.Billed}, {c.effective, total.EffectiveExact, total.Effective}, {c.list, total.ListExact, total.List}} {
				if x.column == "" {
					continue
				}
				exact, nanos := new(big.Rat), int64(0)
				for _, row := range rows(t, path) {
					if v := row[x.column]; v != "NULL" && v != "" {
						exact.Add(exact, rat(t, v))
						nanos += halfAway(rat(t, v))
					}
				}
				if rat(t, x.exact).Cmp(exact) != 0 || rat(t, x.lines).Cmp(big.NewRat(nanos, 1e9)) != 0 {
					t.Errorf("%s: %s and %s of lines, the file has %s and %d", x.column, x.exact, x.lines, exact.FloatString(20), nanos)
				}
				t.Logf("%s %s %s (lines: %s)", c.file, x.column, x.exact, x.lines)
			}
		})
	}
}
