package server

import (
	"cmp"
	"context"

	"github.com/chartergate/chartergate/core/report"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// GetOptimization implements ReportService.
func (s *ReportService) GetOptimization(ctx context.Context, req *chartergatev1.GetOptimizationRequest) (*chartergatev1.Optimization, error) {
	resp, err := s.optimization(ctx, req)
	return resp, reportError(err)
}

func (s *ReportService) optimization(ctx context.Context, req *chartergatev1.GetOptimizationRequest) (*chartergatev1.Optimization, error) {
	q, err := s.ask(req.GetWindow(), nil, req.GetWhere(), "")
	if err != nil {
		return nil, err
	}
	list, err := q.Optimization(ctx, q.window, q.where)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.Optimization{}
	limit := min(len(list), cmp.Or(int(req.GetMaxFeatures()), report.DefaultRows))
	for i := range list[:limit] {
		resp.Features = append(resp.Features, optimizationMessage(&list[i]))
	}
	resp.MoreFeatures = int64(len(list) - limit)
	resp.Scope, err = q.scope(ctx, q.window, req.GetWhere())
	return resp, err
}

func optimizationMessage(x *report.Optimization) *chartergatev1.FeatureOptimization {
	p := &chartergatev1.FeatureOptimization{
		Feature: x.Feature, Currency: x.Currency, Totals: totalsMessage(&x.Totals, x.Cost), Signals: signalsMessage(&x.Totals.Signals),
		UnpricedModels: x.Unpriced,
	}
	for i := range x.Effects {
		e := &x.Effects[i]
		r := report.Ranges[e.Lever]
		l := &chartergatev1.LeverEffect{
			Lever: chartergatev1.Lever(e.Lever), BaselineNanos: int64(e.Baseline), SavedNanos: int64(e.Saved), SavedPermille: e.Permille,
			RangeLowPermille: r.Low, RangeHighPermille: r.High, Verdict: chartergatev1.LeverVerdict(e.Verdict), Summary: e.Summary,
		}
		for _, c := range e.Causes {
			l.Causes = append(l.Causes, &chartergatev1.LeverCause{
				Code: chartergatev1.LeverCauseCode(c.Code), Calls: c.Calls, OfCalls: c.Of, Tokens: c.Tokens, CouldSaveNanos: (*int64)(c.CouldSave),
				Summary: c.Summary, Action: c.Action,
			})
		}
		p.Effects = append(p.Effects, l)
	}
	return p
}

func signalsMessage(s *usage.Signals) *chartergatev1.PromptSignals {
	return &chartergatev1.PromptSignals{
		PrefixedCalls: s.Prefixed, RepeatCalls: s.Repeats, LateRepeatCalls: s.LateRepeats, StaleRepeatCalls: s.StaleRepeats,
		PrefixChangeCalls: s.PrefixChanges, ShortPromptCalls: s.ShortPrompts, RepeatTokens: s.RepeatTokens, LateTokens: s.LateTokens,
		RunCalls: s.RunCalls, RunGrowthTokens: s.RunGrowth, TrimCalls: s.TrimCalls, TrimmedTokens: s.TrimmedTokens,
	}
}
