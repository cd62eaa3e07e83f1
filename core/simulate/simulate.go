// Package simulate replays calls against a policy that did not decide them, on virtual budgets: how many decisions would
// be others, what they would cost, and which budgets would run out and when.
package simulate

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// Decider asks routing policies, as the gate does. Plans are shared and must not be changed.
type Decider interface {
	Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error)
}

// Call is a call of the past.
type Call struct {
	Time time.Time
	Call *routing.Call // kept by examples: not to be changed
	// Used is what it really used. nil: its estimate.
	Used *usage.Usage
	// Decided is what was decided. nil: what Config.Active decides.
	Decided *Answer
	// Budgets is how its budgets stood, from the leaf to the root. A budget of which the simulation knows nothing yet
	// begins there; without it, unspent.
	Budgets []routing.BudgetState
}

// Answer is one decision, and what it cost.
type Answer struct {
	Effect              routing.Effect
	Tier, Model         string
	MaxOutputTokens     int64
	TrimContextToTokens int64
	PromptCache         routing.PromptCache
	Cost                money.Nanos // of what was used; 0 of a call that did not run
	Reasons             []string
	Exhausted           string // id of the budget that had run out for it; empty: none
	Overflow            bool   // the charter's overflow allowance paid
}

// Ran says whether the call was made.
func (a *Answer) Ran() bool { return a.Effect == routing.Allow || a.Effect == routing.Downgrade }

// differs says whether a caller would notice.
func (a *Answer) differs(b *Answer) bool {
	return a.Effect != b.Effect || a.Tier != b.Tier || a.Model != b.Model ||
		a.MaxOutputTokens != b.MaxOutputTokens || a.TrimContextToTokens != b.TrimContextToTokens || a.PromptCache != b.PromptCache
}

// Config is what a simulation works with. Active may be nil if every call says what was decided.
type Config struct {
	Snapshot          *charter.Snapshot
	Active, Candidate Decider
}

// The two sides of a simulation.
const (
	asDecided = iota
	withCandidate
	sides
)

// Simulation replays calls one after the other; each is settled before the next is decided. Make one with New.
type Simulation struct {
	Config
	budgets  map[string]*budget
	features map[string]*line
	lines    map[string]*line // of budgets, by name
	tiers    map[string]*Share
	effects  [sides][routing.Deny + 1]int64
	trickles [sides]map[string]*routing.Trickle
	models   map[modelsKey][]*charter.Model
	differ   map[differenceKey]*Difference
	last     time.Time

	decisions, changed, failed, skipped int64
	firstFailure, firstSkip             string

	query query
}

type modelsKey struct {
	plan    *routing.Plan
	charter *charter.Charter
}

// maxModels bounds the expansions of plans that are remembered.
const maxModels = 65_536

// New begins a simulation in which nothing was spent yet.
func New(cfg Config) *Simulation {
	s := &Simulation{
		Config: cfg, budgets: map[string]*budget{}, features: map[string]*line{}, lines: map[string]*line{}, tiers: map[string]*Share{},
		models: map[modelsKey][]*charter.Model{}, differ: map[differenceKey]*Difference{},
	}
	for side := range s.trickles {
		s.trickles[side] = map[string]*routing.Trickle{}
	}
	return s
}

// Step replays one call. Calls come in the order of their times; a call of a feature that has no charter, or without the
// key of a budget of its path, is skipped and counted. Errors: ctx's, money.ErrOverflow, pricing's.
func (s *Simulation) Step(ctx context.Context, call *Call) error {
	if call.Time.Before(s.last) {
		return fmt.Errorf("the call of %s comes after one of %s: calls must be in the order of time",
			call.Time.UTC().Format(time.RFC3339Nano), s.last.UTC().Format(time.RFC3339Nano))
	}
	s.last = call.Time
	q, problem := s.resolve(call)
	if problem != "" {
		if s.skipped++; s.firstSkip == "" {
			s.firstSkip = problem
		}
		return nil
	}
	var answers [sides]Answer
	for side := range answers {
		a := &answers[side]
		q.side = side
		if side == asDecided && call.Decided != nil {
			*a = *call.Decided
		} else if err := s.decide(ctx, q, a); err != nil {
			return err
		}
		if err := s.settle(q, a); err != nil {
			return err
		}
	}
	return s.count(q, &answers)
}

func (s *Simulation) decider(side int) Decider {
	if side == asDecided {
		return s.Active
	}
	return s.Candidate
}

// fail counts a plan that the candidate did not give.
func (s *Simulation) fail(side int, err error) {
	if side == withCandidate {
		if s.failed++; s.firstFailure == "" {
			s.firstFailure = err.Error()
		}
	}
}

// plannedModels is routing.Models, remembered.
func (s *Simulation) plannedModels(plan *routing.Plan, c *charter.Charter) []*charter.Model {
	key := modelsKey{plan, c}
	m, ok := s.models[key]
	if !ok {
		if len(s.models) >= maxModels {
			clear(s.models)
		}
		m = routing.Models(plan, c, s.Snapshot.Catalog())
		s.models[key] = m
	}
	return m
}

// settle charges a call that ran to the budgets of its side.
func (s *Simulation) settle(q *query, a *Answer) error {
	if !a.Ran() {
		return nil
	}
	path := q.path
	if a.Overflow {
		path = s.overflowPath(q)
	}
	for _, p := range path {
		if err := p.charge(q.side, a.Cost, q.input.Now); err != nil {
			return err
		}
	}
	return add(&q.feature.cost[q.side], a.Cost)
}

// count adds both answers to the result.
func (s *Simulation) count(q *query, answers *[sides]Answer) error {
	s.decisions++
	for side := range answers {
		a := &answers[side]
		s.effects[side][a.Effect]++
		if a.Exhausted != "" {
			for _, p := range q.path {
				if p.budget == a.Exhausted {
					p.line.ranOut(side, q.input.Now)
				}
			}
		}
		if !a.Ran() {
			continue
		}
		q.feature.ran[side]++
		t := s.tiers[a.Tier]
		if t == nil {
			t = &Share{Name: a.Tier, Cost: [2]map[string]money.Nanos{{}, {}}}
			s.tiers[a.Tier] = t
		}
		t.Calls[side]++
		if err := addTo(t.Cost[side], q.currency, a.Cost); err != nil {
			return err
		}
	}
	q.feature.calls++
	for i, p := range q.path {
		p.line.calls++
		for side := range answers {
			if a := &answers[side]; a.Ran() && !(i == 0 && a.Overflow) {
				p.line.ran[side]++
			}
		}
	}
	for side := range answers {
		if answers[side].Ran() && answers[side].Overflow {
			l := s.overflowPurse(q).line
			l.calls++
			l.ran[side]++
		}
	}
	from, to := &answers[asDecided], &answers[withCandidate]
	if !from.differs(to) {
		return nil
	}
	s.changed++
	key := differenceKey{From: choiceOf(from), To: choiceOf(to)}
	d := s.differ[key]
	if d == nil {
		d = &Difference{From: key.From, To: key.To, Cost: [2]map[string]money.Nanos{{}, {}}}
		s.differ[key] = d
	}
	return d.add(q, answers)
}

func add(to *money.Nanos, x money.Nanos) (err error) {
	*to, err = money.Add(*to, x)
	return err
}

func addTo(sums map[string]money.Nanos, currency string, x money.Nanos) (err error) {
	sums[currency], err = money.Add(sums[currency], x)
	return err
}

// WithoutUser is a copy of a call that says nothing of whom it was made for.
func WithoutUser(c *routing.Call) *routing.Call {
	bare := *c
	bare.User, bare.Task, bare.Prefix = "", "", usage.Prefix{}
	bare.Labels, bare.Estimate.ToolCalls = maps.Clone(c.Labels), maps.Clone(c.Estimate.ToolCalls)
	return &bare
}

// BudgetOf is the id of the budget that a status name such as `budgets/chat/keys/u1` is of.
func BudgetOf(status string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(status, "budgets/"), "/")
	return id
}
