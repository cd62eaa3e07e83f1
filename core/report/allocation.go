package report

import (
	"cmp"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Table is an allocation in one currency.
type Table struct {
	Currency string
	Lines    []Line // the dearest first; the one without any key last
	Rest     *Line  // the sum of the lines beyond the limit; nil for none
	Total    Line
	By       []Part // by dimension
}

// Part says how much of a table's total has no key of a dimension, or one beyond those that are kept.
type Part struct {
	Dimension          string
	Unallocated, Other money.Nanos
	UnallocatedShare   int32 // of the total, in per mille, rounded half up; 0 where the total is not above 0
	OtherShare         int32
}

// Allocate says who used what: a table for each currency, from the sums of one window by some dimensions. At most limit
// lines are given, and the sum of the rest. Error: money.ErrOverflow or usage.ErrOverflow.
func Allocate(by []string, rows []usage.Row, limit int) ([]Table, error) {
	parts := byCurrency(rows)
	tables := make([]Table, len(parts))
	for i, part := range parts {
		if err := tables[i].fill(by, part, limit); err != nil {
			return nil, err
		}
	}
	return tables, nil
}

// costed is a row with its cost.
type costed struct {
	*usage.Row
	total   money.Nanos
	keyless bool // it has no key of any dimension
}

func (t *Table) fill(by []string, rows []usage.Row, limit int) (err error) {
	t.Currency, t.By = rows[0].Currency, make([]Part, len(by))
	order := make([]costed, len(rows))
	for i := range rows {
		c := &order[i]
		c.Row, c.keyless = &rows[i], len(by) > 0
		if c.total, err = c.Cost.Total(); err != nil {
			return err
		}
		if err := t.Total.Add(&c.Totals); err != nil {
			return err
		}
		for d, key := range c.Keys {
			c.keyless = c.keyless && key == ""
			part := &t.By[d].Unallocated
			if key == usage.OtherKey {
				part = &t.By[d].Other
			} else if key != "" {
				continue
			}
			if *part, err = money.Add(*part, c.total); err != nil {
				return err
			}
		}
	}
	for d := range by {
		p := &t.By[d]
		p.Dimension = by[d]
		p.UnallocatedShare, p.OtherShare = share(p.Unallocated, t.Total.Total), share(p.Other, t.Total.Total)
	}
	slices.SortFunc(order, func(a, b costed) int {
		if a.keyless != b.keyless {
			if a.keyless {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.total, a.total), cmp.Compare(b.Calls, a.Calls), slices.Compare(a.Keys, b.Keys))
	})
	return t.cut(order, limit)
}

// cut keeps limit lines, the keyless one among them, and sums the rest.
func (t *Table) cut(order []costed, limit int) error {
	kept, last := min(limit, len(order)), len(order)
	if kept < last && order[last-1].keyless {
		last--
		kept = max(kept-1, 0)
	}
	var amounts []money.Nanos
	for i, c := range order {
		if i >= kept && i < last {
			if t.Rest == nil {
				t.Rest = &Line{}
			}
			if err := t.Rest.Add(&c.Totals); err != nil {
				return err
			}
			continue
		}
		t.Lines = append(t.Lines, Line{Keys: c.Keys, Totals: c.Totals, Total: c.total, Rows: 1})
		amounts = append(amounts, c.total)
	}
	if t.Rest != nil {
		amounts = append(amounts, t.Rest.Total)
	}
	shares := Shares(t.Total.Total, amounts)
	for i := range t.Lines {
		t.Lines[i].Share = shares[i]
		t.Total.Share += shares[i]
	}
	if t.Rest != nil {
		t.Rest.Share = shares[len(t.Lines)]
		t.Total.Share += t.Rest.Share
	}
	return nil
}

func share(part, whole money.Nanos) int32 {
	n, _ := Ratio(int64(part), 1000, int64(whole))
	return int32(max(min(n, 1<<31-1), -1<<31))
}

// CheckDimensions refuses dimensions that usage has not, or the same one twice. Error: *FieldError.
func CheckDimensions(by []string) error {
	if len(by) > MaxDimensions {
		return wrong("by", "names %d dimensions: ask by at most %d", len(by), MaxDimensions)
	}
	for i, d := range by {
		if err := checkDimension("by", d); err != nil {
			return err
		}
		if slices.Contains(by[:i], d) {
			return wrong("by", "names %s twice", d)
		}
	}
	return nil
}

func checkDimension(field, d string) error {
	if slices.Contains(usage.Dimensions, d) {
		return nil
	}
	if key, ok := strings.CutPrefix(d, usage.DimLabel); ok && key != "" && len(key) <= 64 {
		return nil
	}
	return wrong(field, "unknown dimension %q: use %s, or label:KEY", d, strings.Join(usage.Dimensions, ", "))
}

// Filters reads conditions such as `team=search`. Several of one dimension are alternatives; an empty key asks for what
// named none. Error: *FieldError.
func Filters(where []string) (map[string][]string, error) {
	if len(where) > MaxFilters {
		return nil, wrong("where", "has %d conditions: give at most %d", len(where), MaxFilters)
	}
	var m map[string][]string
	for _, w := range where {
		d, key, ok := strings.Cut(w, "=")
		if !ok {
			return nil, wrong("where", "%q is no condition: write DIMENSION=KEY, such as team=search", w)
		}
		if err := checkDimension("where", d); err != nil {
			return nil, err
		}
		if m == nil {
			m = map[string][]string{}
		}
		if !slices.Contains(m[d], key) {
			m[d] = append(m[d], key)
		}
	}
	return m, nil
}
