package report

import (
	"context"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Comparison is what the ledger has settled on a root budget in its current period, and what reports count of it.
type Comparison struct {
	Budget           *charter.Budget
	Period           charter.Span
	Ledger, Reported money.Nanos
	Difference       money.Nanos // Ledger - Reported
	Problem          string      // why there is no comparison
}

// Compare compares the ledger with the reports, by root budget. Adjustments are left out: the ledger has none. What is
// counted is read first, then stand tells the maker how the accounts stand, so that no difference is below 0. Errors: of
// the store and of stand, money.ErrOverflow.
func (m *Maker) Compare(ctx context.Context, stand func(context.Context) error) ([]Comparison, error) {
	var list []Comparison
	at := map[string]int{}
	counted := map[Window]map[string]money.Nanos{} // by root and currency
	for _, b := range m.Charters.Budgets() {
		span, current := b.Period.At(m.Now)
		if b.Parent != "" || !current {
			continue
		}
		c := Comparison{Budget: b, Period: span}
		w := Window{From: span.Start.UTC(), To: nextHour(m.Now)}
		if span.End.Before(w.To) {
			w.To = span.End.UTC()
		}
		if !w.From.Truncate(time.Hour).Equal(w.From) || !w.To.Truncate(time.Hour).Equal(w.To) {
			c.Problem = "its period does not begin and end at whole hours of UTC, by which usage is counted"
		} else {
			if counted[w] == nil {
				var err error
				if counted[w], err = m.byRoot(ctx, w); err != nil {
					return nil, err
				}
			}
			c.Reported = counted[w][b.ID+"\x00"+b.Currency]
		}
		at[b.ID] = len(list)
		list = append(list, c)
	}
	if err := stand(ctx); err != nil {
		return nil, err
	}
	for i := range m.Accounts {
		a := &m.Accounts[i]
		n, ok := at[a.Budget.ID]
		if !ok || !a.Period.Start.Equal(list[n].Period.Start) {
			continue
		}
		var err error
		if list[n].Ledger, err = money.Add(list[n].Ledger, a.Settled); err != nil {
			return nil, err
		}
	}
	for i := range list {
		if c := &list[i]; c.Problem == "" {
			var err error
			if c.Difference, err = money.Sub(c.Ledger, c.Reported); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func (m *Maker) byRoot(ctx context.Context, w Window) (map[string]money.Nanos, error) {
	rows, err := m.sum(ctx, w, []string{usage.DimBudgetPath, usage.DimEffect}, nil, usage.Whole)
	if err != nil {
		return nil, err
	}
	by := map[string]money.Nanos{}
	for i := range rows {
		r := &rows[i]
		if r.Keys[1] == usage.EffectAdjustment {
			continue
		}
		cost, err := r.Cost.Total()
		if err != nil {
			return nil, err
		}
		root, _, _ := strings.Cut(r.Keys[0], "/")
		root += "\x00" + r.Currency
		if by[root], err = money.Add(by[root], cost); err != nil {
			return nil, err
		}
	}
	return by, nil
}
