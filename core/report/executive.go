package report

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Brief is a window in brief, in one currency.
type Brief struct {
	Currency       string
	Line           Line        // the sums of the window
	Previous       money.Nanos // the cost of the window before
	Change         money.Nanos
	ChangePermille *int64
	Forecast       *Forecast // nil: the window is over, or is no calendar period
	Adjustments    money.Nanos
	Movers         []Mover // the largest change first
	Targets        []Unit  // the furthest above the target first
	Met, Missed    int     // features with successes that meet their target, and that do not
	Saved          money.Nanos
}

// Mover is a feature whose cost changed.
type Mover struct {
	Feature        string
	Cost, Previous money.Nanos
	Change         money.Nanos
	ChangePermille *int64
}

// Stage is the features of one stage, and what they cost by currency.
type Stage struct {
	Stage    charter.Stage // StageUnspecified: with spend, and no charter now
	Features int
	Costs    map[string]money.Nanos
}

// Executive gives a window in brief, by currency, and the features by stage. Errors: of the store, money.ErrOverflow,
// usage.ErrOverflow.
func (m *Maker) Executive(ctx context.Context, w Window, where map[string][]string, limit int) ([]Brief, []Stage, error) {
	by := []string{usage.DimFeature}
	now, err := m.Allocation(ctx, w, by, where, math.MaxInt)
	if err != nil {
		return nil, nil, err
	}
	before, err := m.Allocation(ctx, w.Before(m.Now), by, where, math.MaxInt)
	if err != nil {
		return nil, nil, err
	}
	units, err := m.UnitEconomics(ctx, w, by, where, math.MaxInt)
	if err != nil {
		return nil, nil, err
	}
	adjusted, err := m.Adjustments(ctx, w, where)
	if err != nil {
		return nil, nil, err
	}
	daily, err := m.daily(ctx, where)
	if err != nil {
		return nil, nil, err
	}
	was := map[string]Table{}
	for _, t := range before {
		was[t.Currency] = t
	}
	seen := map[string]bool{}
	var briefs []Brief
	for _, t := range now {
		seen[t.Currency] = true
		b := Brief{Currency: t.Currency, Line: t.Total, Adjustments: adjusted[t.Currency]}
		if err := b.compare(t, was[t.Currency], limit); err != nil {
			return nil, nil, err
		}
		for _, u := range units {
			if u.Currency == t.Currency {
				b.target(u.Lines, limit)
			}
		}
		if d := daily[t.Currency]; d != nil && w.Name != "" && w.Elapsed(m.Now).Before(w.To) {
			if f, _, ok := d.Until(m.Now, w.To, t.Total.Total, math.MaxInt64); ok {
				b.Forecast = &f
			}
		}
		briefs = append(briefs, b)
	}
	for _, t := range before { // spent before only
		if !seen[t.Currency] {
			b := Brief{Currency: t.Currency}
			if err := b.compare(Table{}, t, limit); err != nil {
				return nil, nil, err
			}
			briefs = append(briefs, b)
		}
	}
	slices.SortFunc(briefs, func(a, b Brief) int { return cmp.Compare(a.Currency, b.Currency) })
	stages, err := m.stages(now)
	return briefs, stages, err
}

// daily are the days of late by currency.
func (m *Maker) daily(ctx context.Context, where map[string][]string) (map[string]*Daily, error) {
	rows, err := m.sum(ctx, m.History(), nil, where, usage.Day)
	if err != nil {
		return nil, err
	}
	by := map[string]*Daily{}
	for i := range rows {
		d := by[rows[i].Currency]
		if d == nil {
			d = NewDaily(m.Now)
			by[rows[i].Currency] = d
		}
		cost, err := rows[i].Cost.Total()
		if err != nil {
			return nil, err
		}
		if err := d.Add(rows[i].Start, cost); err != nil {
			return nil, err
		}
	}
	return by, nil
}

// compare fills in what changed since the window before.
func (b *Brief) compare(now, before Table, limit int) (err error) {
	b.Previous = before.Total.Total
	if b.Change, b.ChangePermille, err = Change(now.Total.Total, b.Previous); err != nil {
		return err
	}
	features := map[string]*Mover{}
	of := func(l *Line) *Mover {
		f := features[l.Keys[0]]
		if f == nil {
			f = &Mover{Feature: l.Keys[0]}
			features[f.Feature] = f
		}
		return f
	}
	for i := range now.Lines {
		of(&now.Lines[i]).Cost = now.Lines[i].Total
	}
	for i := range before.Lines {
		of(&before.Lines[i]).Previous = before.Lines[i].Total
	}
	for _, f := range features {
		if f.Change, f.ChangePermille, err = Change(f.Cost, f.Previous); err != nil {
			return err
		}
		if f.Change != 0 {
			b.Movers = append(b.Movers, *f)
		}
	}
	slices.SortFunc(b.Movers, func(x, y Mover) int {
		return cmp.Or(cmp.Compare(distance(y.Change), distance(x.Change)), cmp.Compare(x.Feature, y.Feature))
	})
	b.Movers = b.Movers[:min(len(b.Movers), limit)]
	s := &now.Total.Saved
	if b.Saved, err = money.Sub(s.CacheRead, s.CacheWrite); err == nil {
		b.Saved, err = money.Add(b.Saved, s.Downgrade)
	}
	return err
}

// distance is how far an amount is from 0.
func distance(n money.Nanos) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// target takes the features that have a target and successes, the furthest above it first.
func (b *Brief) target(lines []Unit, limit int) {
	for _, u := range lines {
		if u.OverTarget == nil {
			continue
		}
		if *u.OverTarget > 0 {
			b.Missed++
		} else {
			b.Met++
		}
		b.Targets = append(b.Targets, u)
	}
	slices.SortStableFunc(b.Targets, func(x, y Unit) int { return cmp.Compare(*y.OverTarget, *x.OverTarget) })
	b.Targets = b.Targets[:min(len(b.Targets), limit)]
}

// stages counts the features of each stage that has some, and their cost.
func (m *Maker) stages(now []Table) ([]Stage, error) {
	by := map[charter.Stage]*Stage{}
	of := func(s charter.Stage) *Stage {
		if by[s] == nil {
			by[s] = &Stage{Stage: s, Costs: map[string]money.Nanos{}}
		}
		return by[s]
	}
	for _, c := range m.Charters.Charters() {
		of(c.Stage).Features++
	}
	strangers := map[string]bool{}
	for _, t := range now {
		for i := range t.Lines {
			l := &t.Lines[i]
			s := of(charter.StageUnspecified)
			if c := m.Charters.Charter(l.Keys[0]); c != nil {
				s = of(c.Stage)
			} else if !strangers[l.Keys[0]] {
				strangers[l.Keys[0]] = true
				s.Features++
			}
			var err error
			if s.Costs[t.Currency], err = money.Add(s.Costs[t.Currency], l.Total); err != nil {
				return nil, err
			}
		}
	}
	if s := by[charter.StageUnspecified]; s != nil && s.Features == 0 {
		delete(by, charter.StageUnspecified)
	}
	list := make([]Stage, 0, len(by))
	for _, s := range by {
		list = append(list, *s)
	}
	slices.SortFunc(list, func(a, b Stage) int { return cmp.Compare(a.Stage, b.Stage) })
	return list, nil
}
