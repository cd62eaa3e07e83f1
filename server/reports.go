package server

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/report"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store"
)

const (
	maxAccounts      = 10_000 // accounts of budgets that a report looks at
	defaultWindow    = 30 * 24 * time.Hour
	defaultSeries    = 10
	defaultBrief     = 5
	shownRunOuts     = 100
	thisMonth        = "this-month"
	fieldForecast    = "forecast_period"
	fieldDimensions  = "by"
	tooLargeQuestion = "the answer has more than 200,000 sums: ask by fewer dimensions, for a shorter window or longer steps, or with conditions"
)

// ReportService makes reports from a usage store.
type ReportService struct {
	chartergatev1.UnimplementedReportServiceServer
	sums    report.Sums
	control store.Control
	gate    *preflight.Service
	now     func() time.Time
}

// NewReportService reports what sums knows, with the charters of control and the budgets of gate as they stand.
func NewReportService(sums report.Sums, control store.Control, gate *preflight.Service, now func() time.Time) *ReportService {
	return &ReportService{sums: sums, control: control, gate: gate, now: now}
}

// question is what every report begins with.
type question struct {
	*report.Maker
	window report.Window
	where  map[string][]string
}

// ask checks what reports have in common. Without a window it is fallback, a period, or the last 30 days.
func (s *ReportService) ask(w *chartergatev1.ReportWindow, by, where []string, fallback string) (*question, error) {
	q := &question{Maker: &report.Maker{Sums: s.sums, Now: s.now(), Charters: s.control.Snapshot()}}
	a, err := windowAsked(w)
	if err != nil {
		return nil, err
	}
	if fallback == "" && a.From.IsZero() && a.To.IsZero() && a.Last == 0 && a.Period == "" {
		a.Last = defaultWindow
	}
	if q.window, err = a.Window(q.Now, fallback); err != nil {
		return nil, err
	}
	if err := report.CheckDimensions(by); err != nil {
		return nil, err
	}
	q.where, err = report.Filters(where)
	return q, err
}

func windowAsked(w *chartergatev1.ReportWindow) (*report.Ask, error) {
	a := &report.Ask{Period: w.GetPeriod(), Zone: w.GetTimeZone(), Last: w.GetLast().AsDuration()}
	if t := w.GetStartTime(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, invalid("window.start_time", "%v", err)
		}
		a.From = t.AsTime()
	}
	if t := w.GetEndTime(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, invalid("window.end_time", "%v", err)
		}
		a.To = t.AsTime()
	}
	return a, nil
}

// budgets tells the maker how the budgets stand, those at and under root, or all for "".
func (s *ReportService) budgets(ctx context.Context, m *report.Maker, root string) error {
	statuses, err := s.gate.Statuses(ctx, root, "", maxAccounts)
	if err != nil {
		return err
	}
	m.Accounts = make([]report.Account, len(statuses))
	for i, st := range statuses {
		m.Accounts[i] = report.Account{
			Name: st.Name, Budget: st.Budget, Key: st.ID.Key, Overflow: st.ID.Overflow, Period: st.Span,
			Limit: st.Ceil, Settled: st.Settled, Forced: st.Forced, Reserved: st.Held,
		}
	}
	return nil
}

// scope says what a report covers.
func (q *question) scope(ctx context.Context, w report.Window, where []string) (*chartergatev1.ReportScope, error) {
	covered, err := q.Coverage(ctx)
	if err != nil {
		return nil, err
	}
	return scopeMessage(w, q.Now, covered, where), nil
}

// GetAllocation implements ReportService.
func (s *ReportService) GetAllocation(ctx context.Context, req *chartergatev1.GetAllocationRequest) (*chartergatev1.Allocation, error) {
	resp, err := s.allocation(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) allocation(ctx context.Context, req *chartergatev1.GetAllocationRequest) (*chartergatev1.Allocation, error) {
	q, err := s.ask(req.GetWindow(), req.GetBy(), req.GetWhere(), "")
	if err != nil {
		return nil, err
	}
	tables, err := q.Allocation(ctx, q.window, req.GetBy(), q.where, cmp.Or(int(req.GetMaxRows()), report.DefaultRows))
	if err != nil {
		return nil, err
	}
	adjusted, err := q.Adjustments(ctx, q.window, q.where)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.Allocation{By: req.GetBy()}
	for i := range tables {
		t := allocationMessage(&tables[i])
		t.AdjustmentsNanos = int64(adjusted[t.GetCurrency()])
		resp.Tables = append(resp.Tables, t)
	}
	if req.GetVerify() {
		if err := s.budgets(ctx, q.Maker, ""); err != nil {
			return nil, err
		}
		list, err := q.Compare(ctx)
		if err != nil {
			return nil, err
		}
		for i := range list {
			resp.Ledger = append(resp.Ledger, comparisonMessage(&list[i]))
		}
	}
	resp.Scope, err = q.scope(ctx, q.window, req.GetWhere())
	return resp, err
}

// GetTrend implements ReportService.
func (s *ReportService) GetTrend(ctx context.Context, req *chartergatev1.GetTrendRequest) (*chartergatev1.Trend, error) {
	resp, err := s.trend(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) trend(ctx context.Context, req *chartergatev1.GetTrendRequest) (*chartergatev1.Trend, error) {
	q, err := s.ask(req.GetWindow(), req.GetBy(), req.GetWhere(), "")
	if err != nil {
		return nil, err
	}
	step := cmp.Or(req.GetStep(), chartergatev1.ReportStep_REPORT_STEP_DAY)
	a := &report.TrendAsk{
		Window: q.window, By: req.GetBy(), Where: q.where, Step: report.Step(step), Limit: cmp.Or(int(req.GetMaxSeries()), defaultSeries),
	}
	ahead := report.Ask{Period: req.GetForecastPeriod(), Zone: req.GetWindow().GetTimeZone()}
	if a.Forecast, err = ahead.Window(q.Now, thisMonth); err != nil {
		if e, ok := errors.AsType[*report.FieldError](err); ok && e.Field == "window.period" {
			return nil, invalid(fieldForecast, "%s", e.Problem)
		}
		return nil, err
	}
	trends, err := q.Trend(ctx, a)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.Trend{By: req.GetBy(), Step: step}
	resp.PreviousStartTime, resp.PreviousEndTime = ends(q.window.Before(q.Now))
	var runOuts map[string][]report.Risk
	if len(trends) > 0 {
		if err := s.budgets(ctx, q.Maker, ""); err != nil {
			return nil, err
		}
		if runOuts, err = q.RunOuts(ctx, q.window, q.where); err != nil {
			return nil, err
		}
	}
	for i := range trends {
		t := trendMessage(&trends[i], &a.Forecast)
		for _, r := range runOuts[t.GetCurrency()] {
			if len(t.GetRunOuts()) < shownRunOuts {
				t.RunOuts = append(t.RunOuts, runOutMessage(&r))
			}
		}
		resp.Tables = append(resp.Tables, t)
	}
	resp.Scope, err = q.scope(ctx, q.window, req.GetWhere())
	return resp, err
}

// GetUnitEconomics implements ReportService.
func (s *ReportService) GetUnitEconomics(ctx context.Context, req *chartergatev1.GetUnitEconomicsRequest) (*chartergatev1.UnitEconomics, error) {
	resp, err := s.unitEconomics(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) unitEconomics(ctx context.Context, req *chartergatev1.GetUnitEconomicsRequest) (*chartergatev1.UnitEconomics, error) {
	by := req.GetBy()
	if len(by) == 0 {
		by = []string{usage.DimFeature}
	}
	q, err := s.ask(req.GetWindow(), by, req.GetWhere(), "")
	if err != nil {
		return nil, err
	}
	units, err := q.UnitEconomics(ctx, q.window, by, q.where, cmp.Or(int(req.GetMaxRows()), report.DefaultRows))
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.UnitEconomics{By: by}
	resp.PreviousStartTime, resp.PreviousEndTime = ends(q.window.Before(q.Now))
	for i := range units {
		u := &units[i]
		t := &chartergatev1.UnitEconomicsTable{Currency: u.Currency, Total: unitMessage(&u.Total), MoreRows: int64(u.More)}
		for j := range u.Lines {
			t.Rows = append(t.Rows, unitMessage(&u.Lines[j]))
		}
		resp.Tables = append(resp.Tables, t)
	}
	resp.Scope, err = q.scope(ctx, q.window, req.GetWhere())
	return resp, err
}

// GetBudgetsAtRisk implements ReportService.
func (s *ReportService) GetBudgetsAtRisk(ctx context.Context, req *chartergatev1.GetBudgetsAtRiskRequest) (*chartergatev1.BudgetsAtRisk, error) {
	resp, err := s.budgetsAtRisk(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) budgetsAtRisk(ctx context.Context, req *chartergatev1.GetBudgetsAtRiskRequest) (*chartergatev1.BudgetsAtRisk, error) {
	q, err := s.ask(nil, nil, nil, "")
	if err != nil {
		return nil, err
	}
	if err := s.budgets(ctx, q.Maker, strings.TrimPrefix(req.GetBudget(), "budgets/")); err != nil {
		return nil, err
	}
	risks, err := q.Risks(ctx, report.Severity(req.GetMinSeverity()))
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.BudgetsAtRisk{Checked: int64(len(q.Accounts))}
	resp.Budgets, resp.MoreBudgets = riskMessages(risks, cmp.Or(int(req.GetMaxRows()), report.DefaultRows))
	resp.Scope, err = q.scope(ctx, q.History(), nil)
	return resp, err
}

// GetExecutiveSummary implements ReportService.
func (s *ReportService) GetExecutiveSummary(ctx context.Context, req *chartergatev1.GetExecutiveSummaryRequest) (*chartergatev1.ExecutiveSummary, error) {
	resp, err := s.executiveSummary(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) executiveSummary(ctx context.Context, req *chartergatev1.GetExecutiveSummaryRequest) (*chartergatev1.ExecutiveSummary, error) {
	q, err := s.ask(req.GetWindow(), nil, req.GetWhere(), thisMonth)
	if err != nil {
		return nil, err
	}
	limit := cmp.Or(int(req.GetMaxRows()), defaultBrief)
	briefs, stages, err := q.Executive(ctx, q.window, q.where, limit)
	if err != nil {
		return nil, err
	}
	if err := s.budgets(ctx, q.Maker, ""); err != nil {
		return nil, err
	}
	risks, err := q.Risks(ctx, report.Notice)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ExecutiveSummary{}
	resp.PreviousStartTime, resp.PreviousEndTime = ends(q.window.Before(q.Now))
	for i := range briefs {
		resp.Tables = append(resp.Tables, briefMessage(&briefs[i], &q.window))
	}
	resp.BudgetsAtRisk, resp.MoreBudgetsAtRisk = riskMessages(risks, limit)
	for i := range stages {
		resp.Stages = append(resp.Stages, stageMessage(&stages[i]))
	}
	resp.Scope, err = q.scope(ctx, q.window, req.GetWhere())
	return resp, err
}

// reportError gives what can be wrong with a question its reason.
func reportError(err error) error {
	if e, ok := errors.AsType[*report.FieldError](err); ok {
		return invalid(e.Field, "%s", e.Problem)
	}
	if e, ok := errors.AsType[*usage.QueryError](err); ok {
		return invalid(e.Field, "%s", e.Problem)
	}
	switch {
	case errors.Is(err, store.ErrTooLarge):
		return invalid(fieldDimensions, "%s", tooLargeQuestion)
	case errors.Is(err, usage.ErrOverflow):
		return &apiError{chartergatev1.ErrorReason_ERROR_REASON_AMOUNT_OVERFLOW, codes.OutOfRange, err.Error() + ": ask for a shorter window", nil}
	}
	return err
}
