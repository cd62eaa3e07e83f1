package policy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/chartergate/chartergate/core/routing"
)

// stopTime is how long an evaluation that was cut off may take to notice: on a busy machine it has to wait for a processor.
const stopTime = 250 * time.Millisecond

var (
	errCutOff    = fmt.Errorf("it took longer than %s", EvaluationLimit)
	errStuck     = errors.New("an evaluation of it that was cut off has not ended: it is not evaluated again until then")
	errUndefined = errors.New("decision is undefined for this input: give it a default")
)

// Failure says why, in one word.
func (e *EvalError) Failure() routing.PolicyFailure { return e.Why }

func evalError(revision string, err error) *EvalError {
	e := &EvalError{revision, oneLine(err.Error()), routing.FailureIllFormed}
	var bound *BoundError
	var failed *topdown.Error
	switch {
	case errors.Is(err, errCutOff) || errors.Is(err, errStuck):
		e.Why = routing.FailureTimeout
	case errors.Is(err, errUndefined):
		e.Why = routing.FailureUndefined
	case errors.As(err, &bound):
		e.Why = routing.FailureBounds
	case errors.As(err, &failed) || errors.As(err, new(*brokenError)):
		e.Why = routing.FailureError
	}
	return e
}

// brokenError is a panic of an evaluation.
type brokenError struct{ panicked any }

func (e *brokenError) Error() string { return fmt.Sprintf("the evaluation broke down: %v", e.panicked) }

// guard keeps the evaluations of one policy from taking callers and processors with them. OPA looks at every expression
// whether it has been cut off, but not while it compares two values; one can be built that has 2^40 parts.
type guard struct{ stuck atomic.Int32 }

// run evaluates, and waits at most limit and stopTime. An evaluation that goes on after that is left alone; until it has
// ended the policy is not evaluated, so that it can have one processor for each policy at most. Errors: errCutOff,
// errStuck, those of evaluate.
func (g *guard) run(ctx context.Context, limit time.Duration, evaluate func(topdown.Cancel) (*routing.Plan, error)) (*routing.Plan, error) {
	if g.stuck.Load() > 0 {
		return nil, errStuck
	}
	type answer struct {
		plan *routing.Plan
		err  error
	}
	cancel, answered := topdown.NewCancel(), make(chan answer, 1)
	var left atomic.Bool
	go func() {
		plan, err := recovered(cancel, evaluate)
		answered <- answer{plan, err}
		if !left.CompareAndSwap(false, true) {
			g.stuck.Add(-1)
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a := <-answered:
		return a.plan, a.err
	case <-ctx.Done():
	case <-timer.C:
	}
	cancel.Cancel()
	timer.Reset(stopTime)
	select {
	case a := <-answered:
		return a.plan, a.err
	case <-timer.C:
	}
	g.stuck.Add(1)
	if !left.CompareAndSwap(false, true) { // it has ended at this moment
		g.stuck.Add(-1)
	}
	return nil, errCutOff
}

// recovered evaluates; a panic is an error.
func recovered(cancel topdown.Cancel, evaluate func(topdown.Cancel) (*routing.Plan, error)) (plan *routing.Plan, err error) {
	defer func() {
		switch r := recover(); {
		case r == nil:
		case r == any(errCutOff):
			plan, err = nil, errCutOff
		default:
			plan, err = nil, &brokenError{r}
		}
	}()
	return evaluate(cancel)
}

// stopper ends an evaluation that was cut off from within. OPA unifies two arrays on the stack, element by element and
// without a look at cancel: large ones would take more of it than a process can have. It tells a tracer of each step.
type stopper struct{ cancel topdown.Cancel }

func (stopper) Enabled() bool               { return true }
func (stopper) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

func (s stopper) TraceEvent(topdown.Event) {
	if s.cancel.Cancelled() {
		panic(errCutOff)
	}
}
