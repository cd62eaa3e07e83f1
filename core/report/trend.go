package report

import (
	"context"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// TrendAsk asks how spend moves.
type TrendAsk struct {
	Window   Window
	By       []string
	Where    map[string][]string
	Step     Step
	Limit    int    // series of each currency
	Forecast Window // a calendar period
}

// Trend is how spend moves in one currency.
type Trend struct {
	Currency string
	Series   []Series // the dearest first; none without dimensions
	Total    Series
	More     int // series beyond the limit
}

// Series is the spend of some keys.
type Series struct {
	Keys           []string
	Points         []Point
	Cost, Previous money.Nanos // of the window, and of the one before
	Calls          int64
	Change         money.Nanos
	ChangePermille *int64
	Rate           money.Nanos // a day
	Settled        money.Nanos // of the forecast's period so far
	Forecast       *Forecast   // nil: the period is over, or there is nothing to tell it from
}

// Point is the spend of one step.
type Point struct {
	Start   time.Time
	Cost    money.Nanos
	Calls   int64
	Change  *money.Nanos // nil for the first
	Partial bool
}

// gathered are the sums that one series is made of.
type gathered struct {
	Series
	daily *Daily
}

// Trend tells how spend moves in a window, by currency. Errors: *FieldError, of the store, money.ErrOverflow.
func (m *Maker) Trend(ctx context.Context, a *TrendAsk) ([]Trend, error) {
	st, err := a.Window.steps(a.Step, m.Now)
	if err != nil {
		return nil, err
	}
	var top []Table
	where := a.Where
	if len(a.By) > 0 {
		if top, err = m.Allocation(ctx, a.Window, a.By, a.Where, a.Limit); err != nil {
			return nil, err
		}
		var lines []Line
		for _, t := range top {
			lines = append(lines, t.Lines...)
		}
		where = narrowed(a.By, a.Where, lines)
	}
	totals, err := m.gather(ctx, a, st, nil, a.Where)
	if err != nil {
		return nil, err
	}
	parts := map[string]map[string]*gathered{}
	if len(top) > 0 {
		if parts, err = m.gather(ctx, a, st, a.By, where); err != nil {
			return nil, err
		}
	}
	var trends []Trend
	for _, currency := range slices.Sorted(maps.Keys(totals)) {
		t := Trend{Currency: currency}
		if t.Total, err = m.finish(totals[currency][""], a, st); err != nil {
			return nil, err
		}
		for i := range top {
			if top[i].Currency != currency {
				continue
			}
			for _, l := range top[i].Lines {
				s, err := m.finish(parts[currency][joined(l.Keys)], a, st)
				if err != nil {
					return nil, err
				}
				s.Keys = l.Keys
				t.Series = append(t.Series, s)
			}
			t.More = top[i].Total.Rows - len(top[i].Lines)
		}
		trends = append(trends, t)
	}
	return trends, nil
}

// gather asks for all that series are made of, and gives it by currency and keys.
func (m *Maker) gather(ctx context.Context, a *TrendAsk, st *steps, by []string, where map[string][]string) (map[string]map[string]*gathered, error) {
	all := map[string]map[string]*gathered{}
	period := a.Forecast
	period.To = period.Elapsed(m.Now)
	for _, q := range []struct {
		window Window
		step   usage.Step
		always bool // a series begins with it
		take   func(g *gathered, r *usage.Row, cost money.Nanos) error
	}{
		{Window{From: a.Window.From, To: a.Window.Elapsed(m.Now)}, st.ask, true, func(g *gathered, r *usage.Row, cost money.Nanos) (err error) {
			p := &g.Points[st.index(r.Start)]
			p.Calls += r.Calls
			g.Calls += r.Calls
			if p.Cost, err = money.Add(p.Cost, cost); err == nil {
				g.Cost, err = money.Add(g.Cost, cost)
			}
			return err
		}},
		{a.Window.Before(m.Now), usage.Whole, true, func(g *gathered, _ *usage.Row, cost money.Nanos) error {
			g.Previous = cost
			return nil
		}},
		{m.History(), usage.Day, false, func(g *gathered, r *usage.Row, cost money.Nanos) error { return g.daily.Add(r.Start, cost) }},
		{period, usage.Whole, false, func(g *gathered, _ *usage.Row, cost money.Nanos) error {
			g.Settled = cost
			return nil
		}},
	} {
		rows, err := m.sum(ctx, q.window, by, where, q.step)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := &rows[i]
			series := all[r.Currency]
			if series == nil {
				if !q.always {
					continue
				}
				series = map[string]*gathered{}
				all[r.Currency] = series
			}
			g := series[joined(r.Keys)]
			if g == nil {
				if !q.always {
					continue
				}
				g = &gathered{daily: NewDaily(m.Now)}
				g.Points = make([]Point, len(st.starts))
				series[joined(r.Keys)] = g
			}
			cost, err := r.Cost.Total()
			if err != nil {
				return nil, err
			}
			if err := q.take(g, r, cost); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// finish computes what of a series is not a sum. A series that nothing was gathered for is all 0.
func (m *Maker) finish(g *gathered, a *TrendAsk, st *steps) (Series, error) {
	if g == nil {
		g = &gathered{daily: NewDaily(m.Now)}
		g.Points = make([]Point, len(st.starts))
	}
	s := &g.Series
	for i := range s.Points {
		p := &s.Points[i]
		p.Start, p.Partial = st.starts[i], !st.whole[i]
		if i > 0 {
			change, err := money.Sub(p.Cost, s.Points[i-1].Cost)
			if err != nil {
				return *s, err
			}
			p.Change = &change
		}
	}
	var err error
	if s.Change, s.ChangePermille, err = Change(s.Cost, s.Previous); err != nil {
		return *s, err
	}
	s.Rate = g.daily.Rate(m.Now)
	if a.Forecast.Elapsed(m.Now).Before(a.Forecast.To) && !m.Now.Before(a.Forecast.From) {
		if f, _, ok := g.daily.Until(m.Now, a.Forecast.To, s.Settled, math.MaxInt64); ok {
			s.Forecast = &f
		}
	}
	return *s, nil
}
