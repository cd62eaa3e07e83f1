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

// Compare compares the ledger with the reports, by root budget. Adjustments are left out: the ledger has none. Errors: of
// the store, money.ErrOverflow.
func (m *Maker) Compare(ctx context.Context) ([]Comparison, error) {
	var list []Comparison
	at := map[string]int{}
	for i := range m.Accounts {
		a := &m.Accounts[i]
		if a.Budget.Parent != "" {
			continue
		}
		n, ok := at[a.Budget.ID]
		if !ok {
			n = len(list)
			at[a.Budget.ID] = n
			list = append(list, Comparison{Budget: a.Budget, Period: a.Period})
		}
		var err error
		if list[n].Ledger, err = money.Add(list[n].Ledger, a.Settled); err != nil {
			return nil, err
		}
	}
	counted := map[Window]map[string]money.Nanos{} // by root and currency
	for i := range list {
		c := &list[i]
		w := Window{From: c.Period.Start.UTC(), To: nextHour(m.Now)}
		if c.Period.End.Before(w.To) {
			w.To = c.Period.End.UTC()
		}
		if !w.From.Truncate(time.Hour).Equal(w.From) || !w.To.Truncate(time.Hour).Equal(w.To) {
			c.Problem = "its period does not begin and end at whole hours of UTC, by which usage is counted"
			continue
		}
		if counted[w] == nil {
			var err error
			if counted[w], err = m.byRoot(ctx, w); err != nil {
				return nil, err
			}
		}
		c.Reported = counted[w][c.Budget.ID+"\x00"+c.Budget.Currency]
		var err error
		if c.Difference, err = money.Sub(c.Ledger, c.Reported); err != nil {
			return nil, err
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
