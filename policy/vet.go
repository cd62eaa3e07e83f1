package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/util"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// TestLimit is how long one test of a policy may take.
const TestLimit = time.Second

// dataFile is what Rego sees as `data`.
const dataFile = "data.json"

// Verdict says whether a policy may decide: it compiles, its tests pass and it decides an example in time. At most one
// of Problems, Failed and Costly is set.
type Verdict struct {
	Problems []Problem     // it does not compile
	Failed   []TestFailure // by file and line
	Costly   string        // what took too long or too much
	Tests    int           // that passed
}

// TestFailure is a test that did not pass.
type TestFailure struct {
	Name, File, Problem string
	Line                int
}

func (f TestFailure) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Name, f.Problem)
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
	v := vetTests(ctx, modules)
	if len(v.Problems)+len(v.Failed) == 0 && v.Costly == "" {
		v.Costly = p.tryExamples(ctx)
	}
	return v
}

// vetTests runs the tests among modules.
func vetTests(ctx context.Context, modules map[string]string) *Verdict {
	parsed, data := map[string]*ast.Module{}, map[string]any{}
	tests := false
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if name == dataFile {
			if err := util.UnmarshalJSON([]byte(modules[name]), &data); err != nil {
				return &Verdict{Problems: refuse(name, nil, "%s", err).Problems}
			}
			continue
		}
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		m, err := ast.ParseModuleWithOpts(name, modules[name], ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
		switch {
		case err != nil:
			return &Verdict{Problems: invalid(err).Problems}
		case m == nil:
			return &Verdict{Problems: refuse(name, nil, "the file is empty").Problems}
		}
		parsed[name] = m
		tests = tests || strings.HasSuffix(name, testSuffix)
	}
	if !tests {
		return &Verdict{}
	}
	store := inmem.NewFromObject(data)
	txn, err := store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return &Verdict{Problems: refuse("", nil, "%s", err).Problems}
	}
	defer store.Abort(ctx, txn)
	results, err := tester.NewRunner().
		SetCompiler(ast.NewCompiler().WithCapabilities(testCapabilities()).WithDefaultRegoVersion(ast.RegoV1).WithEnablePrintStatements(false)).
		SetStore(store).SetModules(parsed).SetTimeout(TestLimit).EnableTracing(false).SetParallel(1).
		RunTests(ctx, txn)
	if err != nil {
		return &Verdict{Problems: invalid(err).Problems}
	}
	v := &Verdict{}
	for r := range results {
		switch {
		case r.Skip:
		case r.Pass():
			v.Tests++
		default:
			v.Failed = append(v.Failed, failure(r))
		}
	}
	return v
}

func failure(r *tester.Result) TestFailure {
	f := TestFailure{Name: strings.TrimPrefix(r.Package, "data.") + "." + r.Name, Problem: "it does not hold"}
	if r.Error != nil {
		f.Problem = oneLine(r.Error.Error())
		if strings.Contains(f.Problem, "eval_cancel_error") {
			f.Problem = fmt.Sprintf("it took longer than %s", TestLimit)
		}
	}
	if r.Location != nil {
		f.File, f.Line = r.Location.File, r.Location.Row
	}
	return f
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
		for range 3 {
			start := processorTime()
			if _, err = p.evaluate(ctx, input, exampleLimit); !errors.Is(err, errCutOff) && processorTime()-start > EvaluationLimit {
				err = errCutOff
			}
			if !errors.Is(err, errCutOff) {
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

// exampleLimit is more than EvaluationLimit: the machine may be busy, so that processor time is what counts.
const exampleLimit = 20 * EvaluationLimit

// processorTime is what this process has used of it.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
