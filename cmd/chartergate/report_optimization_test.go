package main

import (
	"encoding/csv"
	"io"
	"strings"
	"testing"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func someOptimization() *pb.Optimization {
	could := int64(16_721_500_000)
	return &pb.Optimization{
		Scope: someScope(), MoreFeatures: 2,
		Features: []*pb.FeatureOptimization{{
			Feature: "copilot", Currency: "USD", Totals: someTotals(472_163_800_000, 12_031), UnpricedModels: []string{"old"},
			Effects: []*pb.LeverEffect{
				{
					Lever: pb.Lever_LEVER_CACHING, BaselineNanos: 149_725_400_000, SavedNanos: 24_048_375_600, SavedPermille: 161, RangeLowPermille: 400, RangeHighPermille: 900,
					Verdict: pb.LeverVerdict_LEVER_VERDICT_BELOW, Summary: "Prompt caching saved 24.05 USD.",
					Causes: []*pb.LeverCause{
						{Code: pb.LeverCauseCode_LEVER_CAUSE_CODE_PREFIX_CHANGES, Calls: 6048, OfCalls: 12_031, Tokens: 6_193_152, CouldSaveNanos: &could, Summary: "6048 of 12031 calls.", Action: "Put what stays the same first."},
						{Code: pb.LeverCauseCode_LEVER_CAUSE_CODE_SHORT_PROMPTS, Calls: 1354, OfCalls: 12_031, Summary: "1354 of 12031 calls.", Action: "Share one longer prefix."},
					},
				},
				{Lever: pb.Lever_LEVER_ROUTING, RangeLowPermille: 500, RangeHighPermille: 850, Summary: "One tier\x1b[31m only."},
			},
		}},
	}
}

func TestOptimizationForPeople(t *testing.T) {
	golden(t, "optimization.txt", func(w io.Writer) { printOptimization(w, someOptimization()) })
	text := golden(t, "optimization.csv", func(w io.Writer) { _ = csv.NewWriter(w).WriteAll(optimizationRows(someOptimization())) })
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(rows) != 5 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	golden(t, "optimization_empty.txt", func(w io.Writer) { printOptimization(w, &pb.Optimization{Scope: someScope("feature=none")}) })
	if rows := optimizationRows(&pb.Optimization{}); len(rows) != 1 || len(rows[0]) < 20 {
		t.Errorf("without features: %v", rows)
	}
}
