package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/chartergate/chartergate/core/routing"
)

// EvaluationLimit is how long one evaluation of a policy may take. Then it is cut off, and tried once more in case the
// machine was busy with something else; then there is no decision.
const EvaluationLimit = 10 * time.Millisecond

// EvalError says that a policy gave no decision: it failed, took too long, or its answer is undefined or ill-formed.
type EvalError struct{ Revision, Problem string }

func (e *EvalError) Error() string {
	return fmt.Sprintf("policy %s gave no decision: %s", e.Revision, e.Problem)
}

// Decider asks the policy in use and remembers its plans by all that the policy can read. Make one with NewDecider; it
// is safe for concurrent use.
type Decider struct {
	inUse atomic.Pointer[inUse]
	limit time.Duration
	// slots lets as many evaluations run as there are processors, so that none is cut off for waiting.
	slots chan struct{}
}

// inUse is a policy with what is remembered of it: another policy starts with nothing.
type inUse struct {
	policy   *Policy
	revision string
	memo     *memo
	inputs   *inputs
}

// NewDecider makes a decider that uses the policy that ships with the server. Its revision is `builtin/{hash}`.
func NewDecider() (*Decider, error) {
	modules := Builtin()
	p, err := Compile(modules)
	if err != nil {
		return nil, err
	}
	d := &Decider{limit: EvaluationLimit, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	d.Use(p, BuiltinPrefix+Hash(modules))
	return d, nil
}

// Use lets a policy decide from now on, under the name of its revision. Calls in flight keep the one before.
func (d *Decider) Use(p *Policy, revision string) {
	if u := d.inUse.Load(); u != nil && u.policy == p && u.revision == revision {
		return
	}
	d.inUse.Store(&inUse{p, revision, newMemo(), &inputs{prices: p.prices}})
}

// Revision names the policy in use.
func (d *Decider) Revision() string { return d.inUse.Load().revision }

// Decide gives the plan of the policy in use; in.Call and in.Charter must be set. The plan is shared: do not change it.
// A plan that is remembered costs a map lookup and no allocation. Errors: *EvalError, which is not remembered, and
// ctx's own.
func (d *Decider) Decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	u := d.inUse.Load()
	var room [512]byte
	key := u.policy.appendKey(room[:0], in)
	if plan := u.memo.get(key); plan != nil {
		return plan, nil
	}
	return d.evaluate(ctx, u, in, key)
}

func (d *Decider) evaluate(ctx context.Context, u *inUse, in *routing.Input, key []byte) (*routing.Plan, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if plan := u.memo.get(key); plan != nil { // another call has asked meanwhile
		return plan, nil
	}
	input := u.inputs.build(in)
	plan, err := u.policy.evaluate(ctx, input, d.limit)
	if errors.Is(err, errCutOff) && ctx.Err() == nil {
		plan, err = u.policy.evaluate(ctx, input, d.limit)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &EvalError{u.revision, oneLine(err.Error())}
	}
	plan.Revision = u.revision
	u.memo.put(key, plan)
	return plan, nil
}

var errCutOff = fmt.Errorf("it took longer than %s", EvaluationLimit)

// evaluate asks OPA.
func (p *Policy) evaluate(ctx context.Context, input ast.Value, limit time.Duration) (*routing.Plan, error) {
	cancel := topdown.NewCancel()
	defer time.AfterFunc(limit, cancel.Cancel).Stop()
	defer context.AfterFunc(ctx, cancel.Cancel)()
	results, err := p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalExternalCancel(cancel),
		rego.EvalGenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t.Value, nil }))
	switch {
	case topdown.IsCancel(err):
		return nil, errCutOff
	case err != nil:
		return nil, err
	case len(results) == 0:
		return nil, errors.New("decision is undefined for this input: give it a default")
	}
	return decode(results[0].Expressions[0].Value.(ast.Value))
}
