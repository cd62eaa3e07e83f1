package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newOptimizationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "optimization",
		Short: "What caching, routing, trimming and substitution saved, against the published ranges, and what is in the way",
		Long: `What prompt caching, tier routing, context trimming and model substitution saved each feature, against the ranges that are
published of them. Where they save less, the causes found in the data, each with its numbers and what it would save at
most by itself. Causes of caching need prefix_hashes with the calls.`,
		Example: `  chartergate report optimization --feature support-copilot --last 7d
  chartergate report optimization --period last-month -o csv`,
		Args: cobra.NoArgs,
	}
	r := addReportFlags(cmd, nil)
	q := &pb.GetOptimizationRequest{}
	var features []string
	cmd.Flags().StringSliceVar(&features, "feature", nil, "only this feature, or these")
	cmd.Flags().Int32Var(&q.MaxFeatures, "rows", 100, "the most features, the dearest")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Window, err = r.window(); err != nil {
			return err
		}
		q.Where = r.where
		for _, feature := range features {
			q.Where = append(q.Where, usage.DimFeature+"="+feature)
		}
		return ask(cmd, r.clientFlags, pb.ReportServiceClient.GetOptimization, q, printOptimization, optimizationRows, nil)
	}
	return cmd
}

// lowered is the last part of an enum's name, such as short ttl of LEVER_CAUSE_CODE_SHORT_TTL.
func lowered(name, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, prefix)), "_", " ")
}

func verdictText(v pb.LeverVerdict) string {
	if v == pb.LeverVerdict_LEVER_VERDICT_UNSPECIFIED {
		return "not measured"
	}
	return lowered(v.String(), "LEVER_VERDICT_")
}

// permilleText writes per mille as percent, such as 12.3%.
func permilleText(n int64) string {
	return strings.TrimSuffix(strconv.FormatFloat(float64(n)/10, 'f', 1, 64), ".0") + "%"
}

func printOptimization(w io.Writer, a *pb.Optimization) {
	if len(a.GetFeatures()) == 0 {
		nothing(w, a.GetScope())
		return
	}
	fmt.Fprintln(w, visible(title("Optimization", nil, a.GetScope())))
	for _, f := range a.GetFeatures() {
		t := f.GetTotals()
		fmt.Fprintf(w, "\n%s: %s calls, %s %s\n", visible(f.GetFeature()), thousands(t.GetCalls()), amount(t.GetCostNanos()), f.GetCurrency())
		g := newGrid("LEVER", ">WITHOUT IT", ">SAVED "+f.GetCurrency(), ">SAVED", ">PUBLISHED", "VERDICT")
		for _, e := range f.GetEffects() {
			saved := "-"
			if e.GetVerdict() != pb.LeverVerdict_LEVER_VERDICT_UNSPECIFIED {
				saved = permilleText(e.GetSavedPermille())
			}
			g.add(lowered(e.GetLever().String(), "LEVER_"), amount(e.GetBaselineNanos()), amount(e.GetSavedNanos()), saved,
				permilleText(e.GetRangeLowPermille())+" to "+permilleText(e.GetRangeHighPermille()), verdictText(e.GetVerdict()))
		}
		g.write(w, "  ")
		for _, e := range f.GetEffects() {
			fmt.Fprintf(w, "\n  %s\n", visible(e.GetSummary()))
			for _, c := range e.GetCauses() {
				could := "not known"
				if c.CouldSaveNanos != nil {
					could = amount(c.GetCouldSaveNanos()) + " " + f.GetCurrency()
				}
				fmt.Fprintf(w, "    %s (could save: %s)\n      %s\n      %s\n", lowered(c.GetCode().String(), "LEVER_CAUSE_CODE_"), could,
					visible(c.GetSummary()), visible(c.GetAction()))
			}
		}
		if len(f.GetUnpricedModels()) > 0 {
			fmt.Fprintf(w, "\n  Without a price in %s now, and so not compared: %s.\n", f.GetCurrency(), visible(strings.Join(f.GetUnpricedModels(), ", ")))
		}
	}
	if n := a.GetMoreFeatures(); n > 0 {
		fmt.Fprintf(w, "\n%s more features are not shown: give --rows.\n", thousands(n))
	}
	fmt.Fprintf(w, "\n%s\n", visible(coverageText(a.GetScope())))
}

// optimizationRows has a row for each lever of a feature, followed by one for each of its causes.
func optimizationRows(a *pb.Optimization) [][]string {
	one := func(f *pb.FeatureOptimization, e *pb.LeverEffect, c *pb.LeverCause) *record {
		r := &record{}
		r.scope(a.GetScope(), f.GetCurrency())
		r.text("feature", f.GetFeature())
		r.text("lever", strings.ToLower(strings.TrimPrefix(e.GetLever().String(), "LEVER_")))
		cause, summary, could, decimal := "", e.GetSummary(), "", ""
		if c != nil {
			cause, summary = strings.ToLower(strings.TrimPrefix(c.GetCode().String(), "LEVER_CAUSE_CODE_")), c.GetSummary()
			if c.CouldSaveNanos != nil {
				could, decimal = strconv.FormatInt(c.GetCouldSaveNanos(), 10), money.Nanos(c.GetCouldSaveNanos()).String()
			}
		}
		r.text("cause", cause)
		r.money("cost", f.GetTotals().GetCostNanos())
		r.money("baseline", e.GetBaselineNanos())
		r.money("saved", e.GetSavedNanos())
		r.count("saved_permille", e.GetSavedPermille())
		r.count("range_low_permille", e.GetRangeLowPermille())
		r.count("range_high_permille", e.GetRangeHighPermille())
		r.text("verdict", verdictText(e.GetVerdict()))
		r.count("calls", c.GetCalls())
		r.count("of_calls", c.GetOfCalls())
		r.count("tokens", c.GetTokens())
		r.text("could_save_nanos", could)
		r.text("could_save", decimal)
		r.text("summary", summary)
		r.text("action", c.GetAction())
		return r
	}
	var records []*record
	for _, f := range a.GetFeatures() {
		for _, e := range f.GetEffects() {
			records = append(records, one(f, e, nil))
			for _, c := range e.GetCauses() {
				records = append(records, one(f, e, c))
			}
		}
	}
	return csvTable(records, one(nil, nil, nil))
}
