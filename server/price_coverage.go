package server

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// UsageSums answers what was used; store.Usage does.
type UsageSums interface {
	Sum(ctx context.Context, q usage.Query) ([]usage.Row, usage.Coverage, error)
}

const coverageWindow = 30 * 24 * time.Hour

// ReportPriceCoverage looks at the catalog and at the traffic of a window.
func (s *priceService) ReportPriceCoverage(ctx context.Context, req *chartergatev1.ReportPriceCoverageRequest) (*chartergatev1.ReportPriceCoverageResponse, error) {
	snap, now := s.control.Snapshot(), s.now()
	res := &chartergatev1.ReportPriceCoverageResponse{TrafficIncluded: s.sums != nil}
	known := map[string]*chartergatev1.ModelCoverage{}
	of := func(model, provider string) *chartergatev1.ModelCoverage {
		m := known[model]
		if m == nil {
			m = &chartergatev1.ModelCoverage{Model: model}
			known[model] = m
			res.Models = append(res.Models, m)
		}
		m.Provider = cmp.Or(m.Provider, provider)
		return m
	}
	if catalog := snap.Catalog(); catalog != nil {
		for i := range catalog.Models {
			of(catalog.Models[i].ID, catalog.Models[i].Provider).InCatalog = true
		}
	}
	if s.sums != nil {
		window := coverageWindow
		if req.Window != nil {
			window = req.Window.AsDuration()
		}
		rows, _, err := s.sums.Sum(ctx, usage.Query{
			From: now.Add(-window).UTC().Truncate(time.Hour), To: now.UTC().Truncate(time.Hour).Add(time.Hour),
			By: []string{usage.DimProvider, usage.DimModel},
		})
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.Keys[1] == "" || r.Keys[1] == usage.OtherKey { // refused before a model was chosen, or too many to tell apart
				continue
			}
			cost, err := r.Cost.Total()
			if err != nil {
				return nil, err
			}
			m := of(r.Keys[1], r.Keys[0])
			m.Calls += r.Calls
			if m.CostNanos == nil {
				m.CostNanos = map[string]int64{}
			}
			m.CostNanos[r.Currency] += int64(cost)
		}
	}
	for _, m := range res.Models {
		price, err := snap.Prices().Lookup(m.Model, now)
		if err != nil { // *pricing.UnpricedError: that there is none is what is asked for
			continue
		}
		m.Price = convert.PriceToProto(price)
		if b, ok := snap.Record(price.Book).(*charter.PriceBook); ok {
			m.BookUpdateTime = convert.TimeToProto(b.Updated)
		}
	}
	slices.SortFunc(res.Models, func(a, b *chartergatev1.ModelCoverage) int {
		return cmp.Or(cmp.Compare(age(a), age(b)), cmp.Compare(b.Calls, a.Calls), cmp.Compare(a.Model, b.Model))
	})
	return res, nil
}

// age orders by when a price took effect; none goes before all.
func age(m *chartergatev1.ModelCoverage) int64 {
	if m.Price == nil {
		return -1 << 62
	}
	return m.Price.EffectiveTime.GetSeconds()
}
