package main

import (
	"encoding/csv"
	"flag"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var updateGolden = flag.Bool("update", false, "write the golden files of reports anew")

func golden(t *testing.T, name string, write func(io.Writer)) string {
	t.Helper()
	var b strings.Builder
	write(&b)
	file := filepath.Join("testdata", name)
	if *updateGolden {
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s: run go test -update if this is right:\n%s", name, b.String())
	}
	return b.String()
}

func stampOf(s string) *timestamppb.Timestamp {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return timestamppb.New(t)
}

func someScope(where ...string) *pb.ReportScope {
	return &pb.ReportScope{
		StartTime: stampOf("2026-11-01T00:00:00Z"), EndTime: stampOf("2026-12-01T00:00:00Z"), Period: "2026-11", TimeZone: "UTC",
		CreateTime: stampOf("2026-11-23T14:25:07Z"), AsOfTime: stampOf("2026-11-23T14:25:06Z"), Where: where,
		Positions: []*pb.LedgerPosition{{Owner: "5f2a9c01d7", Batch: 812}, {Owner: "77b0e1aa42", Batch: 9}},
	}
}

func someTotals(cost, calls int64) *pb.UsageTotals {
	return &pb.UsageTotals{
		CostNanos: cost, Calls: calls, RefusedCalls: calls / 100, Successes: calls / 2, Failures: calls / 10, ForcedNanos: cost / 50,
		Components:          &pb.CostComponents{InputNanos: cost / 2, ContextOverheadNanos: cost / 10, OutputNanos: cost - cost/2 - cost/10},
		Usage:               &pb.Usage{InputTokens: 900 * calls, CacheReadTokens: 300 * calls, OutputTokens: 200 * calls},
		SavedCacheReadNanos: cost / 5, CacheWritePremiumNanos: cost / 40, SavedDowngradeNanos: cost / 8,
	}
}

func someAllocation() *pb.Allocation {
	row := func(cost, calls int64, share int32, keys ...string) *pb.AllocationRow {
		return &pb.AllocationRow{Keys: keys, Totals: someTotals(cost, calls), SharePermille: share, Combinations: 1}
	}
	rest := row(1_000_000, 3, 1)
	rest.Combinations = 17
	return &pb.Allocation{
		Scope: someScope("team=search"), By: []string{"cohort", "label:product_line"},
		Tables: []*pb.AllocationTable{
			{
				Currency: "EUR", Rows: []*pb.AllocationRow{row(4_500, 1, 1000, "pro", "a\x1b[31m")}, Total: row(4_500, 1, 1000),
				Gaps: []*pb.DimensionGap{{Dimension: "cohort"}, {Dimension: "label:product_line"}},
			},
			{
				Currency: "USD",
				Rows: []*pb.AllocationRow{
					row(1_234_567_890_123, 1_500_000, 880, "pro", "=search"), row(160_000_000_000, 20_000, 114, "", "chat"), row(7_000_000_000, 900, 5, "(other)", ""),
				},
				Rest: rest, Total: row(1_401_568_890_123, 1_520_903, 1000), AdjustmentsNanos: -250_000_001,
				Gaps: []*pb.DimensionGap{
					{Dimension: "cohort", UnallocatedNanos: 160_000_000_000, UnallocatedPermille: 114, OtherNanos: 7_000_000_000, OtherPermille: 5},
					{Dimension: "label:product_line", UnallocatedNanos: 7_000_000_000, UnallocatedPermille: 5},
				},
			},
		},
		Ledger: []*pb.LedgerComparison{
			{Budget: "budgets/acme", Period: "2026-11", Currency: "USD", LedgerNanos: 1_401_818_890_124, ReportedNanos: 1_401_818_890_124},
			{Budget: "budgets/beta", Period: "2026-11", Currency: "EUR", LedgerNanos: 9_000, ReportedNanos: 4_500, DifferenceNanos: 4_500},
		},
	}
}

func TestAllocationText(t *testing.T) {
	golden(t, "allocation.txt", func(w io.Writer) { printAllocation(w, someAllocation(), false) })
	golden(t, "allocation_components.txt", func(w io.Writer) { printAllocation(w, someAllocation(), true) })
	golden(t, "allocation_empty.txt", func(w io.Writer) { printAllocation(w, &pb.Allocation{Scope: someScope("team=search")}, false) })
}

// The rows of a file add up to the report's total, and decimals equal nanos.
func TestAllocationCSV(t *testing.T) {
	a := someAllocation()
	text := golden(t, "allocation.csv", func(w io.Writer) {
		if err := csv.NewWriter(w).WriteAll(allocationRows(a)); err != nil {
			t.Fatal(err)
		}
	})
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	sums := map[string]int64{}
	for _, row := range rows[1:] {
		nanos, _ := strconv.ParseInt(row[column["cost_nanos"]], 10, 64)
		decimal, ok := new(big.Rat).SetString(row[column["cost"]])
		if !ok || decimal.Cmp(big.NewRat(nanos, 1e9)) != 0 {
			t.Errorf("%s nanos are %s", row[column["cost_nanos"]], row[column["cost"]])
		}
		sums[row[column["currency"]]] += nanos
	}
	for _, table := range a.GetTables() {
		if sums[table.GetCurrency()] != table.GetTotal().GetTotals().GetCostNanos() {
			t.Errorf("%s add up to %d", table.GetCurrency(), sums[table.GetCurrency()])
		}
	}
	if rows := allocationRows(&pb.Allocation{By: []string{"team"}}); len(rows) != 1 || rows[0][4] != "team" {
		t.Errorf("nothing is %v", rows)
	}
}

func someTrend() *pb.Trend {
	forecast := &pb.Forecast{Period: "2026-11", EndTime: stampOf("2026-12-01T00:00:00Z"), SettledNanos: 30e9, ExpectedNanos: 42_500_000_000, LowNanos: new(int64), HighNanos: new(int64), Method: "weekday_linear", Days: 50}
	*forecast.LowNanos, *forecast.HighNanos = 40e9, 45e9
	grew, delta := int64(200), int64(-1e9)
	return &pb.Trend{
		Scope: someScope(), By: []string{"feature"}, Step: pb.ReportStep_REPORT_STEP_WEEK,
		PreviousStartTime: stampOf("2026-10-01T00:00:00Z"), PreviousEndTime: stampOf("2026-10-23T15:00:00Z"),
		Tables: []*pb.TrendTable{{
			Currency: "USD", MoreSeries: 1,
			Series: []*pb.TrendSeries{{Keys: []string{"chat"}, CostNanos: 20e9, PreviousCostNanos: 0, ChangeNanos: 20e9, RunRateNanos: 1e9, Calls: 7, Points: []*pb.TrendPoint{{StartTime: stampOf("2026-11-02T00:00:00Z"), CostNanos: 20e9, Calls: 7}}}},
			Total: &pb.TrendSeries{CostNanos: 30e9, PreviousCostNanos: 25e9, ChangeNanos: 5e9, ChangePermille: &grew, RunRateNanos: 1_500_000_000, Forecast: forecast, Points: []*pb.TrendPoint{
				{StartTime: stampOf("2026-11-01T00:00:00Z"), CostNanos: 15_500_000_000, Calls: 1200, Partial: true},
				{StartTime: stampOf("2026-11-02T00:00:00Z"), CostNanos: 14_500_000_000, Calls: 1100, ChangeNanos: &delta},
			}},
			RunOuts: []*pb.BudgetRunOut{{Budget: "budgets/search", Owner: &pb.Owner{Name: "Kim"}, RemainingNanos: 3e9, RunOutTime: stampOf("2026-11-25T07:30:00Z"), EndTime: stampOf("2026-12-01T00:00:00Z")}},
		}},
	}
}

func TestTrendText(t *testing.T) {
	golden(t, "trend.txt", func(w io.Writer) { printTrend(w, someTrend()) })
	golden(t, "trend.csv", func(w io.Writer) { _ = csv.NewWriter(w).WriteAll(trendRows(someTrend())) })
}

func someUnits() []*pb.UnitEconomicsRow {
	n := func(v int64) *int64 { return &v }
	return []*pb.UnitEconomicsRow{
		{Keys: []string{"chat"}, CostNanos: 10e9, Calls: 3000, Successes: 1500, Failures: 500, SuccessPermille: n(750), CostPer_1000SuccessesNanos: n(6_666_666_667), TargetPer_1000SuccessesNanos: n(5e9),
			OverTargetNanos: n(2_500_000_000), PreviousCostPer_1000SuccessesNanos: n(6e9), ChangePermille: n(111), CostPerCallNanos: n(3_333_333), InputTokensPer_1000Calls: n(1_234_567), OutputTokensPer_1000Calls: n(99_950), RetrievalHopsPer_1000Calls: n(2000), ToolCallsPer_1000Calls: n(40)},
		{Keys: []string{""}, CostNanos: 1e6, Calls: 1, CostPerCallNanos: n(1e6), InputTokensPer_1000Calls: n(0), OutputTokensPer_1000Calls: n(0), RetrievalHopsPer_1000Calls: n(0), ToolCallsPer_1000Calls: n(0)},
		{Keys: []string{"mail"}},
	}
}

func TestUnitEconomicsText(t *testing.T) {
	rows := someUnits()
	total := &pb.UnitEconomicsRow{CostNanos: 10_001_000_000, Calls: 3001, Successes: 1500, Failures: 500}
	u := &pb.UnitEconomics{Scope: someScope(), By: []string{"feature"}, PreviousStartTime: stampOf("2026-10-01T00:00:00Z"), PreviousEndTime: stampOf("2026-10-23T15:00:00Z"),
		Tables: []*pb.UnitEconomicsTable{{Currency: "USD", Rows: rows, Total: total, MoreRows: 2}}}
	golden(t, "units.txt", func(w io.Writer) { printUnits(w, u) })
	golden(t, "units.csv", func(w io.Writer) { _ = csv.NewWriter(w).WriteAll(unitRows(u)) })
}

func someRisk() *pb.BudgetRisk {
	return &pb.BudgetRisk{
		Budget: "budgets/search", Owner: &pb.Owner{Name: "Kim", Email: "kim@example.com"}, Severity: pb.RiskSeverity_RISK_SEVERITY_HIGH,
		Reasons: []pb.RiskReason{pb.RiskReason_RISK_REASON_FORECAST, pb.RiskReason_RISK_REASON_THRESHOLD, pb.RiskReason_RISK_REASON_FORCED}, Period: "2026-11",
		EndTime: stampOf("2026-12-01T00:00:00Z"), Currency: "USD", LimitNanos: 100e9, SettledNanos: 81e9, ForcedNanos: 5e8, SettledPermille: 810, ThresholdPermille: 800,
		Forecast: &pb.Forecast{ExpectedNanos: 117e9, Method: "mean"}, RunRateNanos: 5e9, RunOutTime: stampOf("2026-11-27T10:00:00Z"), AffordableRateNanos: 2_570_000_000,
		Actions: []string{"Spend 2.57 USD a day instead of 5.00.", "Escalate: Noor."},
	}
}

func TestBudgetsAtRiskText(t *testing.T) {
	a := &pb.BudgetsAtRisk{Scope: someScope(), Budgets: []*pb.BudgetRisk{someRisk()}, MoreBudgets: 2, Checked: 40}
	golden(t, "risks.txt", func(w io.Writer) { printRisks(w, a) })
	golden(t, "risks.csv", func(w io.Writer) { _ = csv.NewWriter(w).WriteAll(riskRows(a)) })
	golden(t, "risks_none.txt", func(w io.Writer) { printRisks(w, &pb.BudgetsAtRisk{Scope: someScope(), Checked: 40}) })
}

func TestExecutiveText(t *testing.T) {
	grew := int64(-83)
	a := &pb.ExecutiveSummary{
		Scope: someScope(), PreviousStartTime: stampOf("2026-10-01T00:00:00Z"), PreviousEndTime: stampOf("2026-10-23T15:00:00Z"),
		Tables: []*pb.ExecutiveTable{{
			Currency: "USD", Totals: someTotals(1_100e9, 52_000), PreviousCostNanos: 1_200e9, ChangeNanos: -100e9, ChangePermille: &grew, SavedNanos: 330e9, AdjustmentsNanos: -1,
			Forecast: someTrend().GetTables()[0].GetTotal().GetForecast(), TargetsMet: 1, TargetsMissed: 1, Targets: someUnits()[:1],
			Movers: []*pb.Mover{{Feature: "chat|v2 <b>", CostNanos: 700e9, PreviousCostNanos: 820e9, ChangeNanos: -120e9, ChangePermille: &grew}, {Feature: "new", CostNanos: 20e9, ChangeNanos: 20e9}},
		}},
		BudgetsAtRisk: []*pb.BudgetRisk{someRisk()}, MoreBudgetsAtRisk: 3,
		Stages: []*pb.StageSummary{{Features: 1}, {Stage: pb.Stage_STAGE_PILOT, Features: 2, Costs: []*pb.StageCost{{Currency: "EUR", CostNanos: 5e8}, {Currency: "USD", CostNanos: 1_100e9}}}},
	}
	golden(t, "executive.txt", func(w io.Writer) { executivePage(a).text(w) })
	golden(t, "executive.md", func(w io.Writer) { executivePage(a).markdown(w) })
	golden(t, "executive.csv", func(w io.Writer) { _ = csv.NewWriter(w).WriteAll(executiveRows(a)) })
	golden(t, "executive_empty.txt", func(w io.Writer) { executivePage(&pb.ExecutiveSummary{Scope: someScope()}).text(w) })
}

func TestReportCommandLineMistakes(t *testing.T) {
	c := cli{t: t}
	c.fails(exitUsage, []string{`unknown report "alocation"`, "allocation, budgets-at-risk, executive"}, "report", "alocation")
	c.fails(exitUsage, []string{"--last", `"soon"`, "7d"}, "report", "allocation", "--last", "soon")
	c.fails(exitUsage, []string{"--from", `"yesterday"`, "2026-10-01"}, "report", "trend", "--from", "yesterday")
	c.fails(exitUsage, []string{"--month", "2026-10"}, "report", "executive", "--month", "October")
	c.fails(exitUsage, []string{"--step", "hour, day, week or month"}, "report", "trend", "--step", "minute")
	c.fails(exitUsage, []string{"--severity", "notice, warning, high, critical"}, "report", "budgets-at-risk", "--severity", "bad")
	c.fails(exitUsage, []string{`"xml"`, "csv", "markdown"}, "report", "executive", "-o", "xml")
	c.fails(exitUsage, []string{`"markdown"`}, "report", "allocation", "-o", "markdown")
}
