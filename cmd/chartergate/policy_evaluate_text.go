package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/policy/evaluate"
)

func writeEvaluationJSON(w io.Writer, r *evaluate.Result) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func writeEvaluation(w io.Writer, cases, revision string, at time.Time, r *evaluate.Result) error {
	fmt.Fprintf(w, "%d cases of %s, decided by %s\n\n", r.Cases, visible(cases), visible(revision))
	fmt.Fprintf(w, "cost saved    %s  (95%% interval %s to %s)\n", shareText(r.CostSaved), shareText(r.CostSavedInterval.Low), shareText(r.CostSavedInterval.High))
	fmt.Fprintf(w, "quality kept  %s  (95%% interval %s to %s)\n\n", shareText(r.QualityKept), shareText(r.QualityKeptInterval.Low), shareText(r.QualityKeptInterval.High))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\t%s\tsaved\tkept\tsolved\t%s\t\n", r.Currency, strings.Join(tierNames(r), "\t"))
	for _, row := range append([]evaluate.Row{r.Policy}, r.Baselines...) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Name, money.Nanos(row.CostNanos), shareText(row.CostSaved), shareText(row.QualityKept), shareText(row.Solved), mixText(r, row.Mix))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := r.Policy.Refused; n > 0 {
		fmt.Fprintf(w, "The policy refuses %s.\n", counted(n, "case"))
	}
	if n := r.Policy.Capped; n > 0 {
		fmt.Fprintf(w, "The policy cuts off the answers of %s.\n", counted(n, "case"))
	}
	if g := r.Gap; g != nil {
		fmt.Fprintf(w, "\nOf what the dearest tier solves beyond the cheapest the policy recovers %s; 50%%, 80%% and 95%% of it cost %s, %s and %s of\n"+
			"always-expensive. Area under the curve: %.3f, by chance 0.5.\n",
			shareText(g.Recovered), shareText(g.Cost50), shareText(g.Cost80), shareText(g.Cost95), g.Area)
	} else {
		fmt.Fprintln(w, "\nThe dearest tier solves no more than the cheapest: there is no gap to recover.")
	}
	if err := writeCurve(w, r); err != nil {
		return err
	}
	if err := writeClasses(w, r); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nPrices per million tokens at %s:\n", at.UTC().Format(time.DateOnly))
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range r.Prices {
		fmt.Fprintf(t, "  %s\t%s\t%s in\t%s out\t%s\n", p.Tier, p.Model, money.Nanos(p.InputNanos), money.Nanos(p.OutputNanos), visible(p.Source))
	}
	return t.Flush()
}

func writeCurve(w io.Writer, r *evaluate.Result) error {
	fmt.Fprintln(w, "\nThe curve: every call taken to be easier (+) or harder (-) by so many points. The policy as it is stands at 0.")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "threshold\tsaved\tkept\tsolved\t%s\t\n", strings.Join(tierNames(r), "\t"))
	for i, p := range r.Curve {
		same := i > 0 && i < len(r.Curve)-1 && p.Threshold != 0 && maps.Equal(p.Mix, r.Curve[i-1].Mix)
		if same {
			continue
		}
		fmt.Fprintf(t, "%+d\t%s\t%s\t%s\t%s\t\n", p.Threshold, shareText(p.CostSaved), shareText(p.QualityKept), shareText(p.Solved), mixText(r, p.Mix))
	}
	return t.Flush()
}

// shownClasses are listed in the table; JSON and CSV have all.
const shownClasses = 30

func writeClasses(w io.Writer, r *evaluate.Result) error {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "task class\tcases\tsaved\tkept\tsolved\t%s\t\n", strings.Join(tierNames(r), "\t"))
	for i, c := range r.Classes {
		if i == shownClasses {
			break
		}
		name := visible(c.TaskClass)
		if name == "" {
			name = "(none)"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t\n", name, c.Cases, shareText(c.CostSaved), shareText(c.QualityKept), shareText(c.Solved), mixText(r, c.Mix))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if n := len(r.Classes) - shownClasses; n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
	if names := r.Unknown(); len(names) > 0 {
		var list []string
		for _, name := range names[:min(len(names), 10)] {
			list = append(list, fmt.Sprintf("%q (%d)", name, r.UnknownClasses[name]))
		}
		fmt.Fprintf(w, "Of these task classes the router has no complexity: %s.\n", strings.Join(list, ", "))
	}
	return nil
}

func tierNames(r *evaluate.Result) []string {
	var names []string
	for _, p := range r.Prices {
		names = append(names, visible(p.Tier))
	}
	return names
}

func mixText(r *evaluate.Result, mix map[string]float64) string {
	var cells []string
	for _, p := range r.Prices {
		cells = append(cells, shareText(mix[p.Tier]))
	}
	return strings.Join(cells, "\t")
}

func shareText(share float64) string { return strconv.FormatFloat(100*share, 'f', 1, 64) + "%" }

// writeEvaluationCSV writes a line for the policy, each baseline, each point of the curve and each task class.
func writeEvaluationCSV(w io.Writer, r *evaluate.Result) error {
	c := csv.NewWriter(w)
	head := []string{"kind", "name", "cases", "cost_nanos", "cost_saved", "quality_kept", "solved"}
	for _, p := range r.Prices {
		head = append(head, "share_"+p.Tier)
	}
	line := func(kind, name, cases, cost string, saved, kept, solved float64, mix map[string]float64) []string {
		cells := []string{kind, name, cases, cost, decimal(saved), decimal(kept), decimal(solved)}
		for _, p := range r.Prices {
			cells = append(cells, decimal(mix[p.Tier]))
		}
		return cells
	}
	lines := [][]string{head}
	all := strconv.FormatInt(r.Cases, 10)
	for i, row := range slices.Concat([]evaluate.Row{r.Policy}, r.Baselines) {
		kind := "baseline"
		if i == 0 {
			kind = "policy"
		}
		lines = append(lines, line(kind, row.Name, all, strconv.FormatInt(row.CostNanos, 10), row.CostSaved, row.QualityKept, row.Solved, row.Mix))
	}
	for _, p := range r.Curve {
		lines = append(lines, line("curve", strconv.Itoa(p.Threshold), all, "", p.CostSaved, p.QualityKept, p.Solved, p.Mix))
	}
	for _, t := range r.Classes {
		lines = append(lines, line("task_class", t.TaskClass, strconv.FormatInt(t.Cases, 10), strconv.FormatInt(t.CostNanos, 10), t.CostSaved, t.QualityKept, t.Solved, t.Mix))
	}
	return c.WriteAll(lines)
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', 6, 64) }
