package policy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// Decider asks the policies that are attached to a call's organisation, team and feature, and combines what they say; the
// policy that ships with the server where none is attached. Make one with NewDecider; it is safe for concurrent use.
type Decider struct {
	shipped *evaluator
	limit   time.Duration
	slots   slots
	using   sync.Mutex
	inUse   atomic.Pointer[set]
	serving atomic.Pointer[Serving]
	bundle  atomic.Pointer[Revision] // decides for the organisation in place of the stored one; nil: there is none
	known   map[string]*Revision     // by name: those of the last snapshot, and those in use; nil before the first
}

// Revision is a compiled policy by the name of its revision.
type Revision struct {
	Name   string
	Policy *Policy // nil: it does not compile
	// Problem is why it does not compile. Calls that it is attached to are decided by the charter's fail mode.
	Problem string
}

// Set is all policies that decide at one time.
type Set struct {
	Organisation    *Revision // nil: none is attached
	Teams, Features map[string]*Revision
}

// One is the set of one policy, which is attached to the organisation.
func One(p *Policy, revision string) *Set {
	return &Set{Organisation: &Revision{Name: revision, Policy: p}}
}

// set is a Set with what is remembered of its policies.
type set struct {
	organisation    *attached
	teams, features map[string]*attached
	combined        atomic.Pointer[combinations]
}

// attached is a policy as it is asked.
type attached struct {
	*Revision
	evaluator *evaluator // nil: it does not compile
}

func (a *attached) decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	if a.evaluator == nil {
		return nil, &EvalError{a.Name, a.Problem, routing.FailureError}
	}
	return a.evaluator.decide(ctx, in)
}

// maxLevels is how many policies can be attached to a call: the organisation's, its team's and its feature's.
const maxLevels = 3

// NewDecider makes a decider that uses the policy that ships with the server. Its revision is `builtin/{hash}`.
func NewDecider() (*Decider, error) {
	modules := Builtin()
	p, err := Compile(modules)
	if err != nil {
		return nil, err
	}
	d := &Decider{limit: EvaluationLimit, slots: newSlots()}
	d.shipped = newEvaluator(p, BuiltinPrefix+Hash(modules), d.limit, d.slots)
	d.Use(&Set{})
	d.serving.Store(&Serving{Revisions: []string{d.Builtin()}})
	return d, nil
}

// Builtin names the revision that ships with the server.
func (d *Decider) Builtin() string { return d.shipped.revision }

// Use lets a set of policies decide from now on, as a whole. Calls in flight keep the one before. What is remembered of a
// policy that was in use stays.
func (d *Decider) Use(s *Set) {
	d.using.Lock()
	defer d.using.Unlock()
	before := d.inUse.Load()
	if before == nil {
		before = &set{}
	}
	next := &set{teams: map[string]*attached{}, features: map[string]*attached{}}
	for team, r := range s.Teams {
		next.teams[team] = d.attach(r, before.teams[team])
	}
	for feature, r := range s.Features {
		next.features[feature] = d.attach(r, before.features[feature])
	}
	if s.Organisation != nil {
		next.organisation = d.attach(s.Organisation, before.organisation)
	}
	d.inUse.Store(next)
}

// attach makes a policy ready to be asked; before is what decided in its place.
func (d *Decider) attach(r *Revision, before *attached) *attached {
	switch {
	case r.Policy == nil:
		return &attached{Revision: r}
	case before != nil && before.Name == r.Name && before.Policy == r.Policy:
		return before
	}
	return &attached{r, newEvaluator(r.Policy, r.Name, d.limit, d.slots)}
}

// Policy gives a revision that is in use; nil for others.
func (d *Decider) Policy(revision string) *Policy {
	s := d.inUse.Load()
	if a := s.organisation; a != nil && a.Name == revision {
		return a.Revision.Policy
	}
	for _, of := range [...]map[string]*attached{s.teams, s.features} {
		for _, a := range of {
			if a.Name == revision {
				return a.Revision.Policy
			}
		}
	}
	return nil
}

// levels appends the policies that are attached to a charter, the organisation's first.
func (s *set) levels(dst []*attached, c *charter.Charter) []*attached {
	for _, a := range [...]*attached{s.organisation, s.teams[c.Team], s.features[c.ID]} {
		if a != nil {
			dst = append(dst, a)
		}
	}
	return dst
}

// Decide gives what the policies in use say together; in.Call and in.Charter must be set. The plan is shared: do not
// change it. Where no policy names a tier or a model for a call that is to run, the shipped one chooses among all, below
// them. A plan that is remembered costs a map lookup for each policy, and one for their combination, and no
// allocation. Errors: *EvalError, which is not remembered, for each policy that gave no decision; the plan is then what
// the others say, and nil if there are none. Besides, ctx's own, without a plan.
func (d *Decider) Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	s := d.inUse.Load()
	var room [maxLevels]*attached
	levels := s.levels(room[:0], in.Charter)
	if len(levels) == 0 {
		return d.shipped.decide(ctx, in)
	}
	var key combination
	n := 0
	var failed error
	for _, a := range levels {
		plan, err := a.decide(ctx, in)
		switch {
		case err == nil:
			key[n] = plan
			n++
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			failed = errors.Join(failed, err)
		}
	}
	if n == 0 {
		return nil, failed
	}
	if failed == nil && leaveChoice(key[:n]) {
		plan, err := d.shipped.decide(ctx, in)
		if err != nil {
			return nil, err
		}
		key[n] = plan
	}
	return s.combine(in.Catalog, key), failed
}

// leaveChoice reports whether a call is to run, and nothing names a tier or a model for it.
func leaveChoice(plans []*routing.Plan) bool {
	return !slices.ContainsFunc(plans, func(p *routing.Plan) bool { return !p.LeavesChoice() })
}
