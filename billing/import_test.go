package billing_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, test func(t *testing.T, s *sql.Store)) {
	open := func(t *testing.T, url string) *sql.Store {
		s, err := sql.Open(t.Context(), url, sql.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	t.Run("sqlite", func(t *testing.T) { test(t, open(t, "sqlite:"+filepath.Join(t.TempDir(), "usage.db"))) })
	t.Run("postgres", func(t *testing.T) {
		server := storetest.StartPostgres(t)
		test(t, open(t, server.NewDatabase(t)))
	})
}

const focusHeader = "BilledCost,BillingAccountId,BillingCurrency,ChargePeriodStart,ChargePeriodEnd,EffectiveCost,ListCost,ProviderName,ServiceName,ResourceId,ConsumedQuantity,ConsumedUnit,Tags\n"

// focusLine is a line of one resource on a day of September 2026.
func focusLine(day int, resource, cost string) string {
	return fmt.Sprintf(`%s,acc,USD,2026-09-%02dT00:00:00Z,2026-09-%02dT00:00:00Z,%s,%s,AWS,Storage,%s,1,GB,"{""env"":""prod""}"`+"\n", cost, day, day+1, cost, cost, resource)
}

func write(t *testing.T, text ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bill.csv")
	if err := os.WriteFile(path, []byte(strings.Join(text, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func billed(t *testing.T, s *sql.Store) (string, int64) {
	t.Helper()
	rows, err := s.SumBills(t.Context(), store.BillQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		return "0", 0
	}
	return rows[0].Billed.String(), rows[0].Rows
}

func wants(t *testing.T, s *sql.Store, sum string, rows int64) {
	t.Helper()
	if got, n := billed(t, s); got != sum || n != rows {
		t.Errorf("billed %s in %d rows, want %s in %d", got, n, sum, rows)
	}
}

func importer(s *sql.Store) *billing.Importer {
	return &billing.Importer{Bills: s, Now: func() time.Time { return time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC) }}
}

func imports(t *testing.T, m *billing.Importer, paths ...string) []*billing.Report {
	t.Helper()
	reports, err := m.Import(t.Context(), paths)
	if err != nil {
		t.Fatal(err)
	}
	return reports
}

func TestFilesAndRowsCountOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s *sql.Store) {
		a, b, c := focusLine(1, "a", "1.00000000001"), focusLine(1, "b", "2"), focusLine(2, "a", "-0.5")
		m := importer(s)
		half := write(t, focusHeader, a, b, b) // the same line twice is two charges
		imports(t, m, half)
		wants(t, s, "5.00000000001", 3)
		if r := imports(t, m, half); r[0].State != billing.StateBefore || r[0].Imported != 3 {
			t.Errorf("again: %+v", r[0])
		}
		wants(t, s, "5.00000000001", 3)
		// An export that overlaps adds what is new only.
		if r := imports(t, m, write(t, focusHeader, b, c, a, b)); r[0].Restated != 3 || r[0].Kept != 0 {
			t.Errorf("overlap: %+v", r[0])
		}
		wants(t, s, "4.50000000001", 4)
		// A corrected export restates, and keeps what it does not have unless it is to replace.
		if r := imports(t, m, write(t, focusHeader, focusLine(1, "a", "7"), b)); r[0].Restated != 2 || r[0].Kept != 2 {
			t.Errorf("corrected: %+v", r[0])
		}
		wants(t, s, "10.5", 4)
		m.Replace = true
		if r := imports(t, m, write(t, focusHeader, focusLine(1, "a", "7.1"))); r[0].Restated != 1 || r[0].Removed != 3 {
			t.Errorf("replaced: %+v", r[0])
		}
		wants(t, s, "7.1", 1)
		m.Replace, m.Again = false, true
		imports(t, m, half)
		wants(t, s, "5.00000000001", 3)
	})
}

// Files of one command are one bill: what stands in both is two charges.
func TestADeliveryOfSeveralFiles(t *testing.T) {
	onBoth(t, func(t *testing.T, s *sql.Store) {
		line := focusLine(1, "a", "1")
		p1, p2, p3 := write(t, focusHeader, line, line), write(t, focusHeader, line), write(t, focusHeader, line, focusLine(2, "a", "4"))
		m := importer(s)
		imports(t, m, p1, p2, p1)
		wants(t, s, "3", 3)
		imports(t, m, p1, p2, p3) // one more part of it
		wants(t, s, "8", 5)
		imports(t, m, write(t, focusHeader, line, line, line, line, focusLine(2, "a", "5")))
		wants(t, s, "9", 5)
	})
}

func TestAStoppedImportGoesOn(t *testing.T) {
	path := focusFile(t, 23_000)
	onBoth(t, func(t *testing.T, s *sql.Store) {
		ctx, stop := context.WithCancel(t.Context())
		m := importer(s)
		m.Progress = func(string, int64, int64) { stop() }
		if _, err := m.Import(ctx, []string{path}); !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped: %v", err)
		}
		wants(t, s, "0", 0) // what is half there does not count
		list, err := s.ListBills(t.Context())
		if err != nil || len(list) != 1 || list[0].Done || list[0].Position >= 23_000 {
			t.Fatalf("%+v %v", list, err)
		}
		at := list[0].Position
		m.Progress = nil
		r := imports(t, m, path)[0]
		t.Logf("went on behind row %d", at)
		if got, n := billed(t, s); got != r.Totals[0].BilledExact || n != 23_000 || r.Imported != 23_000 {
			t.Errorf("billed %s in %d rows, the file has %s", got, n, r.Totals[0].BilledExact)
		}
		// By any dimension the sums are the same.
		for _, by := range [][]string{{"service", "tag:feature", "day"}, {"model", "token_class"}, {"resource"}, {"account", "period", "file", "feature"}} {
			rows, err := s.SumBills(t.Context(), store.BillQuery{By: by})
			if err != nil {
				t.Fatal(err)
			}
			sum := rows[0].Billed
			for i := range rows[1:] {
				sum.Plus(&rows[i+1].Billed)
			}
			if sum.String() != r.Totals[0].BilledExact {
				t.Errorf("by %v: %s", by, sum.String())
			}
		}
	})
}

func TestABadFileLeavesNothing(t *testing.T) {
	s, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "usage.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var many strings.Builder
	for i := range 12_000 { // more than one transaction
		many.WriteString(focusLine(1+i%28, fmt.Sprint("r", i), "1"))
	}
	good := write(t, focusHeader, focusLine(1, "x", "1"))
	for name, c := range map[string]struct{ text, says string }{
		"a quote that is not closed": {focusHeader + many.String() + `1,acc,"USD` + "\n" + many.String(), "not closed"},
		"a quote inside of a value":  {focusHeader + many.String() + `1,a"cc,USD,2026-09-01,,,,,,,,,` + "\n", "line 12002, character 4: a quote stands inside"},
		"Latin-1":                    {focusHeader + many.String() + "1,acc,USD,2026-09-01,,,,Stra\xdfe,,,,,\n", "line 12002, column ProviderName: \"Stra\\xdfe\" is not UTF-8; if the file is Latin-1"},
		"no rows":                    {focusHeader, "the file is empty"},
		"nothing":                    {"", "the file is empty"},
		"no such columns":            {"a,b,c\n1,2,3\n", "the columns are those of no FOCUS"},
		"a missing column":           {"BilledCost,ChargePeriodStart\n1,2026-09-01\n", "FOCUS needs the column BillingCurrency"},
		"a column twice":             {"BilledCost,BilledCost,BillingCurrency,ChargePeriodStart\n", "twice, as columns 1 and 2"},
		"a delimiter of its own":     {strings.ReplaceAll(focusHeader, ",", "~") + "1~2\n", "the header has one column"},
		"rows that cannot be read":   {"BilledCost,BillingCurrency,ChargePeriodStart\nx,USD,2026-09-01\n", `no row could be read: line 2, column BilledCost: "x" is not a decimal number`},
	} {
		path := write(t, c.text)
		if _, err := importer(s).Import(t.Context(), []string{good, path}); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := s.ListBills(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("%s leaves %+v (%v)", name, list, err)
		}
		var lines int
		if rows, err := s.SumBills(t.Context(), store.BillQuery{}); err != nil || len(rows) != 0 {
			t.Errorf("%s leaves %d lines (%v)", name, lines, err)
		}
	}
}

func TestRowsThatAreSkippedAreNamed(t *testing.T) {
	path := write(t, focusHeader, focusLine(1, "a", "1"), focusLine(1, "b", "1,5"), focusLine(1, "c", `"1,5"`), focusLine(1, "d", "99999999999"), "\n",
		strings.Replace(focusLine(1, "e", "1"), "USD", "dollars", 1), strings.Replace(focusLine(1, "f", "1"), "2026-09-01T00:00:00Z", "21/9/2026", 1),
		strings.Replace(focusLine(1, "g", ""), "acc", "acc", 1), strings.Replace(focusLine(3, "h", "-2.5"), `""env"":`, `""env""`, 1), focusLine(4, "i", "-0.25"))
	r, err := billing.Scan(path, billing.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Read != 9 || r.Imported != 3 || r.Skipped != 6 || r.Totals[0].BilledExact != "-1.75" {
		t.Errorf("%+v", r)
	}
	var all []string
	for _, x := range append(r.Reasons, r.Warnings...) {
		all = append(all, fmt.Sprintf("%s (%d): %s", x.Reason, x.Rows, strings.Join(x.First, "; ")))
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"number of columns (1): line 3: has 16 columns, the header has 13", `wrong number (2): line 4, column BilledCost: "1,5" is not a decimal number such as 12.50: it has a comma`,
		"line 5: amount does not fit", `line 7, column BillingCurrency: "DOLLARS" is not an ISO 4217 code`, `line 8, column ChargePeriodStart: "21/9/2026" is not a date: with slashes the month comes first`,
		"no amount (1): line 9, column BilledCost: is empty", "tags that cannot be read (1): line 10, column Tags"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	s, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "usage.db"), sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := importer(s)
	m.Strict = true
	if _, err := m.Import(t.Context(), []string{path}); err == nil || !strings.Contains(err.Error(), "line 3: has 16 columns") {
		t.Errorf("strict: %v", err)
	}
}
