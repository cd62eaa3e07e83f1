package server

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/mem"
)

// rows are sums as a usage store gives them.
type rows []usage.Row

func (r rows) Sum(_ context.Context, q usage.Query) ([]usage.Row, usage.Coverage, error) {
	if !slices.Equal(q.By, []string{usage.DimProvider, usage.DimModel}) || q.To.Sub(q.From) < 7*24*time.Hour {
		panic(q)
	}
	return r, usage.Coverage{}, nil
}

func TestCoverageNamesModelsWithoutAPrice(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)
	price := func(model string, from time.Time) *pricing.Price {
		return pricing.New(model, from, "USD", map[pricing.Unit]money.Nanos{pricing.Input: 1})
	}
	control := mem.NewControl(func() time.Time { return now })
	if _, err := control.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		return []charter.Change{
			charter.Set(&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{price("old", now.AddDate(-1, 0, 0)), price("new", now.AddDate(0, -1, 0)), price("later", now.AddDate(0, 1, 0))}}),
		}, nil
	}); err != nil {
		t.Fatal(err)
	}
	sum := func(provider, model, currency string, calls int64) usage.Row {
		return usage.Row{Keys: []string{provider, model}, Currency: currency, Totals: usage.Totals{Calls: calls, Cost: usage.Cost{Input: 5, Tools: money.Nanos(calls)}}}
	}
	s := newPriceService(control, nil, func() time.Time { return now }, rows{
		sum("lab", "new", "USD", 3), sum("lab", "new", "EUR", 1), sum("elsewhere", "ghost", "USD", 2), sum("lab", "later", "USD", 9), sum("lab", "old", "USD", 1), sum("", "", "USD", 4), sum(usage.OtherKey, usage.OtherKey, "USD", 4),
	}, nil)
	res, err := s.ReportPriceCoverage(t.Context(), &chartergatev1.ReportPriceCoverageRequest{})
	if err != nil || !res.TrafficIncluded {
		t.Fatal(res, err)
	}
	var order []string
	for _, m := range res.Models {
		order = append(order, m.Model)
		if (m.Price == nil) != (m.Model == "ghost" || m.Model == "later") || m.Model == "new" && (m.Calls != 4 || m.CostNanos["USD"] != 8 || m.CostNanos["EUR"] != 6) {
			t.Errorf("%+v", m)
		}
	}
	if !slices.Equal(order, []string{"later", "ghost", "old", "new"}) {
		t.Errorf("the order is %v", order)
	}
}
