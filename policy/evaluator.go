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
	plans    *interned
	inputs   *inputs
}

func newEvaluator(p *Policy, revision string, limit time.Duration, slots slots) *evaluator {
	return &evaluator{policy: p, revision: revision, limit: limit, slots: slots,
		memo: newMemo(), plans: newInterned(), inputs: &inputs{prices: p.prices}}
}

// decide gives the policy's plan; in.Call and in.Charter must be set. The plan is shared, do not change it: equal
// decisions give the same pointer. Errors: *EvalError, which is not remembered, and ctx's own.
func (e *evaluator) decide(ctx context.Context, in *routing.Input) (*routing.Plan, error) {
	var room [512]byte
	key := e.policy.appendKey(room[:0], in)
	if plan := e.memo.get(key); plan != nil {
		return plan, nil
	}
	return e.evaluate(ctx, in, key)
}

func (e *evaluator) evaluate(ctx context.Context, in *routing.Input, key []byte) (*routing.Plan, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if plan := e.memo.get(key); plan != nil { // another call has asked meanwhile
		return plan, nil
	}
	input := e.inputs.build(in)
	plan, err := e.policy.evaluate(ctx, input, e.limit)
	if errors.Is(err, errCutOff) && ctx.Err() == nil {
		plan, err = e.policy.evaluate(ctx, input, e.limit)
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
	answer, err := p.answer(ctx, input, cancel)
	if err != nil {
		return nil, err
	}
	return decode(answer)
}

func (p *Policy) answer(ctx context.Context, input ast.Value, cancel topdown.Cancel) (ast.Value, error) {
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
	return results[0].Expressions[0].Value.(ast.Value), nil
}
