package policy

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/routing"
)

// Decider asks the policy in use and remembers its plans by all that the policy can read. Make one with NewDecider; it
// is safe for concurrent use.
type Decider struct {
	inUse atomic.Pointer[evaluator] // another policy starts with nothing remembered
	limit time.Duration
	slots slots
}

// NewDecider makes a decider that uses the policy that ships with the server. Its revision is `builtin/{hash}`.
func NewDecider() (*Decider, error) {
	modules := Builtin()
	p, err := Compile(modules)
	if err != nil {
		return nil, err
	}
	d := &Decider{limit: EvaluationLimit, slots: newSlots()}
	d.Use(p, BuiltinPrefix+Hash(modules))
	return d, nil
}

// Use lets a policy decide from now on, under the name of its revision. Calls in flight keep the one before.
func (d *Decider) Use(p *Policy, revision string) {
	if e := d.inUse.Load(); e != nil && e.policy == p && e.revision == revision {
		return
	}
	d.inUse.Store(newEvaluator(p, revision, d.limit, d.slots))
}

// Revision names the policy in use.
func (d *Decider) Revision() string { return d.inUse.Load().revision }

// Decide gives the plan of the policy in use; in.Call and in.Charter must be set. The plan is shared: do not change it.
// A plan that is remembered costs a map lookup and no allocation. Errors: *EvalError, which is not remembered, and
// ctx's own.
func (d *Decider) Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	return d.inUse.Load().decide(ctx, in)
}
