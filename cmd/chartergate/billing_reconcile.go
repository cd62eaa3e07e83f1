package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/billing"
	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

type billingReconcile struct {
	databaseFlags
	from, to, basis    string
	by, where, aliases []string
	accept             bool
}

func newBillingReconcileCommand() *cobra.Command {
	var o billingReconcile
	cmd := &cobra.Command{
		Use:   "reconcile --from DAY --to DAY",
		Short: "Compare what was billed with what the ledger counted",
		Long: `Compare the imported bills with the ledger by provider, model, feature tag and day, and explain each difference by
  rate               the same tokens at another price than the ledger's
  volume             other tokens than the ledger counted, at its price
  unallocated        billed without a feature tag: what features lack and untagged lines have
  missing_in_bill    a day of which the bill has nothing of a model that the ledger has
  missing_in_ledger  charges of a model of which the ledger has nothing that day
  adjusted           entries that were posted before
  unexplained        a cost without tokens
so that the parts add up to the difference exactly. Adjusting entries are proposed for all but unallocated and missing_in_bill; --accept
posts them, each once. Lines that are of no model are not compared.`,
		Example: `  chartergate billing reconcile --from 2026-09-01 --to 2026-10-01
  chartergate billing reconcile --from 2026-09-01 --to 2026-10-01 --by model --alias house-model=gpt-4o --accept`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "first day, such as 2026-09-01, UTC")
	f.StringVar(&o.to, "to", "", "the day after the last")
	f.StringSliceVar(&o.by, "by", []string{"provider", "model"}, "dimensions of the table: provider, model, feature, day")
	f.StringVar(&o.basis, "cost", string(billing.Billed), "cost of the bill that is compared: billed, effective or list")
	f.StringArrayVar(&o.where, "where", nil, "only a provider, model or feature, such as model=gpt-4o")
	f.StringArrayVar(&o.aliases, "alias", nil, "what the ledger calls a provider or model of the bill, BILL=LEDGER")
	f.BoolVar(&o.accept, "accept", false, "post the proposed adjusting entries")
	for _, name := range []string{"from", "to"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func (o *billingReconcile) run(cmd *cobra.Command) (err error) {
	c := billing.Comparison{Basis: billing.Basis(o.basis), Aliases: make(map[string]string)}
	if c.From, err = parseDay("--from", o.from); err != nil {
		return err
	}
	if c.To, err = parseDay("--to", o.to); err != nil {
		return err
	}
	if c.Where, err = parseWhere("--where", o.where); err != nil {
		return err
	}
	for _, a := range o.aliases {
		from, to, ok := strings.Cut(a, "=")
		if !ok || from == "" {
			return usagef("--alias %q: write BILL=LEDGER", a)
		}
		c.Aliases[from] = to
	}
	if _, err := billing.Group(nil, o.by); err != nil {
		return usagef("--%v", err)
	}
	s, err := o.open(cmd.Context())
	if err != nil {
		return err
	}
	defer closing(s, &err)
	r, err := (&billing.Reconciler{Usage: s, Bills: s}).Reconcile(cmd.Context(), c)
	if err != nil {
		return err
	}
	rows, err := billing.Group(r.Rows, o.by)
	if err != nil {
		return err
	}
	if o.accept {
		if err := billing.Accept(cmd.Context(), s, r.Proposed, time.Now()); err != nil {
			return err
		}
	}
	if o.output == "json" {
		return indented(cmd.OutOrStdout(), reconciliationJSON(r, rows, o.accept))
	}
	printReconciliation(cmd.OutOrStdout(), r, rows, o.by, o.accept)
	return nil
}

type varianceJSON struct {
	Currency string           `json:"currency"`
	Provider string           `json:"provider,omitempty"`
	Model    string           `json:"model,omitempty"`
	Feature  string           `json:"feature,omitempty"`
	Day      string           `json:"day,omitempty"`
	Ledger   int64            `json:"ledger_nanos"`
	Billed   int64            `json:"billed_nanos"`
	Variance int64            `json:"variance_nanos"`
	Parts    map[string]int64 `json:"parts_nanos"`
}

type findingJSON struct {
	Cause     string `json:"cause"`
	Currency  string `json:"currency"`
	Provider  string `json:"provider"`
	Model     string `json:"model,omitempty"`
	Component string `json:"component,omitempty"`
	From      string `json:"from"`
	To        string `json:"to"`
	Amount    int64  `json:"amount_nanos"`
	PPM       int64  `json:"ppm,omitempty"`
	Tokens    int64  `json:"tokens,omitempty"`
	Text      string `json:"text"`
}

type proposalJSON struct {
	ID       string `json:"id"`
	Day      string `json:"day"`
	Currency string `json:"currency"`
	Provider string `json:"provider"`
	Model    string `json:"model"`
	Feature  string `json:"feature"`
	Amount   int64  `json:"amount_nanos"`
	Reason   string `json:"reason"`
	Corrects string `json:"corrects"`
	Posted   bool   `json:"posted"`
}

func dayText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.DateOnly)
}

func reconciliationJSON(r *billing.Result, rows []bill.Variance, posted bool) any {
	out := struct {
		Rows     []varianceJSON    `json:"rows"`
		Findings []findingJSON     `json:"findings"`
		Proposed []proposalJSON    `json:"adjustments"`
		Outside  map[string]string `json:"billed_not_of_models"`
		AsOf     time.Time         `json:"ledger_as_of"`
	}{Rows: []varianceJSON{}, Findings: []findingJSON{}, Proposed: []proposalJSON{}, Outside: map[string]string{}, AsOf: r.Coverage.AsOf}
	for i := range rows {
		v := &rows[i]
		x := varianceJSON{v.Currency, v.Provider, v.Model, v.Feature, dayText(v.Day), int64(v.Ledger), int64(v.Billed), int64(v.Amount()), map[string]int64{}}
		for c, n := range v.Parts {
			x.Parts[string(c)] = int64(n)
		}
		out.Rows = append(out.Rows, x)
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		out.Findings = append(out.Findings, findingJSON{string(f.Cause), f.Currency, f.Provider, f.Model, f.Component, dayText(f.From), dayText(f.To), int64(f.Amount), f.PPM,
			f.Tokens, f.String()})
	}
	for i := range r.Proposed {
		p := &r.Proposed[i]
		out.Proposed = append(out.Proposed, proposalJSON{p.ID, dayText(p.Hour), p.Currency, p.Provider, p.Model, p.Feature, int64(p.Amount), p.Reason, p.Corrects, posted})
	}
	for c, s := range r.Outside {
		out.Outside[c] = s.String()
	}
	return out
}

const shownFindings = 40

func printReconciliation(out io.Writer, r *billing.Result, rows []bill.Variance, by []string, posted bool) {
	if len(rows) == 0 {
		fmt.Fprintln(out, "Neither the ledger nor an imported bill has anything of a model in these days.")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range by {
		fmt.Fprint(w, strings.ToUpper(d), "\t")
	}
	fmt.Fprint(w, "LEDGER\tBILLED\tVARIANCE")
	var causes []bill.Cause
	for _, c := range bill.Causes {
		if slices.ContainsFunc(rows, func(v bill.Variance) bool { return v.Parts[c] != 0 }) {
			causes = append(causes, c)
			fmt.Fprint(w, "\t", strings.ToUpper(string(c)))
		}
	}
	fmt.Fprintln(w, "\tCURRENCY")
	sums := make(map[string]*bill.Variance)
	line := func(keys []string, v *bill.Variance) {
		for _, k := range keys {
			fmt.Fprint(w, cmp.Or(visible(k), "-"), "\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s", v.Ledger, v.Billed, v.Amount())
		for _, c := range causes {
			fmt.Fprint(w, "\t", v.Parts[c])
		}
		fmt.Fprintln(w, "\t"+v.Currency)
	}
	for i := range rows {
		v := &rows[i]
		line(keysOf(v, by), v)
		if sums[v.Currency] == nil {
			sums[v.Currency] = &bill.Variance{Key: bill.Key{Currency: v.Currency}}
		}
		sums[v.Currency].Add(v)
	}
	if len(rows) > 1 && len(by) > 0 {
		for _, v := range rows {
			if s := sums[v.Currency]; s != nil {
				line(append([]string{"all"}, make([]string, len(by)-1)...), s)
				delete(sums, v.Currency)
			}
		}
	}
	_ = w.Flush() // as of all output
	if len(r.Findings) > 0 {
		fmt.Fprintln(out)
	}
	for i := range r.Findings[:min(len(r.Findings), shownFindings)] {
		fmt.Fprintln(out, visible(r.Findings[i].String()))
	}
	if more := len(r.Findings) - shownFindings; more > 0 {
		fmt.Fprintf(out, "and %d more: -o json has them\n", more)
	}
	for c, s := range r.Outside {
		fmt.Fprintf(out, "not compared: %s %s of the bills is not of models\n", s, c)
	}
	printProposals(out, r, posted)
}

func printProposals(out io.Writer, r *billing.Result, posted bool) {
	sums := make(map[string]money.Nanos)
	var order []string
	for i := range r.Proposed {
		p := &r.Proposed[i]
		if _, ok := sums[p.Currency]; !ok {
			order = append(order, p.Currency)
		}
		sums[p.Currency] += p.Amount // at most the variances
	}
	for _, c := range order {
		what := "adjusting entries are proposed; --accept posts them"
		if posted {
			what = "adjusting entries are posted"
		}
		fmt.Fprintf(out, "\n%d %s: %s %s\n", len(r.Proposed), what, sums[c], c)
	}
}

func keysOf(v *bill.Variance, by []string) []string {
	keys := make([]string, len(by))
	for i, d := range by {
		switch d {
		case usage.DimProvider:
			keys[i] = v.Provider
		case usage.DimModel:
			keys[i] = v.Model
		case usage.DimFeature:
			if keys[i] = v.Feature; keys[i] == "" {
				keys[i] = "(no tag)"
			}
		case "day":
			keys[i] = dayText(v.Day)
		}
	}
	return keys
}
