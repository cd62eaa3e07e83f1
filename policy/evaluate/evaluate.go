package evaluate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/complexity"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
)

// Decide asks a policy.
type Decide func(context.Context, *routing.Input) (*routing.Plan, error)

// Patient asks again, up to 20 times, where a policy gives no decision: that it takes too long may be for other work of the
// machine, which an evaluation can wait for and a gate cannot.
func Patient(decide Decide) Decide {
	return func(ctx context.Context, in *routing.Input) (plan *routing.Plan, err error) {
		for range 20 {
			if plan, err = decide(ctx, in); !errors.As(err, new(*policy.EvalError)) {
				break
			}
		}
		return plan, err
	}
}

// Step is by how much the sweep of the curve moves, in points of complexity.
const Step = 5

const points = 200/Step + 1

// maxTiers bounds the tiers of an evaluation.
const maxTiers = 16

// maxClasses bounds the task classes that are told apart; what is more is summed up as `(others)`.
const maxClasses = 200

// Evaluator asks a policy about cases, one by one, and sums up. Its memory does not grow with the cases.
type Evaluator struct {
	decide  Decide
	all     *charter.Catalog
	catalog *charter.Catalog // of the tiers of the cases
	book    *pricing.Book
	now     time.Time
	rename  bool // tiers may have other names

	charter *charter.Charter
	tiers   []TierPrice // those of the cases, from the cheapest
	byModel map[string]*pricing.Price

	chosen  tally // by the policy as it is
	curve   [points]tally
	always  []tally // by tier
	oracle  tally
	classes map[string]*classTally
	boot    *bootstrap
	unknown map[string]int64

	// of the case at hand
	costs   [maxTiers]money.Nanos
	outputs [maxTiers]int64
	good    [maxTiers]bool
	err     error // a sum went out of range
}

// TierPrice is what stands for a tier.
type TierPrice struct {
	Tier  string
	Model string // the first of the catalog that has a price
	Price *pricing.Price
}

// tally sums up what became of cases.
type tally struct {
	cases   int64
	cost    money.Nanos
	solved  int64 // by the tier that was chosen
	kept    int64 // of those that the dearest tier solves
	mix     [maxTiers]int64
	refused int64 // denied or throttled
	capped  int64 // the answer was cut off
}

type classTally struct{ chosen, dearest tally }

// New makes an evaluator. A tier is priced as the first of its models that the book has a price of at a time, in the
// catalog's order. Error: there are fewer than two tiers.
func New(decide Decide, catalog *charter.Catalog, book *pricing.Book, now time.Time) (*Evaluator, error) {
	if len(catalog.Tiers) < 2 || len(catalog.Tiers) > maxTiers {
		return nil, fmt.Errorf("the catalog has %d tiers: routing needs 2 to %d", len(catalog.Tiers), maxTiers)
	}
	return &Evaluator{
		decide: decide, all: catalog, catalog: catalog, book: book, now: now, byModel: map[string]*pricing.Price{},
		classes: map[string]*classTally{}, unknown: map[string]int64{}, boot: newBootstrap(),
	}, nil
}

// start takes the tiers of the first case for those of all.
func (e *Evaluator) start(tiers []string) error {
	if len(tiers) < 2 {
		return fmt.Errorf("sufficient labels one tier, %s: label at least two", tiers[0])
	}
	currency := ""
	var missing error
	for _, tier := range tiers {
		t := TierPrice{Tier: tier}
		for i := range e.catalog.Models {
			m := &e.catalog.Models[i]
			if m.Tier != tier {
				continue
			}
			p, err := e.book.Lookup(m.ID, e.now)
			if err == nil {
				_, err = p.Cost(&usage.Usage{InputTokens: 1, OutputTokens: 1})
			}
			if err != nil {
				missing = err
				continue
			}
			e.byModel[m.ID] = p
			if t.Price == nil {
				t.Model, t.Price = m.ID, p
			}
		}
		if t.Price == nil {
			if missing == nil {
				missing = errors.New("it has no model")
			}
			return fmt.Errorf("tier %s has no model with a price by the token: %w", tier, missing)
		}
		if currency != "" && t.Price.Currency != currency {
			return fmt.Errorf("tier %s is priced in %s, another in %s: give prices in one currency", tier, t.Price.Currency, currency)
		}
		currency = t.Price.Currency
		e.tiers = append(e.tiers, t)
	}
	e.catalog = only(e.catalog, tiers)
	e.charter = &charter.Charter{ID: "evaluation", Stage: charter.StageProduction, PermittedTiers: tiers}
	e.always = make([]tally, len(tiers))
	return nil
}

// only gives a catalog of some of the tiers and their models: a company that has no others.
func only(all *charter.Catalog, tiers []string) *charter.Catalog {
	c := new(charter.Catalog)
	for _, t := range all.Tiers {
		if slices.Contains(tiers, t.ID) {
			c.Tiers = append(c.Tiers, t)
		}
	}
	for _, m := range all.Models {
		if slices.Contains(tiers, m.Tier) {
			c.Models = append(c.Models, m)
		}
	}
	return charter.WithMeta(c, charter.Meta{}).(*charter.Catalog)
}

// Add asks the policy about a case. Error: the case does not fit the catalog or those before, or the policy gives no
// decision.
func (e *Evaluator) Add(ctx context.Context, c *Case) error {
	if e.tiers == nil && e.rename {
		e.all = renamed(e.all, c)
		e.catalog = e.all
	}
	tiers, err := tiersOf(c, e.all)
	if err != nil {
		return err
	}
	if e.tiers == nil {
		if err := e.start(tiers); err != nil {
			return err
		}
	}
	if !slices.EqualFunc(tiers, e.tiers, func(a string, b TierPrice) bool { return a == b.Tier }) {
		return fmt.Errorf("sufficient labels the tiers %v, the first case %v: label the same in all", tiers, e.charter.PermittedTiers)
	}
	outputs(e.outputs[:], c, tiers)
	for i, t := range e.tiers {
		e.good[i] = c.Sufficient[t.Tier]
		if e.costs[i], err = cost(t.Price, *c.InputTokens, e.outputs[i]); err != nil {
			return err
		}
	}
	return e.ask(ctx, c)
}

func cost(p *pricing.Price, input, output int64) (money.Nanos, error) {
	return p.Cost(&usage.Usage{InputTokens: input, OutputTokens: output})
}

// ask decides the case as it is, and as it would be if it were easier and harder, and takes the outcomes.
func (e *Evaluator) ask(ctx context.Context, c *Case) error {
	call := routing.Call{Feature: e.charter.ID, TaskClass: c.TaskClass, Estimate: routing.Estimate{InputTokens: *c.InputTokens}}
	score := complexity.Score(nil, c.TaskClass, *c.InputTokens)
	if c.Prompt != "" {
		f := complexity.Of(c.Prompt)
		score = complexity.Score(&f, c.TaskClass, *c.InputTokens)
		call.Complexity = score
	}
	asIs, err := e.outcome(ctx, &call)
	if err != nil {
		return err
	}
	dearest := len(e.tiers) - 1
	e.take(&e.chosen, asIs)
	if _, known := complexity.Class(c.TaskClass); !known {
		e.count(c.TaskClass)
	}
	of := e.class(c.TaskClass)
	top := outcome{dearest, e.costs[dearest], e.good[dearest], false}
	e.take(&of.chosen, asIs)
	e.take(&of.dearest, top)
	e.boot.add(float64(asIs.cost), float64(top.cost), e.good[dearest], asIs.solved)
	best := -1
	for i := range e.tiers {
		e.take(&e.always[i], outcome{i, e.costs[i], e.good[i], false})
		if e.good[i] && (best < 0 || e.costs[i] < e.costs[best]) {
			best = i
		}
	}
	best = max(best, 0)
	e.take(&e.oracle, outcome{best, e.costs[best], e.good[best], false})
	var known [101]*outcome
	for i := range e.curve {
		shift := int32(i*Step - 100)
		if shift == 0 {
			e.take(&e.curve[i], asIs)
			continue
		}
		n := min(max(score-shift, 1), 100)
		if known[n] == nil {
			call.Complexity = n
			o, err := e.outcome(ctx, &call)
			if err != nil {
				return err
			}
			known[n] = &o
		}
		e.take(&e.curve[i], *known[n])
	}
	return e.err
}

// outcome is what becomes of a case.
type outcome struct {
	tier   int // -1: it was refused
	cost   money.Nanos
	solved bool
	capped bool
}

func (e *Evaluator) outcome(ctx context.Context, call *routing.Call) (outcome, error) {
	plan, err := e.decide(ctx, &routing.Input{Now: e.now, Call: call, Charter: e.charter, Catalog: e.catalog, Prices: e.book, Epoch: 1})
	if err != nil {
		return outcome{}, err
	}
	tier, price := e.serves(plan)
	if tier < 0 {
		return outcome{tier: -1}, nil
	}
	o := outcome{tier, e.costs[tier], e.good[tier], false}
	limit := plan.MaxOutputTokens
	if o.capped = limit > 0 && limit < e.outputs[tier]; o.capped || price != e.tiers[tier].Price {
		output := e.outputs[tier]
		if o.capped {
			output, o.solved = limit, false
		}
		o.cost, err = cost(price, call.Estimate.InputTokens, output)
	}
	return o, err
}

// serves gives the tier that a plan puts first, and the price of its model; -1 if none serves the call.
func (e *Evaluator) serves(p *routing.Plan) (int, *pricing.Price) {
	if p.Effect != routing.Allow && p.Effect != routing.Downgrade {
		return -1, nil
	}
	for _, id := range p.Models {
		m := e.catalog.Model(id)
		if m == nil || e.byModel[id] == nil {
			continue
		}
		return e.place(m.Tier), e.byModel[id]
	}
	for _, id := range p.Tiers {
		if i := e.place(id); len(p.Models) == 0 && i >= 0 {
			return i, e.tiers[i].Price
		}
	}
	return -1, nil
}

func (e *Evaluator) place(tier string) int {
	return slices.IndexFunc(e.tiers, func(t TierPrice) bool { return t.Tier == tier })
}

func (e *Evaluator) take(t *tally, o outcome) {
	t.cases++
	if o.tier < 0 {
		t.refused++
		return
	}
	sum, err := money.Add(t.cost, o.cost)
	if err != nil {
		e.err = err
		return
	}
	t.cost = sum
	t.mix[o.tier]++
	if o.capped {
		t.capped++
	}
	if o.solved {
		t.solved++
		if e.good[len(e.tiers)-1] {
			t.kept++
		}
	}
}

func (e *Evaluator) class(name string) *classTally {
	of := e.classes[name]
	if of == nil {
		if len(e.classes) >= maxClasses {
			name = "(others)"
		}
		if of = e.classes[name]; of == nil {
			of = new(classTally)
			e.classes[name] = of
		}
	}
	return of
}

func (e *Evaluator) count(class string) {
	if _, ok := e.unknown[class]; !ok && len(e.unknown) >= maxClasses {
		class = "(others)"
	}
	e.unknown[class]++
}

// mixed gives what assigning tiers by chance, as often as in a mix, comes to on average: its cost exactly, rounded once, the
// share of cases that it solves, and how many it keeps.
func (e *Evaluator) mixed(t *tally) (cost money.Nanos, solved, kept float64) {
	sum, good, keeps := new(big.Int), new(big.Int), new(big.Int)
	for i := range e.always {
		n := big.NewInt(t.mix[i])
		sum.Add(sum, new(big.Int).Mul(n, big.NewInt(int64(e.always[i].cost))))
		good.Add(good, new(big.Int).Mul(n, big.NewInt(e.always[i].solved)))
		keeps.Add(keeps, new(big.Int).Mul(n, big.NewInt(e.always[i].kept)))
	}
	cases := big.NewInt(t.cases)
	half := new(big.Int).Quo(cases, big.NewInt(2))
	sum.Quo(sum.Add(sum, half), cases)
	return money.Nanos(sum.Int64()), ratio(good, new(big.Int).Mul(cases, cases)), ratio(keeps, cases)
}

func ratio(a, b *big.Int) float64 {
	f, _ := new(big.Rat).SetFrac(a, b).Float64()
	return f
}
