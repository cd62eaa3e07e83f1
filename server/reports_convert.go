package server

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/report"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func scopeMessage(w report.Window, now time.Time, covered usage.Coverage, where []string) *chartergatev1.ReportScope {
	zone := "UTC"
	if w.Zone != nil {
		zone = w.Zone.String()
	}
	p := &chartergatev1.ReportScope{
		StartTime: timestamppb.New(w.From), EndTime: timestamppb.New(w.To), Period: w.Name, TimeZone: zone,
		CreateTime: timestamppb.New(now), AsOfTime: convert.TimeToProto(covered.AsOf), Where: where,
	}
	for _, at := range covered.Through {
		p.Positions = append(p.Positions, &chartergatev1.LedgerPosition{Owner: at.Owner, Batch: at.Batch})
	}
	return p
}

func ends(w report.Window) (from, to *timestamppb.Timestamp) {
	return timestamppb.New(w.From), timestamppb.New(w.To)
}

func totalsMessage(t *usage.Totals, cost money.Nanos) *chartergatev1.UsageTotals {
	c := &t.Cost
	return &chartergatev1.UsageTotals{
		CostNanos: int64(cost), ForcedNanos: int64(t.Forced), Calls: t.Calls, RefusedCalls: t.Refused, Usage: convert.UsageToProto(&t.Usage),
		Components: &chartergatev1.CostComponents{
			InputNanos: int64(c.Input), ContextOverheadNanos: int64(c.ContextOverhead), OutputNanos: int64(c.Output),
			RetrievalNanos: int64(c.Retrieval), ToolsNanos: int64(c.Tools), ComputeNanos: int64(c.Compute), OtherNanos: int64(c.Other),
		},
		SavedCacheReadNanos: int64(t.Saved.CacheRead), CacheWritePremiumNanos: int64(t.Saved.CacheWrite),
		SavedDowngradeNanos: int64(t.Saved.Downgrade), Successes: t.Successes, Failures: t.Failures,
	}
}

func allocationMessage(t *report.Table) *chartergatev1.AllocationTable {
	p := &chartergatev1.AllocationTable{Currency: t.Currency, Rows: make([]*chartergatev1.AllocationRow, len(t.Lines)), Total: lineMessage(&t.Total)}
	for i := range t.Lines {
		p.Rows[i] = lineMessage(&t.Lines[i])
	}
	if t.Rest != nil {
		p.Rest = lineMessage(t.Rest)
	}
	for _, g := range t.By {
		p.Gaps = append(p.Gaps, &chartergatev1.DimensionGap{
			Dimension: g.Dimension, UnallocatedNanos: int64(g.Unallocated), UnallocatedPermille: g.UnallocatedShare,
			OtherNanos: int64(g.Other), OtherPermille: g.OtherShare,
		})
	}
	return p
}

func lineMessage(l *report.Line) *chartergatev1.AllocationRow {
	return &chartergatev1.AllocationRow{Keys: l.Keys, Totals: totalsMessage(&l.Totals, l.Total), SharePermille: l.Share, Combinations: int64(l.Rows)}
}

func comparisonMessage(c *report.Comparison) *chartergatev1.LedgerComparison {
	return &chartergatev1.LedgerComparison{
		Budget: c.Budget.Name(), Period: c.Period.String(), StartTime: timestamppb.New(c.Period.Start), Currency: c.Budget.Currency,
		LedgerNanos: int64(c.Ledger), ReportedNanos: int64(c.Reported), DifferenceNanos: int64(c.Difference), Problem: c.Problem,
	}
}

func trendMessage(t *report.Trend, ahead *report.Window) *chartergatev1.TrendTable {
	p := &chartergatev1.TrendTable{Currency: t.Currency, Total: seriesMessage(&t.Total, ahead), MoreSeries: int64(t.More)}
	for i := range t.Series {
		p.Series = append(p.Series, seriesMessage(&t.Series[i], ahead))
	}
	return p
}

func seriesMessage(s *report.Series, ahead *report.Window) *chartergatev1.TrendSeries {
	p := &chartergatev1.TrendSeries{
		Keys: s.Keys, Points: make([]*chartergatev1.TrendPoint, len(s.Points)), CostNanos: int64(s.Cost), Calls: s.Calls, PreviousCostNanos: int64(s.Previous),
		ChangeNanos: int64(s.Change), ChangePermille: s.ChangePermille, RunRateNanos: int64(s.Rate),
		Forecast: forecastMessage(s.Forecast, ahead.String(), ahead.To, s.Settled),
	}
	for i := range s.Points {
		x := &s.Points[i]
		p.Points[i] = &chartergatev1.TrendPoint{
			StartTime: timestamppb.New(x.Start), CostNanos: int64(x.Cost), Calls: x.Calls, ChangeNanos: (*int64)(x.Change), Partial: x.Partial,
		}
	}
	return p
}

// forecastMessage converts a forecast for the end of a period; nil for none.
func forecastMessage(f *report.Forecast, period string, end time.Time, settled money.Nanos) *chartergatev1.Forecast {
	if f == nil {
		return nil
	}
	p := &chartergatev1.Forecast{
		Period: period, EndTime: timestamppb.New(end), SettledNanos: int64(settled), ExpectedNanos: int64(f.Expected),
		Method: f.Method, Days: int32(f.Days),
	}
	if f.Interval {
		p.LowNanos, p.HighNanos = (*int64)(&f.Low), (*int64)(&f.High)
	}
	return p
}

func runOutMessage(r *report.Risk) *chartergatev1.BudgetRunOut {
	return &chartergatev1.BudgetRunOut{
		Budget: r.Name, Period: r.Period.String(), Owner: convert.OwnerToProto(r.Budget.Owner), RunOutTime: timestamppb.New(r.RunOut),
		EndTime: timestamppb.New(r.Period.End), RemainingNanos: int64(r.Remaining()),
	}
}

func unitMessage(u *report.Unit) *chartergatev1.UnitEconomicsRow {
	t := &u.Totals
	return &chartergatev1.UnitEconomicsRow{
		Keys: u.Keys, CostNanos: int64(u.Cost), Calls: t.Calls, Successes: t.Successes, Failures: t.Failures, SuccessPermille: u.Success,
		CostPer_1000SuccessesNanos: u.PerSuccesses, TargetPer_1000SuccessesNanos: u.Target, OverTargetNanos: (*int64)(u.OverTarget),
		PreviousCostPer_1000SuccessesNanos: u.Previous, ChangePermille: u.Change, CostPerCallNanos: u.PerCall,
		InputTokensPer_1000Calls: u.Input, OutputTokensPer_1000Calls: u.Output, RetrievalHopsPer_1000Calls: u.Retrieval, ToolCallsPer_1000Calls: u.Tools,
	}
}

// riskMessages converts risks, at most limit, and counts the others.
func riskMessages(risks []report.Risk, limit int) (list []*chartergatev1.BudgetRisk, more int64) {
	for i := range risks[:min(len(risks), limit)] {
		list = append(list, riskMessage(&risks[i]))
	}
	return list, int64(len(risks) - len(list))
}

func riskMessage(r *report.Risk) *chartergatev1.BudgetRisk {
	p := &chartergatev1.BudgetRisk{
		Budget: r.Name, Owner: convert.OwnerToProto(r.Budget.Owner), Severity: chartergatev1.RiskSeverity(r.Severity),
		Period: r.Period.String(), EndTime: timestamppb.New(r.Period.End), Currency: r.Budget.Currency,
		LimitNanos: int64(r.Limit), SettledNanos: int64(r.Settled), ForcedNanos: int64(r.Forced), SettledPermille: money.Permille(r.Settled, r.Limit),
		ThresholdPermille: r.Threshold, Forecast: forecastMessage(r.Forecast, r.Period.String(), r.Period.End, r.Settled),
		RunRateNanos: int64(r.Rate), RunOutTime: convert.TimeToProto(r.RunOut), AffordableRateNanos: int64(r.Affordable), Actions: r.Actions,
	}
	for _, reason := range r.Reasons {
		p.Reasons = append(p.Reasons, chartergatev1.RiskReason(reason))
	}
	for _, f := range r.Features {
		p.TopFeatures = append(p.TopFeatures, &chartergatev1.FeatureSpend{Feature: f.Feature, CostNanos: int64(f.Cost), SharePermille: f.Share})
	}
	return p
}

func briefMessage(b *report.Brief, w *report.Window) *chartergatev1.ExecutiveTable {
	p := &chartergatev1.ExecutiveTable{
		Currency: b.Currency, Totals: totalsMessage(&b.Line.Totals, b.Line.Total), PreviousCostNanos: int64(b.Previous), ChangeNanos: int64(b.Change),
		ChangePermille: b.ChangePermille, Forecast: forecastMessage(b.Forecast, w.String(), w.To, b.Line.Total), AdjustmentsNanos: int64(b.Adjustments),
		TargetsMet: int64(b.Met), TargetsMissed: int64(b.Missed), SavedNanos: int64(b.Saved),
	}
	for _, m := range b.Movers {
		p.Movers = append(p.Movers, &chartergatev1.Mover{
			Feature: m.Feature, CostNanos: int64(m.Cost), PreviousCostNanos: int64(m.Previous), ChangeNanos: int64(m.Change), ChangePermille: m.ChangePermille,
		})
	}
	for i := range b.Targets {
		p.Targets = append(p.Targets, unitMessage(&b.Targets[i]))
	}
	return p
}

func stageMessage(s *report.Stage) *chartergatev1.StageSummary {
	p := &chartergatev1.StageSummary{Stage: chartergatev1.Stage(s.Stage), Features: int64(s.Features)}
	for currency, cost := range s.Costs {
		p.Costs = append(p.Costs, &chartergatev1.StageCost{Currency: currency, CostNanos: int64(cost)})
	}
	slices.SortFunc(p.Costs, func(a, b *chartergatev1.StageCost) int {
		if a.GetCurrency() < b.GetCurrency() {
			return -1
		}
		return 1
	})
	return p
}
