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

	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/store"
)

type billingTotals struct {
	databaseFlags
	from, to string
	by       []string
	where    []string
}

func newBillingTotalsCommand() *cobra.Command {
	var o billingTotals
	cmd := &cobra.Command{
		Use:   "totals",
		Short: "Sum the imported bills up",
		Long: `Sum the imported bills up by any dimensions, to the last of 18 decimals: without rounding, so that the sums are those of the
files. Dimensions: ` + strings.Join(store.BillDimensions, ", ") + `, and tag: with a tag's name.`,
		Example: `  chartergate billing totals --by service
  chartergate billing totals --by provider,tag:application,day --from 2026-09-01 --to 2026-10-01
  chartergate billing totals --by model,token_class --where provider=AWS`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "only charges of this day, such as 2026-09-01, and later")
	f.StringVar(&o.to, "to", "", "only charges before this day")
	f.StringSliceVar(&o.by, "by", nil, "dimensions, in order; none: one sum of each currency")
	f.StringArrayVar(&o.where, "where", nil, "only a key of a dimension, such as provider=AWS; several times: any of one dimension's, all of the dimensions")
	completeFlag(cmd, "by", func() []string { return store.BillDimensions })
	return cmd
}

// parseDay reads a day; empty is none.
func parseDay(flag, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return t, usagef("%s %q: use a day such as 2026-09-01", flag, s)
	}
	return t, nil
}

// parseWhere reads dimension=key.
func parseWhere(flag string, list []string) (map[string][]string, error) {
	where := make(map[string][]string)
	for _, s := range list {
		d, key, ok := strings.Cut(s, "=")
		if !ok || d == "" {
			return nil, usagef("%s %q: write a dimension and its key, such as provider=AWS", flag, s)
		}
		where[d] = append(where[d], key)
	}
	return where, nil
}

type totalJSON struct {
	Keys      map[string]string `json:"keys"`
	Currency  string            `json:"currency"`
	Rows      int64             `json:"rows"`
	Billed    string            `json:"billed_cost"`
	Effective string            `json:"effective_cost"`
	List      string            `json:"list_cost"`
	Lines     string            `json:"billed_cost_of_lines"`
	Tokens    int64             `json:"tokens,omitempty"`
	Quantity  string            `json:"quantity,omitempty"`
}

func (o *billingTotals) run(cmd *cobra.Command) (err error) {
	q := store.BillQuery{By: o.by}
	if q.From, err = parseDay("--from", o.from); err != nil {
		return err
	}
	if q.To, err = parseDay("--to", o.to); err != nil {
		return err
	}
	if q.Where, err = parseWhere("--where", o.where); err != nil {
		return err
	}
	s, err := o.open(cmd.Context())
	if err != nil {
		return err
	}
	defer closing(s, &err)
	rows, err := s.SumBills(cmd.Context(), q)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return indented(cmd.OutOrStdout(), totalsJSON(rows, o.by))
	}
	if len(rows) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "No such line was imported.")
		return nil
	}
	printTotals(cmd.OutOrStdout(), rows, o.by)
	return nil
}

func totalsJSON(rows []store.BillRow, by []string) []totalJSON {
	list := make([]totalJSON, len(rows))
	for i := range rows {
		r := &rows[i]
		list[i] = totalJSON{Keys: map[string]string{}, Currency: r.Currency, Rows: r.Rows, Billed: r.Billed.String(), Effective: r.Effective.String(), List: r.List.String(),
			Lines: r.BilledLines.String(), Tokens: r.Tokens}
		if slices.Contains(by, store.BillUnit) {
			list[i].Quantity = r.Quantity.String()
		}
		for n, d := range by {
			list[i].Keys[d] = r.Keys[n]
		}
	}
	return list
}

func printTotals(out io.Writer, rows []store.BillRow, by []string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range by {
		fmt.Fprint(w, strings.ToUpper(d), "\t")
	}
	fmt.Fprintln(w, "ROWS\tBILLED\tEFFECTIVE\tLIST\tCURRENCY")
	sums := make(map[string]*[3]bill.Sum)
	for i := range rows {
		r := &rows[i]
		for _, k := range r.Keys {
			fmt.Fprint(w, cmp.Or(visible(k), "-"), "\t")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", thousands(r.Rows), &r.Billed, &r.Effective, &r.List, r.Currency)
		if sums[r.Currency] == nil {
			sums[r.Currency] = &[3]bill.Sum{}
		}
		for n, s := range []*bill.Sum{&r.Billed, &r.Effective, &r.List} {
			sums[r.Currency][n].Plus(s)
		}
	}
	if len(rows) > 1 {
		currencies := make([]string, 0, len(sums))
		for c := range sums {
			currencies = append(currencies, c)
		}
		slices.Sort(currencies)
		for _, c := range currencies {
			s := sums[c]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", "all"+strings.Repeat("\t", len(by)), &s[0], &s[1], &s[2], c)
		}
	}
	_ = w.Flush() // as of all output
}
