package report

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Sums is what a report asks of a usage store.
type Sums interface {
	Sum(ctx context.Context, q usage.Query) ([]usage.Row, usage.Coverage, error)
}

// Maker makes reports at one time, from what is known then.
type Maker struct {
	Sums     Sums
	Now      time.Time
	Charters *charter.Snapshot
	Accounts []Account // how the budgets stand

	covered *usage.Coverage
	byLeaf  map[string][]*charter.Charter
}

// Account is how one budget, one key of it, or one feature's overflow allowance stands in its current period.
type Account struct {
	Name             string // `budgets/{id}`, with `/keys/{key}` or `/overflow/{feature}`
	Budget           *charter.Budget
	Key, Overflow    string
	Period           charter.Span
	Limit            money.Nanos // the ceiling in force
	Settled          money.Nanos // forced spend included
	Forced, Reserved money.Nanos // Reserved: held
}

// Remaining is the limit less what is settled and held, at least 0.
func (a *Account) Remaining() money.Nanos { return max(0, a.Limit-a.Settled-a.Reserved) }

// sum asks the store; what the first answer of a report covers is what the report covers.
func (m *Maker) sum(ctx context.Context, w Window, by []string, where map[string][]string, step usage.Step) ([]usage.Row, error) {
	if !w.From.Before(w.To) {
		return nil, nil
	}
	rows, covered, err := m.Sums.Sum(ctx, usage.Query{From: w.From, To: w.To, By: by, Where: where, Step: step})
	if err == nil && m.covered == nil {
		m.covered = &covered
	}
	return rows, err
}

// Coverage is the part of the ledger that is in the reports made so far: that of the first question asked.
func (m *Maker) Coverage(ctx context.Context) (usage.Coverage, error) {
	if m.covered == nil { // nothing was asked: ask for an hour
		end := nextHour(m.Now)
		if _, err := m.sum(ctx, Window{From: end.Add(-time.Hour), To: end}, nil, nil, usage.Whole); err != nil {
			return usage.Coverage{}, err
		}
	}
	return *m.covered, nil
}

// History is the time that forecasts look back to.
func (m *Maker) History() Window {
	return Window{Zone: time.UTC, From: historyStart(m.Now), To: nextHour(m.Now)}
}

// joined makes a map key of keys, which hold no NUL.
func joined(keys []string) string { return strings.Join(keys, "\x00") }

// narrowed is where, with the keys that lines have: what is asked so may have more keys, but lacks none of them.
func narrowed(by []string, where map[string][]string, lines []Line) map[string][]string {
	m := make(map[string][]string, len(where)+len(by))
	for d, keys := range where {
		m[d] = keys
	}
	for i, d := range by {
		var keys []string
		for _, l := range lines {
			if !slices.Contains(keys, l.Keys[i]) {
				keys = append(keys, l.Keys[i])
			}
		}
		if len(keys) > 0 {
			m[d] = keys
		}
	}
	return m
}

// Adjustments gives by currency what of a window is adjustments posted after settlement. Error: of the store, or
// money.ErrOverflow.
func (m *Maker) Adjustments(ctx context.Context, w Window, where map[string][]string) (map[string]money.Nanos, error) {
	if effects, ok := where[usage.DimEffect]; ok && !slices.Contains(effects, usage.EffectAdjustment) {
		return nil, nil
	}
	only := map[string][]string{}
	for d, keys := range where {
		only[d] = keys
	}
	only[usage.DimEffect] = []string{usage.EffectAdjustment}
	rows, err := m.sum(ctx, w, nil, only, usage.Whole)
	if err != nil {
		return nil, err
	}
	by := map[string]money.Nanos{}
	for i := range rows {
		if by[rows[i].Currency], err = rows[i].Cost.Total(); err != nil {
			return nil, err
		}
	}
	return by, nil
}

// Optimization asks what the levers saved in a window, at the prices of its end.
func (m *Maker) Optimization(ctx context.Context, w Window, where map[string][]string) ([]Optimization, error) {
	rows, err := m.sum(ctx, w, OptimizeBy, where, usage.Whole)
	if err != nil {
		return nil, err
	}
	o := Optimizer{Charter: m.Charters.Charter, Catalog: m.Charters.Catalog(), Prices: m.Charters.Prices(), At: w.To}
	if m.Now.Before(w.To) {
		o.At = m.Now
	}
	return o.Optimize(rows)
}

// Allocation asks who used what in a window. Errors: of the store, money.ErrOverflow, usage.ErrOverflow.
func (m *Maker) Allocation(ctx context.Context, w Window, by []string, where map[string][]string, limit int) ([]Table, error) {
	rows, err := m.sum(ctx, w, by, where, usage.Whole)
	if err != nil {
		return nil, err
	}
	return Allocate(by, rows, limit)
}
