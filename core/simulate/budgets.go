package simulate

import (
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
)

// budget is a budget in the period that the simulation has come to.
type budget struct {
	record   *charter.Budget
	span     charter.Span
	open     bool              // it has a period now
	purses   map[string]*purse // by key; empty for a budget without keys
	overflow map[string]*purse // by feature
	before   map[string]*purse // of the period before
}

// purse is one ceiling in one period, on both sides.
type purse struct {
	budget string
	line   *line
	alert  int32
	start  int64 // of the period, in Unix seconds
	end    int64
	sides  [sides]struct{ ceil, settled money.Nanos }
}

func (p *purse) left(side int) money.Nanos { return p.sides[side].ceil - p.sides[side].settled }

func (p *purse) utilization(side int) int32 {
	return money.Permille(p.sides[side].settled, p.sides[side].ceil)
}

func (p *purse) charge(side int, cost money.Nanos, now time.Time) error {
	if err := add(&p.sides[side].settled, cost); err != nil {
		return err
	}
	if p.utilization(side) >= 1000 {
		p.line.ranOut(side, now)
	}
	return add(&p.line.cost[side], cost)
}

// line is what is told of a feature or of a budget.
type line struct {
	currency  string
	calls     int64
	ceil      money.Nanos // of the last period
	ran       [sides]int64
	cost      [sides]money.Nanos
	exhausted [sides]time.Time // when it first ran out
}

func (l *line) ranOut(side int, now time.Time) {
	if l.exhausted[side].IsZero() {
		l.exhausted[side] = now
	}
}

func lineOf(lines map[string]*line, name, currency string) *line {
	l := lines[name]
	if l == nil {
		l = &line{currency: currency}
		lines[name] = l
	}
	return l
}

// budgetAt gives a budget in the period that a time is in.
func (s *Simulation) budgetAt(record *charter.Budget, now time.Time) *budget {
	b := s.budgets[record.ID]
	if b == nil {
		b = &budget{record: record}
		s.budgets[record.ID] = b
	}
	if b.purses != nil && b.span.Contains(now) {
		return b
	}
	span, open := record.Period.At(now)
	before, ok := record.Period.Before(span)
	if ok && b.purses != nil && before.Start.Equal(b.span.Start) {
		b.before = b.purses
	} else {
		b.before = nil
	}
	b.span, b.open, b.purses, b.overflow = span, open, map[string]*purse{}, map[string]*purse{}
	return b
}

// purse gives the ceiling of a key. Standing is how the budget stood, if that is known.
func (s *Simulation) purse(b *budget, key string, c *charter.Charter, standing *routing.BudgetState) *purse {
	if p := b.purses[key]; p != nil {
		return p
	}
	name := b.record.Name()
	if key != "" {
		name += "/keys/" + key
	}
	p := &purse{budget: b.record.ID, line: lineOf(s.lines, name, b.record.Currency), alert: alert(b.record, c), start: b.span.Start.Unix(), end: b.span.End.Unix()}
	for side := range p.sides {
		a := &p.sides[side]
		a.ceil = b.ceiling(key, side)
		if standing != nil { // a part of at most the ceiling's size: it fits, or the ceiling is beyond reach
			used, err := money.MulDiv(int64(a.ceil), int64(standing.UtilizationPermille), 1000)
			if err == nil {
				a.settled = money.Nanos(used)
			}
		}
		p.line.ceil = a.ceil
	}
	b.purses[key] = p
	return p
}

// ceiling is the limit with what the period before left of its own, as the gate rolls it over.
func (b *budget) ceiling(key string, side int) money.Nanos {
	limit := b.record.Limit
	if b.record.RolloverCap == 0 {
		return limit
	}
	if p := b.before[key]; p != nil {
		if ceil, err := money.Add(limit, min(b.record.RolloverCap, max(0, p.left(side)))); err == nil {
			return ceil
		}
	}
	return limit
}

// alert is the lowest alert threshold of a budget: its own, or that of the charter whose leaf it is.
func alert(b *charter.Budget, c *charter.Charter) int32 {
	switch {
	case len(b.AlertThresholdsPermille) > 0:
		return b.AlertThresholdsPermille[0]
	case c.Budget == b.ID && len(c.AlertThresholdsPermille) > 0:
		return c.AlertThresholdsPermille[0]
	}
	return charter.DefaultAlertPermille
}

// overflowPurse is the feature's overflow allowance in the leaf's period.
func (s *Simulation) overflowPurse(q *query) *purse {
	p := q.leaf.overflow[q.input.Charter.ID]
	if p == nil {
		name := fmt.Sprintf("%s/overflow/%s", q.leaf.record.Name(), q.input.Charter.ID)
		p = &purse{budget: q.leaf.record.ID, line: lineOf(s.lines, name, q.currency)}
		for side := range p.sides {
			p.sides[side].ceil = q.input.Charter.Exhausted.OverflowAllowance
		}
		p.line.ceil = q.input.Charter.Exhausted.OverflowAllowance
		q.leaf.overflow[q.input.Charter.ID] = p
	}
	return p
}

// overflowPath is the path with the overflow allowance in place of the leaf.
func (s *Simulation) overflowPath(q *query) []*purse {
	q.spill = append(append(q.spill[:0], s.overflowPurse(q)), q.path[1:]...)
	return q.spill
}
