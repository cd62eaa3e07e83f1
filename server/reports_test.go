package server

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

// reportRig is a server with a usage store.
type reportRig struct {
	*gateRig
	reports chartergatev1.ReportServiceClient
	kept    store.Usage
	batches uint64
}

func startReports(t *testing.T, url string) *reportRig {
	t.Helper()
	kept, err := sql.Open(t.Context(), url, sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kept.Close() })
	r := &reportRig{kept: kept}
	r.gateRig = startGate(t, func(c *Config) {
		c.Reports = NewReportService(kept, control, c.Statuses.(*BudgetStatusService).gate, c.Now)
	})
	r.reports = chartergatev1.NewReportServiceClient(r.conn)
	return r
}

func sqliteURL(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "usage.db") }

// count puts usage into the store, as what was settled at a time.
func (r *reportRig) count(t *testing.T, at time.Time, a usage.Attribution, totals usage.Totals) {
	t.Helper()
	if a.Currency == "" {
		a.Currency = "USD"
	}
	roll := usage.Rollup{Hour: at.Truncate(time.Hour), Newest: at, Attribution: a, Totals: totals}
	if err := r.kept.Apply(t.Context(), []store.BatchID{{Owner: "owner-1", N: r.batches}}, []usage.Rollup{roll}); err != nil {
		t.Fatal(err)
	}
	r.batches++
}

func chatted(cohort string) usage.Attribution {
	return usage.Attribution{Feature: "chat", Owner: "Dana Fox", Team: "Support", Budget: "support", BudgetPath: "acme/support", Cohort: cohort, Tier: "economy", Model: "small", Provider: "acme", Effect: "allow"}
}

// costing are calls that cost so much in all, half of them successes.
func costing(cost int64, calls int64) usage.Totals {
	return usage.Totals{
		Calls: calls, Successes: calls / 2, Failures: calls - calls/2, Cost: usage.Cost{Input: money.Nanos(cost - cost/4), Output: money.Nanos(cost / 4)},
		Usage: usage.Usage{InputTokens: 10 * calls, OutputTokens: 5 * calls, RetrievalHops: 2 * calls, ToolCalls: map[string]int64{"web_search": calls}},
	}
}

// What the ledger settles, reports say, by every dimension and in both databases.
func TestReportsEqualTheLedger(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { reportsEqualTheLedger(t, sqliteURL(t)) })
	t.Run("PostgreSQL", func(t *testing.T) {
		reportsEqualTheLedger(t, storetest.StartPostgres(t).NewDatabase(t))
	})
}

func reportsEqualTheLedger(t *testing.T, url string) {
	r := startReports(t, url)
	r.chat(t, 900e9)
	var total, late int64
	for i, cohort := range []string{"", "free", "pro", "pro"} {
		s := r.settle(t, r.hold(t, aCall(1000, 100)), used(int64(900+i), 100))
		total += s.GetCostNanos()
		if i < 3 {
			totals := costing(s.GetCostNanos(), 1)
			totals.Usage = usage.Usage{InputTokens: int64(900 + i), OutputTokens: 100}
			r.count(t, noon, chatted(cohort), totals)
		} else {
			late = s.GetCostNanos() // not counted yet
		}
	}
	for _, d := range append(usage.Dimensions, "label:env") {
		a, err := r.reports.GetAllocation(t.Context(), &chartergatev1.GetAllocationRequest{By: []string{d}, Verify: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(a.GetTables()) != 1 || len(a.GetLedger()) != 1 {
			t.Fatalf("by %s: %v", d, a)
		}
		var sum int64
		var share int32
		for _, row := range a.GetTables()[0].GetRows() {
			sum += row.GetTotals().GetCostNanos()
			share += row.GetSharePermille()
		}
		l := a.GetLedger()[0]
		if sum != total-late || a.GetTables()[0].GetTotal().GetTotals().GetCostNanos() != sum || share != 1000 ||
			l.GetBudget() != "budgets/acme" || l.GetLedgerNanos() != total || l.GetReportedNanos() != sum || l.GetDifferenceNanos() != late {
			t.Errorf("by %s: %d of %d, ledger %v", d, sum, total, l)
		}
	}
	r.count(t, noon, chatted("pro"), costing(late, 1))
	// An adjustment is in the report, apart, and not in the ledger.
	adjusted := chatted("pro")
	adjusted.Effect = "adjustment"
	r.count(t, noon, adjusted, usage.Totals{Cost: usage.Cost{Other: -7}})
	a, err := r.reports.GetAllocation(t.Context(), &chartergatev1.GetAllocationRequest{By: []string{"cohort"}, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	table := a.GetTables()[0]
	if table.GetTotal().GetTotals().GetCostNanos() != total-7 || table.GetAdjustmentsNanos() != -7 || a.GetLedger()[0].GetDifferenceNanos() != 0 {
		t.Errorf("%v, %v", table, a.GetLedger())
	}
	rows := table.GetRows()
	if last := rows[len(rows)-1]; last.GetKeys()[0] != "" || table.GetGaps()[0].GetUnallocatedNanos() != last.GetTotals().GetCostNanos() {
		t.Errorf("the unallocated rest is not the last row: %v", rows)
	}
	if p := a.GetScope().GetPositions(); len(p) != 1 || p[0].GetOwner() != "owner-1" || p[0].GetBatch() != r.batches-1 || !a.GetScope().GetAsOfTime().AsTime().Equal(noon) {
		t.Errorf("covers %v", a.GetScope())
	}
}

func TestReportQuestionsThatCannotBe(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	ask := func(q *chartergatev1.GetAllocationRequest) error {
		_, err := r.reports.GetAllocation(t.Context(), q)
		return err
	}
	half := timestamppb.New(noon.Add(30 * time.Minute))
	for _, c := range []struct {
		err   error
		field string
		says  string
	}{
		{ask(&chartergatev1.GetAllocationRequest{By: []string{"colour"}}), "by", "label:KEY"},
		{ask(&chartergatev1.GetAllocationRequest{By: []string{"team", "team"}}), "by", "twice"},
		{ask(&chartergatev1.GetAllocationRequest{Where: []string{"team"}}), "where", "team=search"},
		{ask(&chartergatev1.GetAllocationRequest{Window: &chartergatev1.ReportWindow{StartTime: half}}), "window.start_time", "whole hour"},
		{ask(&chartergatev1.GetAllocationRequest{Window: &chartergatev1.ReportWindow{Last: durationpb.New(time.Minute)}}), "window.last", "whole hours"},
		{ask(&chartergatev1.GetAllocationRequest{Window: &chartergatev1.ReportWindow{Period: "2026-13"}}), "window.period", "2026-13"},
		{ask(&chartergatev1.GetAllocationRequest{MaxRows: 10_001}), "max_rows", "10000"},
		{second(r.reports.GetTrend(t.Context(), &chartergatev1.GetTrendRequest{ForecastPeriod: "soon"})), "forecast_period", "this-month"},
	} {
		refused(t, c.err, codes.InvalidArgument, chartergatev1.ErrorReason_ERROR_REASON_INVALID, map[string]string{"field": c.field}, c.says)
	}
	_, err := r.reports.GetBudgetsAtRisk(t.Context(), &chartergatev1.GetBudgetsAtRiskRequest{Budget: "budgets/gone"})
	refused(t, err, codes.NotFound, chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND, nil, "budgets/gone")
	// Sums that do not fit are an error, not a wrong sum.
	r.count(t, noon, chatted(""), usage.Totals{Cost: usage.Cost{Input: 1<<63 - 1}})
	r.count(t, noon.Add(-time.Hour), chatted("pro"), usage.Totals{Cost: usage.Cost{Output: 1 << 62}})
	refused(t, ask(&chartergatev1.GetAllocationRequest{By: []string{"cohort"}}), codes.OutOfRange, chartergatev1.ErrorReason_ERROR_REASON_AMOUNT_OVERFLOW, nil)
}

// A server without a usage store says so.
func TestReportsWithoutAStore(t *testing.T) {
	r := start(t)
	_, err := chartergatev1.NewReportServiceClient(r.conn).GetAllocation(t.Context(), &chartergatev1.GetAllocationRequest{})
	if err == nil || !strings.Contains(err.Error(), "Unimplemented") {
		t.Error(err)
	}
}

// history counts 20 days up to now: chat costs 1 a day, search twice as much and growing, mail has no success.
func (r *reportRig) history(t *testing.T) {
	t.Helper()
	r.apply(t, daily("acme", "", 1000e9), daily("support", "acme", 900e9), daily("search", "acme", 3e9, func(b *chartergatev1.Budget) {
		b.Period = &chartergatev1.Period{Calendar: chartergatev1.CalendarPeriod_CALENDAR_PERIOD_MONTH}
	}), allTiers("chat", "support", func(c *chartergatev1.Charter) { c.TargetCostPer_1000SuccessesNanos = 150e9 }),
		allTiers("search", "search", func(c *chartergatev1.Charter) {
			c.TargetCostPer_1000SuccessesNanos = 1000e9
			c.Stage = chartergatev1.Stage_STAGE_PILOT
			c.Escalation = []*chartergatev1.EscalationStep{{Owner: &chartergatev1.Owner{Name: "Noor Haddad"}}}
		}))
	for i := range 20 {
		at := noon.AddDate(0, 0, -i)
		r.count(t, at, chatted([]string{"", "free"}[i%2]), costing(1e9, 20))
		search := chatted("")
		search.Feature, search.Budget, search.BudgetPath = "search", "search", "acme/search"
		r.count(t, at, search, costing(2e9+int64(20-i)*1e8, 10))
		mail := chatted("")
		mail.Feature, mail.Currency = "mail", "EUR"
		r.count(t, at, mail, usage.Totals{Calls: 1, Cost: usage.Cost{Other: 5e8}})
	}
}

func TestTrendReport(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.history(t)
	a, err := r.reports.GetTrend(t.Context(), &chartergatev1.GetTrendRequest{
		Window: &chartergatev1.ReportWindow{Period: "this-month"}, By: []string{"feature"}, Step: chartergatev1.ReportStep_REPORT_STEP_DAY,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.GetTables()) != 2 || a.GetTables()[0].GetCurrency() != "EUR" {
		t.Fatalf("%v", a)
	}
	usd := a.GetTables()[1]
	var sum int64
	for _, p := range usd.GetTotal().GetPoints() {
		sum += p.GetCostNanos()
	}
	var parts int64
	for _, s := range usd.GetSeries() {
		parts += s.GetCostNanos()
	}
	if len(usd.GetTotal().GetPoints()) != 23 || sum != usd.GetTotal().GetCostNanos() || parts != sum || usd.GetSeries()[0].GetKeys()[0] != "search" {
		t.Errorf("%d points with %d, series with %d: %v", len(usd.GetTotal().GetPoints()), sum, parts, usd)
	}
	f := usd.GetSeries()[0].GetForecast()
	if f.GetMethod() != "linear" || f.GetPeriod() != "2026-11" || f.GetDays() != 19 || f.GetSettledNanos() != usd.GetSeries()[0].GetCostNanos() ||
		f.GetExpectedNanos() <= f.GetSettledNanos() || f.GetLowNanos() > f.GetExpectedNanos() || f.GetHighNanos() < f.GetExpectedNanos() {
		t.Errorf("forecast %v", f)
	}
	// 3 a month for search are used up within a day.
	out := usd.GetRunOuts()
	if len(out) != 1 || out[0].GetBudget() != "budgets/search" || !out[0].GetRunOutTime().AsTime().Before(noon.Add(24*time.Hour)) || out[0].GetRemainingNanos() != 3e9 {
		t.Errorf("run out: %v", out)
	}
	if b, err := r.reports.GetTrend(t.Context(), &chartergatev1.GetTrendRequest{Where: []string{"feature=chat"}}); err != nil || len(b.GetTables()[0].GetRunOuts()) != 0 {
		t.Errorf("chat is not charged to search: %v, %v", b.GetTables()[0].GetRunOuts(), err)
	}
	eur := a.GetTables()[0].GetTotal()
	if eur.GetRunRateNanos() != 5e8 || eur.GetForecast().GetMethod() != "mean" || len(a.GetTables()[0].GetRunOuts()) != 0 {
		t.Errorf("%v", eur)
	}
}

func TestUnitEconomicsReport(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.history(t)
	a, err := r.reports.GetUnitEconomics(t.Context(), &chartergatev1.GetUnitEconomicsRequest{Window: &chartergatev1.ReportWindow{Last: durationpb.New(10 * 24 * time.Hour)}})
	if err != nil {
		t.Fatal(err)
	}
	mail, usd := a.GetTables()[0].GetRows()[0], a.GetTables()[1]
	if mail.CostPer_1000SuccessesNanos != nil || mail.SuccessPermille != nil || mail.TargetPer_1000SuccessesNanos != nil || mail.GetCostPerCallNanos() != 5e8 {
		t.Errorf("mail without a success: %v", mail)
	}
	search, chat := usd.GetRows()[0], usd.GetRows()[1]
	if chat.GetCostPer_1000SuccessesNanos() != 100e9 || chat.GetOverTargetNanos() != -5e9 || chat.GetSuccessPermille() != 500 || chat.GetChangePermille() != 0 ||
		chat.GetCostPerCallNanos() != 5e7 || chat.GetInputTokensPer_1000Calls() != 10_000 || chat.GetRetrievalHopsPer_1000Calls() != 2000 || chat.GetToolCallsPer_1000Calls() != 1000 {
		t.Errorf("chat: %v", chat)
	}
	if search.GetCostPer_1000SuccessesNanos() != search.GetCostNanos()*20 || search.GetChangePermille() <= 0 || search.GetTargetPer_1000SuccessesNanos() != 1000e9 {
		t.Errorf("search: %v", search)
	}
	// Of both, the target is weighted by successes: 100 of chat at 150, 50 of search at 1,000.
	if total := usd.GetTotal(); total.GetTargetPer_1000SuccessesNanos() != 433_333_333_333 || total.GetSuccesses() != 150 {
		t.Errorf("total: %v", total)
	}
	// Without features as rows, targets are still those of the features.
	a, err = r.reports.GetUnitEconomics(t.Context(), &chartergatev1.GetUnitEconomicsRequest{By: []string{"team"}, Where: []string{"feature=chat"}})
	if err != nil || a.GetTables()[0].GetRows()[0].GetTargetPer_1000SuccessesNanos() != 150e9 {
		t.Errorf("%v, %v", a, err)
	}
}

func TestBudgetsAtRiskReport(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.history(t)
	call := aCall(1000, 100)
	call.Feature = "search"
	r.settle(t, r.hold(t, call), used(1000, 450)) // 1.9 of 3, more than was held
	a, err := r.reports.GetBudgetsAtRisk(t.Context(), &chartergatev1.GetBudgetsAtRiskRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if a.GetChecked() != 3 || len(a.GetBudgets()) < 1 || a.GetBudgets()[0].GetBudget() != "budgets/search" {
		t.Fatalf("%v", a)
	}
	b := a.GetBudgets()[0]
	reasons := []chartergatev1.RiskReason{chartergatev1.RiskReason_RISK_REASON_FORECAST, chartergatev1.RiskReason_RISK_REASON_FORCED}
	if b.GetSeverity() != chartergatev1.RiskSeverity_RISK_SEVERITY_CRITICAL || b.GetOwner().GetName() != "Dana Fox" || len(b.GetReasons()) != 2 ||
		b.GetReasons()[0] != reasons[0] || b.GetReasons()[1] != reasons[1] || b.GetTopFeatures()[0].GetFeature() != "search" {
		t.Errorf("%v", b)
	}
	out := b.GetRunOutTime().AsTime()
	if !out.After(noon) || out.After(noon.Add(24*time.Hour)) {
		t.Errorf("runs out %s", out)
	}
	text := strings.Join(b.GetActions(), "\n")
	for _, want := range []string{"a day instead of", "raise the limit by", "settled above its holds", "Feature search spends 100.0%", "Escalate: Noor Haddad."} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
	a, err = r.reports.GetBudgetsAtRisk(t.Context(), &chartergatev1.GetBudgetsAtRiskRequest{Budget: "budgets/support"})
	if err != nil || a.GetChecked() != 1 || len(a.GetBudgets()) != 0 {
		t.Errorf("%v, %v", a, err)
	}
}

func TestExecutiveReport(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.history(t)
	a, err := r.reports.GetExecutiveSummary(t.Context(), &chartergatev1.GetExecutiveSummaryRequest{Window: &chartergatev1.ReportWindow{Period: "this-month"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.GetTables()) != 2 || a.GetScope().GetPeriod() != "2026-11" {
		t.Fatalf("%v", a)
	}
	usd := a.GetTables()[1]
	if usd.GetMovers()[0].GetFeature() != "search" || usd.GetTargetsMet() != 2 || usd.GetTargetsMissed() != 0 || usd.GetForecast() == nil ||
		usd.GetPreviousCostNanos() != 0 || usd.ChangePermille != nil || usd.GetChangeNanos() != usd.GetTotals().GetCostNanos() {
		t.Errorf("%v", usd)
	}
	stages := a.GetStages()
	if len(stages) != 3 || stages[0].GetFeatures() != 1 || stages[1].GetStage() != chartergatev1.Stage_STAGE_PILOT || stages[2].GetCosts()[0].GetCostNanos() != 20e9 {
		t.Errorf("%v", stages)
	}
}

func TestReportsOverREST(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.history(t)
	a := r.rest(t, "GET", "/v1/reports/allocation?by=feature&by=cohort&where=feature%3Dchat&window.last=864000s&max_rows=5&verify=true", "", 200)
	table := a["tables"].([]any)[0].(map[string]any)
	if total := table["total"].(map[string]any)["totals"].(map[string]any); total["cost_nanos"] != "10000000000" || total["calls"] != "200" {
		t.Errorf("%v", total)
	}
	for _, path := range []string{"trend?step=REPORT_STEP_WEEK&by=feature", "unitEconomics?by=feature&window.period=2026-11", "budgetsAtRisk?min_severity=RISK_SEVERITY_HIGH", "executive?window.period=2026-Q4"} {
		if got := r.rest(t, "GET", "/v1/reports/"+path, "", 200); got["scope"] == nil {
			t.Errorf("%s: %v", path, got)
		}
	}
	r.rest(t, "GET", "/v1/reports/allocation?by=colour", "", 400)
}
