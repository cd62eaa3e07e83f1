package report

import (
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
// lines are given, and the sum of the rest. Error: money.ErrOverflow.
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

func (t *Table) fill(by []string, rows []usage.Row, limit int) error {
	t.Currency, t.By = rows[0].Currency, make([]Part, len(by))
	t.Total.Rows = len(rows)
	lines := make([]Line, len(rows))
	order := make([]*Line, len(rows))
	for i := range rows {
		l := &lines[i]
		l.Keys, l.Totals, l.Rows = rows[i].Keys, rows[i].Totals, 1
		var err error
		if l.Total, err = l.Cost.Total(); err != nil {
			return err
		}
		if err := t.Total.Add(&l.Totals); err != nil {
			return err
		}
		for d, key := range l.Keys {
			p := &t.By[d]
			switch key {
			case "":
				p.Unallocated += l.Total // cannot overflow where all costs are positive, as the total does not
			case usage.OtherKey:
				p.Other += l.Total
			}
		}
		order[i] = l
	}
	slices.SortFunc(order, func(a, b *Line) int {
		if x, y := keyless(a), keyless(b); x != y {
			if x {
				return 1
			}
			return -1
		}
		return dearest(a, b)
	})
	for d := range by {
		p := &t.By[d]
		p.Dimension = by[d]
		p.UnallocatedShare, p.OtherShare = share(p.Unallocated, t.Total.Total), share(p.Other, t.Total.Total)
	}
	return t.cut(order, limit)
}

// cut keeps limit lines and the one without any key, and sums the rest.
func (t *Table) cut(order []*Line, limit int) error {
	kept := min(limit, len(order))
	last := len(order)
	if kept < last && keyless(order[last-1]) {
		last--
		kept = max(kept-1, 0)
	}
	var amounts []money.Nanos
	for i, l := range order {
		if i >= kept && i < last {
			if t.Rest == nil {
				t.Rest = &Line{}
			}
			if err := t.Rest.Add(&l.Totals); err != nil {
				return err
			}
			t.Rest.Rows++
			continue
		}
		t.Lines = append(t.Lines, *l)
		amounts = append(amounts, l.Total)
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

// keyless says that a line has no key of any dimension.
func keyless(l *Line) bool {
	for _, k := range l.Keys {
		if k != "" {
			return false
		}
	}
	return len(l.Keys) > 0
}

func share(part, whole money.Nanos) int32 {
	n, _ := Ratio(int64(part), 1000, int64(whole))
	return int32(max(min(n, 1<<31-1), -1<<31))
}

var dimensions = []string{
	usage.DimFeature, usage.DimOwner, usage.DimTeam, usage.DimBudget, usage.DimBudgetPath, usage.DimCohort, usage.DimTier,
	usage.DimModel, usage.DimProvider, usage.DimPromptPattern, usage.DimEffect,
}

// Dimensions are what usage can be asked by, besides `label:` and a key of the charter's labels.
func Dimensions() []string { return slices.Clone(dimensions) }

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
	if slices.Contains(dimensions, d) {
		return nil
	}
	if key, ok := strings.CutPrefix(d, usage.DimLabel); ok && key != "" && len(key) <= 64 {
		return nil
	}
	return wrong(field, "unknown dimension %q: use %s, or label:KEY", d, strings.Join(dimensions, ", "))
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
