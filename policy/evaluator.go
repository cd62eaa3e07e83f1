package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
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
type EvalError struct {
	Revision, Problem string
	Why               routing.PolicyFailure
}

func (e *EvalError) Error() string {
	return fmt.Sprintf("policy %s gave no decision: %s", e.Revision, e.Problem)
}

// slots lets as many evaluations run as there are processors, so that none is cut off for waiting.
type slots chan struct{}

func newSlots() slots { return make(slots, runtime.GOMAXPROCS(0)) }

// evaluator asks one policy and remembers its plans by all that the policy can read. It is safe for concurrent use.
type evaluator struct {
	policy   *Policy
	revision string
	limit    time.Duration
	slots    slots
	memo     *memo
	use      usefulness // of the memo
	stages   *stageMemo
	plans    *interned
	inputs   *inputs
}

func newEvaluator(p *Policy, revision string, limit time.Duration, slots slots) *evaluator {
	return &evaluator{policy: p, revision: revision, limit: limit, slots: slots,
		memo: newMemo(), stages: newStageMemo(), plans: newInterned(), inputs: &inputs{prices: p.prices}}
}

// decide gives the policy's plan; in.Call and in.Charter must be set. The plan is shared, do not change it: equal
// decisions give the same pointer. Errors: *EvalError, which is not remembered, and ctx's own.
func (e *evaluator) decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	var room [512]byte
	if e.policy.program != nil && e.use.less() {
		plan, err := e.run(ctx, in)
		if err != nil {
			return e.evaluate(ctx, in, e.policy.appendKey(room[:0], in), err)
		}
		return plan, nil
	}
	key := e.policy.appendKey(room[:0], in)
	plan, sampled := e.memo.get(key)
	if sampled && e.policy.program != nil && e.use.count(plan != nil) {
		e.memo.clear()
	}
	if plan != nil {
		return plan, nil
	}
	if e.policy.program == nil {
		return e.evaluate(ctx, in, key, nil)
	}
	plan, err := e.run(ctx, in)
	if err != nil {
		return e.evaluate(ctx, in, key, err)
	}
	e.memo.put(key, plan)
	return plan, nil
}

// run evaluates the closures.
func (e *evaluator) run(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	plan, err := e.policy.program.run(ctx, in, e.inputs, e.stages.get(e.policy.program, in), e.limit)
	if err != nil {
		return nil, err
	}
	plan.Revision = e.revision
	return e.plans.intern(plan), nil
}

// evaluate asks OPA, or the closures once more if they were cut off. What failed in the closures is told by OPA.
func (e *evaluator) evaluate(ctx context.Context, in *routing.Input, key []byte, failed error) (*routing.Plan, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if plan, _ := e.memo.get(key); plan != nil { // another call has asked meanwhile
		return plan, nil
	}
	var plan *routing.Plan
	var err error
	if errors.Is(failed, errCutOff) {
		plan, err = e.run(ctx, in)
	} else {
		input := e.inputs.build(in)
		plan, err = e.policy.evaluate(ctx, input, e.limit)
		if errors.Is(err, errCutOff) && ctx.Err() == nil {
			plan, err = e.policy.evaluate(ctx, input, e.limit)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, evalError(e.revision, err)
	}
	plan.Revision = e.revision
	plan = e.plans.intern(plan)
	e.memo.put(key, plan)
	return plan, nil
}

// evaluate asks OPA. Errors: errCutOff, errStuck, and what is wrong with the answer.
func (p *Policy) evaluate(ctx context.Context, input ast.Value, limit time.Duration) (*routing.Plan, error) {
	return p.guard.run(ctx, limit, func(cancel topdown.Cancel) (*routing.Plan, error) { return p.ask(ctx, input, cancel) })
}

func (p *Policy) ask(ctx context.Context, input ast.Value, cancel topdown.Cancel) (*routing.Plan, error) {
	results, err := p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalExternalCancel(cancel), rego.EvalQueryTracer(stopper{cancel}),
		rego.EvalGenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t.Value, nil }))
	switch {
	case topdown.IsCancel(err):
		return nil, errCutOff
	case err != nil:
		return nil, err
	case len(results) == 0:
		return nil, errUndefined
	}
	return decode(results[0].Expressions[0].Value.(ast.Value))
}
