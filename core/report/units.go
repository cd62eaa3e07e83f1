package report

import (
	"cmp"
	"context"
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Units is what successes cost in one currency.
type Units struct {
	Currency string
	Lines    []Unit // the dearest first
	Total    Unit
	More     int // lines beyond the limit
}

// Unit is what the successes of some keys cost. A quotient is nil where there is nothing to divide by.
type Unit struct {
	Keys     []string
	Totals   usage.Totals
	Cost     money.Nanos
	Previous *int64 // of PerSuccesses, in the window before

	Success      *int64 // in per mille of those whose outcome is known
	PerSuccesses *int64 // nanos for 1,000 successes
	Target       *int64 // for the same; of several features weighted by successes; nil where one with successes has none
	OverTarget   *money.Nanos
	Change       *int64 // of PerSuccesses, in per mille

	PerCall                         *int64 // nanos
	Input, Output, Retrieval, Tools *int64 // of 1,000 calls

	before   struct{ cost, successes int64 }
	expected money.Nanos // what the successes were to cost
	targets  int         // features with successes
	target   int64       // of the last of them
	untold   bool        // one of them has no target
}

// UnitEconomics tells what 1,000 successes cost in a window, against the targets of the charters and the window before.
// Errors: of the store, money.ErrOverflow, usage.ErrOverflow.
func (m *Maker) UnitEconomics(ctx context.Context, w Window, by []string, where map[string][]string, limit int) ([]Units, error) {
	feature := slices.Index(by, usage.DimFeature)
	ask := by
	if feature < 0 { // the target is the feature's
		feature, ask = len(by), append(slices.Clone(by), usage.DimFeature)
	}
	now, err := m.sum(ctx, w, ask, where, usage.Whole)
	if err != nil {
		return nil, err
	}
	before, err := m.sum(ctx, w.Before(m.Now), ask, where, usage.Whole)
	if err != nil {
		return nil, err
	}
	was := map[string][]usage.Row{}
	for _, rows := range byCurrency(before) {
		was[rows[0].Currency] = rows
	}
	var list []Units
	for _, rows := range byCurrency(now) {
		u, err := m.units(rows, was[rows[0].Currency], len(by), feature)
		if err != nil {
			return nil, err
		}
		if u.More = max(0, len(u.Lines)-limit); u.More > 0 {
			u.Lines = u.Lines[:limit]
		}
		list = append(list, *u)
	}
	return list, nil
}

// units folds the rows of one currency by their first n keys.
func (m *Maker) units(rows, before []usage.Row, n, feature int) (*Units, error) {
	u := &Units{Currency: rows[0].Currency}
	lines := map[string]*Unit{}
	for i := range rows {
		r := &rows[i]
		l := lines[joined(r.Keys[:n])]
		if l == nil {
			l = &Unit{Keys: r.Keys[:n]}
			lines[joined(l.Keys)] = l
		}
		for _, to := range []*Unit{l, &u.Total} {
			if err := to.add(r, m.target(r.Keys[feature])); err != nil {
				return nil, err
			}
		}
	}
	for i := range before {
		r := &before[i]
		cost, err := r.Cost.Total()
		if err != nil {
			return nil, err
		}
		for _, to := range []*Unit{lines[joined(r.Keys[:n])], &u.Total} {
			if to == nil {
				continue
			}
			sum, err := money.Add(money.Nanos(to.before.cost), cost)
			if err != nil {
				return nil, err
			}
			to.before.cost = int64(sum)
			to.before.successes += r.Successes
		}
	}
	if err := u.Total.finish(); err != nil {
		return nil, err
	}
	for _, l := range lines {
		if err := l.finish(); err != nil {
			return nil, err
		}
		if n > 0 {
			u.Lines = append(u.Lines, *l)
		}
	}
	slices.SortFunc(u.Lines, func(a, b Unit) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(b.Totals.Calls, a.Totals.Calls), slices.Compare(a.Keys, b.Keys))
	})
	return u, nil
}

// target is what 1,000 successes of a feature are to cost, 0 for none.
func (m *Maker) target(feature string) money.Nanos {
	if m.Charters != nil {
		if c := m.Charters.Charter(feature); c != nil {
			return c.TargetCostPer1000
		}
	}
	return 0
}

func (u *Unit) add(r *usage.Row, target money.Nanos) error {
	cost, err := r.Cost.Total()
	if err != nil {
		return err
	}
	if u.Cost, err = money.Add(u.Cost, cost); err != nil {
		return err
	}
	if r.Successes > 0 && target == 0 {
		u.untold = true
	}
	if target > 0 {
		expected, ok := Ratio(r.Successes, int64(target), 1000)
		if !ok {
			return money.ErrOverflow
		}
		if u.expected, err = money.Add(u.expected, money.Nanos(expected)); err != nil {
			return err
		}
		if u.targets == 0 || u.target != int64(target) {
			u.targets++
		}
		u.target = int64(target)
	}
	return u.Totals.Add(&r.Totals)
}

func (u *Unit) finish() error {
	t := &u.Totals
	per := func(part, scale, whole int64) *int64 {
		if n, ok := Ratio(part, scale, whole); ok {
			return &n
		}
		return nil
	}
	u.Success = per(t.Successes, 1000, t.Successes+t.Failures)
	u.PerSuccesses = per(int64(u.Cost), 1000, t.Successes)
	u.Previous = per(u.before.cost, 1000, u.before.successes)
	if u.PerSuccesses != nil && u.Previous != nil {
		u.Change = per(*u.PerSuccesses-*u.Previous, 1000, *u.Previous)
	}
	u.PerCall = per(int64(u.Cost), 1, t.Calls)
	u.Input, u.Output = per(t.Usage.AllInput(), 1000, t.Calls), per(t.Usage.AllOutput(), 1000, t.Calls)
	u.Retrieval, u.Tools = per(t.Usage.RetrievalHops, 1000, t.Calls), per(ToolCalls(t), 1000, t.Calls)
	if u.targets == 0 || u.untold {
		return nil
	}
	if u.Target = &u.target; u.targets > 1 {
		u.Target = per(int64(u.expected), 1000, t.Successes)
	}
	if t.Successes > 0 {
		over, err := money.Sub(u.Cost, u.expected)
		if err != nil {
			return err
		}
		u.OverTarget = &over
	}
	return nil
}
