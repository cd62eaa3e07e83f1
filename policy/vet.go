package policy

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/chartergate/chartergate/core/routing"
)

// Verdict says whether a policy may decide: it compiles, its tests pass and it decides an example in time. At most one
// of Problems, Failed and Costly is set.
type Verdict struct {
	Problems []Problem    // it does not compile
	Failed   []TestResult // by file and line
	Costly   string       // what took too long or too much
	Tests    int          // that passed
}

// Vet compiles a policy, runs its tests and lets it decide examples. It takes as long as the policy makes it take: for
// policies of others run it through the package vetting.
func Vet(ctx context.Context, modules map[string]string) *Verdict {
	p, err := Compile(modules)
	if err != nil {
		var bad *InvalidError
		if !errors.As(err, &bad) {
			bad = refuse("", nil, "%s", err)
		}
		return &Verdict{Problems: bad.Problems}
	}
	report, err := runTests(ctx, modules, TestOptions{})
	var bad *InvalidError
	switch {
	case errors.As(err, &bad):
		return &Verdict{Problems: bad.Problems}
	case err != nil:
		return &Verdict{Costly: err.Error()}
	}
	v := &Verdict{Failed: report.Failed()}
	for _, t := range report.Tests {
		if t.Passed {
			v.Tests++
		}
	}
	if len(v.Failed) == 0 {
		v.Costly = p.tryExamples(ctx)
	}
	return v
}

// testCapabilities are those of policies and what the tester adds to tests.
func testCapabilities() *ast.Capabilities {
	c := *capabilities
	c.Builtins = slices.Clone(c.Builtins)
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if b.Name == "internal.test_case" {
			c.Builtins = append(c.Builtins, b)
		}
	}
	return &c
}

// tryExamples lets the policy decide calls on all kinds of states, and says what takes too long. Whether the decisions
// are any good the tests must say.
func (p *Policy) tryExamples(ctx context.Context) string {
	for _, in := range vetted() {
		input := (&inputs{prices: p.prices}).build(in)
		var err error
		for range 3 {
			if err = p.tryExample(ctx, input); !errors.Is(err, errCutOff) {
				break
			}
		}
		var bound *BoundError
		if errors.Is(err, errCutOff) || errors.Is(err, errStuck) || errors.As(err, &bound) {
			return fmt.Sprintf("deciding an example (%s): %s", in.Call.Labels["example"], err)
		}
	}
	return ""
}

// tryExample is as evaluate, but only what the evaluation itself uses of the processor counts.
func (p *Policy) tryExample(ctx context.Context, input ast.Value) error {
	_, err := p.guard.run(ctx, exampleLimit, func(cancel topdown.Cancel) (*routing.Plan, error) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		start := threadTime()
		plan, err := p.ask(ctx, input, cancel)
		if threadTime()-start > EvaluationLimit {
			return nil, errCutOff
		}
		return plan, err
	})
	return err
}

// exampleLimit is more than EvaluationLimit: the machine may be busy, so that processor time is what counts.
const exampleLimit = 20 * EvaluationLimit
