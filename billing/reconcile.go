package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Basis is the cost of a bill that is compared.
type Basis string

// Bases.
const (
	Billed    Basis = "billed"
	Effective Basis = "effective"
	List      Basis = "list"
)

// Reconciler compares what was billed with what the ledger counted.
type Reconciler struct {
	Usage store.Usage
	Bills store.Bills
}

// Comparison says what to compare.
type Comparison struct {
	From, To time.Time           // whole days, UTC; To is not included
	Basis    Basis               // empty: Billed
	Where    map[string][]string // of provider, model, feature: by the ledger's names
	Aliases  map[string]string   // of the bill's names of providers and models
}

// Result is a reconciliation.
type Result struct {
	*bill.Reconciliation
	Coverage usage.Coverage
	Outside  map[string]*bill.Sum // by currency: billed of the same days that is not of models, which is not compared
	Proposed []Proposal
}

// Proposal is an adjusting entry: posted, the ledger equals the bill for its key but for what is missing in the bill or
// not allocated.
type Proposal struct {
	usage.Adjustment
	Parts map[bill.Cause]money.Nanos
}

// Reconcile compares. Errors: *usage.QueryError, those of the stores, money.ErrOverflow.
func (r *Reconciler) Reconcile(ctx context.Context, c Comparison) (*Result, error) {
	if !c.From.Before(c.To) || !c.From.Equal(c.From.UTC().Truncate(24*time.Hour)) || !c.To.Equal(c.To.UTC().Truncate(24*time.Hour)) {
		return nil, &usage.QueryError{Field: "from", Problem: "and to must be whole days, UTC, and to after from"}
	}
	for d := range c.Where {
		if d != usage.DimProvider && d != usage.DimModel && d != usage.DimFeature {
			return nil, &usage.QueryError{Field: "where", Problem: fmt.Sprintf("%q is none of provider, model and feature", d)}
		}
	}
	result := &Result{Outside: make(map[string]*bill.Sum)}
	spends, err := r.spends(ctx, c, result)
	if err != nil {
		return nil, err
	}
	charges, err := r.charges(ctx, c, bill.NewNames(spends, c.Aliases), result)
	if err != nil {
		return nil, err
	}
	spends = slices.DeleteFunc(spends, func(s bill.Spend) bool { return !c.wants(s.Provider, s.Model, s.Feature, false) })
	if result.Reconciliation, err = bill.Reconcile(spends, charges); err != nil {
		return nil, err
	}
	posted, err := r.Usage.Adjustments(ctx, c.From, c.To, maxPosted)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(posted))
	for _, a := range posted {
		known[a.ID] = true
	}
	result.Proposed, err = propose(result.Rows, known)
	return result, err
}

// wants says whether a name is asked for. What has no feature tag is, whatever the feature, as it may be of any.
func (c *Comparison) wants(provider, model, feature string, charge bool) bool {
	for d, v := range map[string]string{usage.DimProvider: provider, usage.DimModel: model, usage.DimFeature: feature} {
		if any := c.Where[d]; len(any) > 0 && !slices.Contains(any, v) && !(charge && d == usage.DimFeature && v == "") {
			return false
		}
	}
	return true
}

func (r *Reconciler) spends(ctx context.Context, c Comparison, result *Result) ([]bill.Spend, error) {
	rows, coverage, err := r.Usage.Sum(ctx, usage.Query{From: c.From, To: c.To, Step: usage.Day,
		By: []string{usage.DimProvider, usage.DimModel, usage.DimFeature, usage.DimEffect}})
	if err != nil {
		return nil, err
	}
	result.Coverage = coverage
	list := make([]bill.Spend, 0, len(rows))
	for i := range rows {
		row := &rows[i]
		s := bill.Spend{Provider: row.Keys[0], Model: row.Keys[1], Feature: row.Keys[2], Currency: row.Currency, Day: row.Start}
		total, err := row.Cost.Total()
		if err != nil {
			return nil, err
		}
		if row.Keys[3] == usage.EffectAdjustment {
			s.Adjusted = total
		} else {
			s.InputTokens, s.OutputTokens = row.Usage.AllInput(), row.Usage.AllOutput()
			s.Input, s.Output = row.Cost.Input+row.Cost.ContextOverhead, row.Cost.Output
			s.Other = total - s.Input - s.Output
		}
		list = append(list, s)
	}
	return list, nil
}

func (r *Reconciler) charges(ctx context.Context, c Comparison, names *bill.Names, result *Result) ([]bill.Charge, error) {
	rows, err := r.Bills.SumBills(ctx, store.BillQuery{From: c.From, To: c.To,
		By: []string{store.BillProvider, store.BillModel, store.BillFeature, store.BillDay, store.BillTokenClass}})
	if err != nil {
		return nil, err
	}
	var list []bill.Charge
	for i := range rows {
		row := &rows[i]
		sum := &row.Billed
		switch c.Basis {
		case Effective:
			sum = &row.Effective
		case List:
			sum = &row.List
		case Billed, "":
		default:
			return nil, &usage.QueryError{Field: "basis", Problem: fmt.Sprintf("%q is none of %s, %s and %s", c.Basis, Billed, Effective, List)}
		}
		if row.Keys[1] == "" {
			if result.Outside[row.Currency] == nil {
				result.Outside[row.Currency] = &bill.Sum{}
			}
			result.Outside[row.Currency].Plus(sum)
			continue
		}
		x := bill.Charge{Feature: row.Keys[2], Currency: row.Currency, Class: row.Keys[4], Tokens: row.Tokens}
		x.Provider, x.Model = names.Match(row.Keys[0], row.Keys[1])
		if x.Day, err = time.Parse(time.DateOnly, row.Keys[3]); err != nil {
			return nil, err
		}
		if x.Cost, err = sum.Nanos(); err != nil {
			return nil, err
		}
		if c.wants(x.Provider, x.Model, x.Feature, true) {
			list = append(list, x)
		}
	}
	return list, nil
}

// notPosted are parts of a variance that no entry corrects: bills come late, and money without a tag was spent all the same.
var notPosted = []bill.Cause{bill.MissingInBill, bill.Unallocated}

// maxPosted bounds how many entries that were posted before are looked at.
const maxPosted = 1_000_000

func propose(rows []bill.Variance, posted map[string]bool) ([]Proposal, error) {
	var list []Proposal
	for _, v := range rows {
		p := Proposal{Parts: make(map[bill.Cause]money.Nanos)}
		var reasons []string
		for _, cause := range bill.Causes {
			n := v.Parts[cause]
			if n == 0 || slices.Contains(notPosted, cause) || cause == bill.Adjusted && v.Billed == 0 {
				continue
			}
			var err error
			if p.Amount, err = money.Add(p.Amount, n); err != nil {
				return nil, err
			}
			p.Parts[cause] = n
			reasons = append(reasons, fmt.Sprintf("%s %s", cause, n))
		}
		if p.Amount == 0 {
			continue
		}
		p.Hour = v.Day
		p.Attribution = usage.Attribution{Feature: v.Feature, Provider: v.Provider, Model: v.Model, Currency: v.Currency, Effect: usage.EffectAdjustment}
		p.Reason = "billing reconciliation: " + strings.Join(reasons, ", ")
		p.Corrects = fmt.Sprintf("%s %s of feature %q on %s: ledger %s, billed %s", v.Provider, v.Model, v.Feature, v.Day.Format(time.DateOnly), v.Ledger, v.Billed)
		// The same difference has the same id, so that who accepts it at the same time posts it once. One that was posted
		// and has come back, since the bill went to and fro, has another.
		for n := 0; p.ID == "" || posted[p.ID]; n++ {
			sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d", v.Currency, p.Corrects, p.Amount, n))
			p.ID = "bill-" + hex.EncodeToString(sum[:12])
		}
		list = append(list, p)
	}
	return list, nil
}

// Group sums variances up by some of provider, model, feature and day. Error: *usage.QueryError.
func Group(rows []bill.Variance, by []string) ([]bill.Variance, error) {
	keep := make(map[string]bool)
	for _, d := range by {
		switch d {
		case usage.DimProvider, usage.DimModel, usage.DimFeature, "day":
			keep[d] = true
		default:
			return nil, &usage.QueryError{Field: "by", Problem: fmt.Sprintf("%q is none of provider, model, feature and day", d)}
		}
	}
	var list []bill.Variance
	at := make(map[bill.Key]int)
	for i := range rows {
		k := rows[i].Key
		if !keep[usage.DimProvider] {
			k.Provider = ""
		}
		if !keep[usage.DimModel] {
			k.Model = ""
		}
		if !keep[usage.DimFeature] {
			k.Feature = ""
		}
		if !keep["day"] {
			k.Day = time.Time{}
		}
		n, ok := at[k]
		if !ok {
			n = len(list)
			at[k] = n
			list = append(list, bill.Variance{Key: k})
		}
		list[n].Add(&rows[i])
	}
	slices.SortFunc(list, func(a, b bill.Variance) int { return a.Compare(b.Key) })
	return list, nil
}

// Accept posts proposals. One that was posted before counts once. Errors: those of store.Usage.
func Accept(ctx context.Context, s store.Usage, list []Proposal, now time.Time) error {
	adjustments := make([]usage.Adjustment, len(list))
	for i := range list {
		adjustments[i] = list[i].Adjustment
		adjustments[i].Time = now
	}
	if len(adjustments) == 0 {
		return nil
	}
	return s.Adjust(ctx, adjustments)
}
