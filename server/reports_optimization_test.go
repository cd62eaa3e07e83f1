package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/report"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestOptimizationOfWhatWasCounted(t *testing.T) {
	r := startReports(t, sqliteURL(t))
	r.chat(t, 900e9)
	// The small model costs 0.001 a million tokens of input and has no price for cached ones.
	r.count(t, noon, chatted("free"), usage.Totals{
		Calls: 100, Usage: usage.Usage{InputTokens: 3_000_000, CacheReadTokens: 1_000_000}, Cost: usage.Cost{Input: 4 * money.Unit},
		Saved:   usage.Saved{CacheRead: money.Unit / 2},
		Signals: usage.Signals{Prefixed: 100, Repeats: 40, LateRepeats: 10, RepeatTokens: 1_000_000, LateTokens: 1_000_000, PrefixChanges: 60},
	})
	r.count(t, noon, usage.Attribution{Feature: "gone", Model: "unknown", Effect: "allow"}, usage.Totals{Calls: 1, Cost: usage.Cost{Input: money.Unit}, Usage: usage.Usage{InputTokens: 5}})
	o, err := r.reports.GetOptimization(t.Context(), &chartergatev1.GetOptimizationRequest{MaxFeatures: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.GetFeatures()) != 1 || o.GetMoreFeatures() != 1 || !o.GetScope().GetAsOfTime().AsTime().Equal(noon) {
		t.Fatalf("%v", o)
	}
	f := o.GetFeatures()[0]
	if f.GetFeature() != "chat" || f.GetCurrency() != "USD" || f.GetTotals().GetCalls() != 100 || f.GetTotals().GetCostNanos() != 4*int64(money.Unit) {
		t.Errorf("%v", f.GetTotals())
	}
	if s := f.GetSignals(); s.GetPrefixedCalls() != 100 || s.GetRepeatCalls() != 40 || s.GetLateRepeatCalls() != 10 || s.GetLateTokens() != 1_000_000 || s.GetPrefixChangeCalls() != 60 {
		t.Errorf("%v", s)
	}
	for i, e := range f.GetEffects() {
		if int(e.GetLever()) != i+1 || e.GetSummary() == "" || e.GetRangeLowPermille() >= e.GetRangeHighPermille() {
			t.Errorf("effect %d: %v", i, e)
		}
	}
	total := f.GetEffects()[1]
	if total.GetLever() != chartergatev1.Lever_LEVER_CACHING_TOTAL || total.GetSavedNanos() != int64(money.Unit)/2 || total.GetSavedPermille() != 111 ||
		total.GetVerdict() != chartergatev1.LeverVerdict_LEVER_VERDICT_BELOW {
		t.Errorf("%v", total)
	}
	if c := f.GetEffects()[0].GetCauses(); len(c) < 3 {
		t.Errorf("causes: %v", c)
	}

	o, err = r.reports.GetOptimization(t.Context(), &chartergatev1.GetOptimizationRequest{Where: []string{"feature=gone"}})
	if err != nil || len(o.GetFeatures()) != 1 || len(o.GetFeatures()[0].GetUnpricedModels()) != 1 ||
		o.GetFeatures()[0].GetEffects()[2].GetVerdict() != chartergatev1.LeverVerdict_LEVER_VERDICT_UNSPECIFIED {
		t.Errorf("a feature without a charter and a model without a price: %v, %v", o, err)
	}
	o, err = r.reports.GetOptimization(t.Context(), &chartergatev1.GetOptimizationRequest{Where: []string{"feature=none"}})
	if err != nil || len(o.GetFeatures()) != 0 || o.GetScope() == nil {
		t.Errorf("nothing: %v, %v", o, err)
	}
	_, err = r.reports.GetOptimization(t.Context(), &chartergatev1.GetOptimizationRequest{Where: []string{"color=red"}})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
	_, err = r.reports.GetOptimization(t.Context(), &chartergatev1.GetOptimizationRequest{Window: &chartergatev1.ReportWindow{StartTime: timestamppb.New(noon.Add(time.Minute))}})
	wantReason(t, err, codes.InvalidArgument, "INVALID")
}

// The numbers of core and of the API are the same.
func TestLeversAreNumberedAlike(t *testing.T) {
	if n := len(chartergatev1.Lever_name); n != int(report.LeverAll)+1 || len(report.Ranges) != n-1 {
		t.Errorf("%d levers", n)
	}
	if n := len(chartergatev1.LeverVerdict_name); n != int(report.Above)+1 {
		t.Errorf("%d verdicts", n)
	}
	if n := len(chartergatev1.LeverCauseCode_name); n != int(report.CauseGrowingHistory)+1 {
		t.Errorf("%d causes", n)
	}
	for code, name := range map[report.CauseCode]string{
		report.CausePrefixChanges: "PREFIX_CHANGES", report.CauseShortTTL: "SHORT_TTL", report.CauseShortPrompts: "SHORT_PROMPTS",
		report.CauseWritePremium: "WRITE_PREMIUM", report.CauseUnusedCache: "UNUSED_CACHE", report.CauseFewRepeats: "FEW_REPEATS",
		report.CauseNoFingerprints: "NO_FINGERPRINTS", report.CauseExpensiveTier: "EXPENSIVE_TIER", report.CauseContextOverhead: "CONTEXT_OVERHEAD",
		report.CauseGrowingHistory: "GROWING_HISTORY",
	} {
		if got := chartergatev1.LeverCauseCode(code).String(); !strings.HasSuffix(got, "_"+name) {
			t.Errorf("cause %d is %s in the API", code, got)
		}
	}
}
