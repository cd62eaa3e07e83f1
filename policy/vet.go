package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/charter"
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
	for _, in := range examples() {
		input := (&inputs{prices: p.prices}).build(in)
		var err error
		for range 3 { // the machine may be busy
			if _, err = p.evaluate(ctx, input, EvaluationLimit); !errors.Is(err, errCutOff) {
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

// examples are one call on budgets that are fresh, over their alert, and used up.
func examples() []*routing.Input {
	catalog := charter.WithMeta(&charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "standard"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "small", Provider: "example", Tier: "economy", Capabilities: []string{"chat", "tools"}, ContextTokens: 128_000, MaxOutputTokens: 16_384},
			{ID: "medium", Provider: "example", Tier: "standard", Capabilities: []string{"chat", "tools", "vision"}, ContextTokens: 128_000, MaxOutputTokens: 16_384},
			{ID: "large", Provider: "example", Tier: "premium", Capabilities: []string{"chat", "tools", "vision", "code"}, ContextTokens: 200_000, MaxOutputTokens: 64_000},
		},
	}, charter.Meta{}).(*charter.Catalog)
	var list []*routing.Input
	for name, permille := range map[string]int32{"a fresh budget": 100, "a budget over its alert": 900, "a used-up budget": 1000} {
		list = append(list, &routing.Input{
			Now: time.Date(2026, 11, 23, 10, 15, 0, 0, time.UTC),
			Call: &routing.Call{
				Feature: "example", TaskClass: "chat", Capabilities: []string{"chat"}, User: "u-1", Cohort: "all",
				Estimate: routing.Estimate{InputTokens: 1200, MaxOutputTokens: 400}, Labels: map[string]string{"example": name},
			},
			Charter: &charter.Charter{ID: "example", Team: "example", Stage: charter.StageProduction},
			Budgets: []routing.BudgetState{{ID: "example", UtilizationPermille: permille, AlertPermille: 800}, {ID: "all", UtilizationPermille: 300, AlertPermille: 900}},
			Catalog: catalog,
		})
	}
	return list
}
