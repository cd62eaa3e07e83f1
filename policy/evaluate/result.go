package evaluate

import (
	"cmp"
	"errors"
	"maps"
	"math/big"
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// Result is what an evaluation comes to.
type Result struct {
	// 1 - cost / cost of the dearest tier for every case.
	CostSaved float64 `json:"cost_saved"`
	// Of the cases that the dearest tier solves, the share that the chosen tier solves too.
	QualityKept float64 `json:"quality_kept"`
	// 95% bootstrap intervals of the two.
	CostSavedInterval   Interval `json:"cost_saved_interval"`
	QualityKeptInterval Interval `json:"quality_kept_interval"`
	// The policy if it took every call to be easier or harder, from the highest cost to the lowest.
	Curve []Point `json:"curve"`
	// The policy and what it is to be compared with.
	Policy    Row   `json:"policy"`
	Baselines []Row `json:"baselines"`
	// Gap is what the dearest tier solves beyond the cheapest; nil if it solves no more.
	Gap *Gap `json:"gap,omitempty"`
	// By task class, the most cases first.
	Classes []Class `json:"classes"`
	// Cases by task class that the router has no complexity of.
	UnknownClasses map[string]int64 `json:"unknown_classes,omitempty"`
	Cases          int64            `json:"cases"`
	Currency       string           `json:"currency"`
	// What stands for each tier, from the cheapest.
	Prices []Price `json:"prices"`
}

// Row is one way of choosing tiers. Solved is the share of all cases.
type Row struct {
	Name        string             `json:"name"`
	CostNanos   int64              `json:"cost_nanos"`
	CostSaved   float64            `json:"cost_saved"`
	QualityKept float64            `json:"quality_kept"`
	Solved      float64            `json:"solved"`
	Mix         map[string]float64 `json:"mix"` // share of the cases by tier
	Refused     int64              `json:"refused"`
	Capped      int64              `json:"capped"`
}

// Point is the policy with every call taken to be Threshold points of complexity easier; 0 is the policy as it is.
type Point struct {
	Threshold   int                `json:"threshold"`
	CostSaved   float64            `json:"cost_saved"`
	QualityKept float64            `json:"quality_kept"`
	Solved      float64            `json:"solved"`
	Mix         map[string]float64 `json:"mix"`
}

// Gap measures how a router trades cost for what the dearest tier solves beyond the cheapest.
type Gap struct {
	Recovered float64 `json:"recovered"` // by the policy as it is
	// Mean of the share recovered over costs from always-cheap to always-expensive: 0.5 is what chance gives.
	Area float64 `json:"area"`
	// Cost, as a share of always-expensive, at which the curve first recovers 50, 80 and 95% of the gap.
	Cost50 float64 `json:"cost_50"`
	Cost80 float64 `json:"cost_80"`
	Cost95 float64 `json:"cost_95"`
}

// Class is the policy on the cases of one task class.
type Class struct {
	TaskClass string `json:"task_class"`
	Cases     int64  `json:"cases"`
	Row
}

// Price is what stands for a tier, per million tokens.
type Price struct {
	Tier        string `json:"tier"`
	Model       string `json:"model"`
	InputNanos  int64  `json:"input_nanos_per_mtok"`
	OutputNanos int64  `json:"output_nanos_per_mtok"`
	Source      string `json:"source,omitempty"`
}

// ErrNoCases says that the file has none.
var ErrNoCases = errors.New("there are no cases: give one JSON object a line")

// Result sums up. Error: ErrNoCases.
func (e *Evaluator) Result() (*Result, error) {
	if e.chosen.cases == 0 {
		return nil, ErrNoCases
	}
	cheapest, dearest := &e.always[0], &e.always[len(e.always)-1]
	r := &Result{Policy: e.row("policy", &e.chosen), Cases: e.chosen.cases, Currency: e.tiers[0].Price.Currency, UnknownClasses: e.unknown}
	r.CostSaved, r.QualityKept = r.Policy.CostSaved, r.Policy.QualityKept
	r.CostSavedInterval, r.QualityKeptInterval = e.boot.intervals()
	for i := range e.curve {
		row := e.row("", &e.curve[i])
		r.Curve = append(r.Curve, Point{i*Step - 100, row.CostSaved, row.QualityKept, row.Solved, row.Mix})
	}
	r.Baselines = append(r.Baselines, e.row("always-cheap", cheapest))
	for i := 1; i < len(e.always)-1; i++ {
		r.Baselines = append(r.Baselines, e.row("always-"+e.tiers[i].Tier, &e.always[i]))
	}
	r.Baselines = append(r.Baselines, e.row("always-expensive", dearest), e.random(), e.row("oracle", &e.oracle))
	r.Gap = e.gap()
	for _, t := range e.tiers {
		in, _ := t.Price.Rate(pricing.Input)
		out, _ := t.Price.Rate(pricing.Output)
		r.Prices = append(r.Prices, Price{t.Tier, t.Model, int64(in), int64(out), t.Price.Source})
	}
	for name, of := range e.classes {
		r.Classes = append(r.Classes, Class{name, of.chosen.cases, e.against("", &of.chosen, &of.dearest)})
	}
	slices.SortFunc(r.Classes, func(a, b Class) int {
		return cmp.Or(cmp.Compare(b.Cases, a.Cases), cmp.Compare(a.TaskClass, b.TaskClass))
	})
	return r, nil
}

func (e *Evaluator) row(name string, t *tally) Row {
	return e.against(name, t, &e.always[len(e.always)-1])
}

// against compares with the dearest tier on the same cases.
func (e *Evaluator) against(name string, t, dearest *tally) Row {
	r := Row{
		Name: name, CostNanos: int64(t.cost), CostSaved: saved(t.cost, dearest.cost), QualityKept: share(t.kept, dearest.solved, 1),
		Solved: share(t.solved, t.cases, 0), Mix: map[string]float64{}, Refused: t.refused, Capped: t.capped,
	}
	for i, tier := range e.tiers {
		r.Mix[tier.Tier] = share(t.mix[i], t.cases, 0)
	}
	return r
}

func (e *Evaluator) random() Row {
	r := e.row("random at the same mix", &e.chosen)
	dearest := &e.always[len(e.always)-1]
	cost, solved, kept := e.mixed(&e.chosen)
	r.CostNanos, r.CostSaved, r.Solved, r.QualityKept = int64(cost), saved(cost, dearest.cost), solved, 1
	if dearest.solved > 0 {
		r.QualityKept = kept / float64(dearest.solved)
	}
	r.Capped = 0
	return r
}

func saved(cost, dearest money.Nanos) float64 {
	if dearest == 0 {
		return 0
	}
	f, _ := big.NewRat(int64(dearest-cost), int64(dearest)).Float64()
	return f
}

// share is a / b, or what is given where b is 0.
func share(a, b int64, none float64) float64 {
	if b == 0 {
		return none
	}
	return float64(a) / float64(b)
}

// gap measures the curve. A point between two of them is a mixture of both, so that straight lines join them.
func (e *Evaluator) gap() *Gap {
	cheapest, dearest := &e.always[0], &e.always[len(e.always)-1]
	if dearest.solved <= cheapest.solved || dearest.cost <= cheapest.cost {
		return nil
	}
	type point struct{ cost, recovered float64 } // as shares of the two gaps
	at := func(t *tally) point {
		return point{float64(t.cost-cheapest.cost) / float64(dearest.cost-cheapest.cost),
			float64(t.solved-cheapest.solved) / float64(dearest.solved-cheapest.solved)}
	}
	line := []point{{0, 0}, {1, 1}}
	for i := range e.curve {
		if p := at(&e.curve[i]); p.cost >= 0 && p.cost <= 1 {
			line = append(line, p)
		}
	}
	slices.SortFunc(line, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.recovered, b.recovered))
	})
	g := &Gap{Recovered: at(&e.chosen).recovered}
	low, all := float64(cheapest.cost)/float64(dearest.cost), 1.0
	need := func(target float64) float64 {
		for i := 1; i < len(line); i++ {
			a, b := line[i-1], line[i]
			if b.recovered < target {
				continue
			}
			x := b.cost
			if a.recovered < target {
				x = a.cost + (b.cost-a.cost)*(target-a.recovered)/(b.recovered-a.recovered)
			}
			return low + x*(all-low)
		}
		return all
	}
	for i := 1; i < len(line); i++ {
		g.Area += (line[i].cost - line[i-1].cost) * (line[i].recovered + line[i-1].recovered) / 2
	}
	g.Cost50, g.Cost80, g.Cost95 = need(0.50), need(0.80), need(0.95)
	return g
}

// Unknown lists the task classes that the router has no complexity of, in order.
func (r *Result) Unknown() []string { return slices.Sorted(maps.Keys(r.UnknownClasses)) }
