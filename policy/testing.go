package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Limits of the tests of a policy.
const (
	MaxTests  = 10_000
	TestLimit = time.Second // for one test; a decision of a call is cut off after EvaluationLimit
)

// TestOptions say which tests to run, and what to find out.
type TestOptions struct {
	Run      *regexp.Regexp // only tests whose name matches; nil: all
	Coverage bool
}

// TestReport is what became of the tests of a policy.
type TestReport struct {
	Tests    []TestResult // by file and line
	Coverage *Coverage    // nil unless it was asked for
}

// Failed are the tests that did not pass.
func (r *TestReport) Failed() []TestResult {
	var failed []TestResult
	for _, t := range r.Tests {
		if !t.Passed && !t.Skipped {
			failed = append(failed, t)
		}
	}
	return failed
}

// TestResult is what became of one test. A test whose rule begins with `todo_test_` is skipped.
type TestResult struct {
	Name            string
	File            string
	Line            int
	Passed, Skipped bool
	Problem         string // one line: the expression that was not true and the values in it, or the error
	Duration        time.Duration
}

func (t TestResult) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", t.File, t.Line, t.Name, t.Problem)
}

// Coverage says what of a policy its tests evaluate, by line of the files that are not tests.
type Coverage struct {
	Lines, Covered int
	Files          []FileCoverage // by name
}

// Permille is the share of lines that are covered; 1000 where there are none.
func (c *Coverage) Permille() int { return permilleOf(c.Covered, c.Lines) }

// FileCoverage is Coverage of one file.
type FileCoverage struct {
	File           string
	Lines, Covered int
	Uncovered      []LineRange
}

// Permille is the share of lines that are covered; 1000 where there are none.
func (c *FileCoverage) Permille() int { return permilleOf(c.Covered, c.Lines) }

// LineRange is lines, the first and the last.
type LineRange struct{ From, To int }

func permilleOf(part, whole int) int {
	if whole == 0 {
		return 1000
	}
	return part * 1000 / whole
}

// Test compiles a policy and runs its tests: rules that begin with `test_` in files that end in `_test.rego`, with the
// functions that a policy may call and no others. Errors: *InvalidError, ctx's own.
func Test(ctx context.Context, modules map[string]string, o TestOptions) (*TestReport, error) {
	if _, err := Compile(modules); err != nil {
		return nil, err
	}
	return runTests(ctx, modules, o)
}

// runTests runs the tests of a policy that compiles.
func runTests(ctx context.Context, modules map[string]string, o TestOptions) (*TestReport, error) {
	all, tests, err := parseTests(modules)
	if err != nil || len(tests) == 0 && !o.Coverage {
		return &TestReport{}, err
	}
	data, err := Data(modules)
	if err != nil {
		return nil, err
	}
	if err := checkTests(all, tests, data); err != nil {
		return nil, err
	}
	r := testRun{all, inmem.NewFromObject(data)}
	report := &TestReport{}
	var covered *cover.Cover
	if o.Coverage {
		covered = cover.New()
	}
	if report.Tests, err = r.run(ctx, o.Run, covered, false); err != nil {
		return nil, err
	}
	if err := r.explain(ctx, report.Tests); err != nil {
		return nil, err
	}
	if covered != nil {
		report.Coverage = coverage(covered, modules, all)
	}
	return report, nil
}

// checkTests refuses tests that name what no file has: they would fail, or pass, for another reason than they seem to.
func checkTests(all map[string]*ast.Module, tests []string, data map[string]any) error {
	modules := copies(all)
	var err error
	if modules[DataFile], err = configModule(data["config"].(map[string]any)); err != nil {
		return err
	}
	var written map[string]*ast.Module
	// What does not compile the tester tells.
	compiler := ast.NewCompiler().WithCapabilities(testCapabilities()).WithDefaultRegoVersion(ast.RegoV1).
		WithStageAfterID(ast.StageResolveRefs, ast.CompilerStageDefinition{
			Name: "Written", MetricName: "written",
			Stage: func(c *ast.Compiler) *ast.Error {
				written = copies(c.Modules)
				return nil
			},
		})
	if compiler.Compile(modules); written == nil || compiler.RuleTree == nil {
		return nil
	}
	checker := newChecker(nil, nil)
	for _, name := range tests {
		checker.refs(written[name], compiler.RuleTree)
	}
	if len(checker.problems) > 0 {
		return &InvalidError{checker.problems}
	}
	return nil
}

// testRun is tests with the data that they see.
type testRun struct {
	modules map[string]*ast.Module
	store   storage.Store
}

func (r testRun) run(ctx context.Context, only *regexp.Regexp, covered *cover.Cover, trace bool) ([]TestResult, error) {
	txn, err := r.store.NewTransaction(ctx, storage.TransactionParams{})
	if err != nil {
		return nil, err
	}
	defer r.store.Abort(ctx, txn)
	compiler := ast.NewCompiler().WithCapabilities(testCapabilities()).WithDefaultRegoVersion(ast.RegoV1)
	runner := tester.NewRunner().SetCompiler(compiler).SetModules(maps.Clone(r.modules)).SetStore(r.store).SetTimeout(TestLimit).
		SetDefaultRegoVersion(ast.RegoV1).SetParallel(1).EnableTracing(trace)
	if covered != nil {
		runner.SetCoverageQueryTracer(covered)
	}
	if only != nil {
		runner.Filter(only.String())
	}
	results, err := runner.RunTests(ctx, txn)
	if err != nil {
		return nil, hinted(invalid(err), r.modules)
	}
	var list []TestResult
	for r := range results {
		list = append(list, testResult(r))
	}
	slices.SortFunc(list, func(a, b TestResult) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Name, b.Name))
	})
	return list, ctx.Err()
}

// maxExplained bounds the tests that are run again to tell why they failed: traces are large.
const maxExplained = 20

// explain runs tests that are not true again, one by one, to tell the expression that is not.
func (r testRun) explain(ctx context.Context, list []TestResult) error {
	explained := 0
	for i, t := range list {
		if t.Passed || t.Skipped || t.Problem != notTrue || explained == maxExplained {
			continue
		}
		explained++
		again, err := r.run(ctx, regexp.MustCompile(`\.`+regexp.QuoteMeta(t.Name)+"$"), nil, true)
		if err != nil {
			return err
		}
		for _, a := range again {
			if a.File == t.File && a.Line == t.Line {
				list[i].Problem = a.Problem
			}
		}
	}
	return nil
}

// parseTests parses all modules, the tests among them.
func parseTests(modules map[string]string) (all map[string]*ast.Module, tests []string, err error) {
	all = map[string]*ast.Module{}
	var problems []Problem
	count := 0
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if !strings.HasSuffix(name, ".rego") {
			continue
		}
		module, err := ast.ParseModuleWithOpts(name, modules[name], ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
		switch {
		case err != nil:
			problems = append(problems, invalid(err).Problems...)
			continue
		case module == nil: // empty
			continue
		}
		all[name] = module
		if strings.HasSuffix(name, testSuffix) {
			tests = append(tests, name)
			count += len(module.Rules)
		}
	}
	if len(problems) > 0 {
		return nil, nil, &InvalidError{problems}
	}
	if count > MaxTests {
		return nil, nil, refuse("", nil, "the tests have %d rules, at most %d are allowed", count, MaxTests)
	}
	return all, tests, addLibrary(all)
}

func testResult(r *tester.Result) TestResult {
	t := TestResult{Name: r.Name, Passed: r.Pass(), Skipped: r.Skip, Duration: r.Duration}
	if r.Location != nil {
		t.File, t.Line = r.Location.File, r.Location.Row
	}
	switch {
	case t.Passed || t.Skipped:
	case topdown.IsCancel(r.Error) || errors.Is(r.Error, context.DeadlineExceeded):
		t.Problem = fmt.Sprintf("it took longer than %s", TestLimit)
	case r.Error != nil:
		t.Problem = oneLine(r.Error.Error())
	default:
		t.Problem = failure(r)
	}
	t.Problem = clip(t.Problem, maxProblem)
	return t
}

const notTrue = "it is not true"

// Bounds of texts in a failure, in characters.
const (
	maxValue   = 200
	maxProblem = 2000 // all of it
)

// failure tells the expression of a test that was not true, the one that it got furthest with, and what its variables
// were.
func failure(r *tester.Result) string {
	var failed *topdown.Event
	for _, e := range r.Trace {
		at := e.Location
		if e.Op != topdown.FailOp || at == nil || at.File != r.Location.File || at.Row < r.Location.Row {
			continue
		}
		if at.Row > lastRow(r.Location) || failed != nil && at.Row < failed.Location.Row {
			continue
		}
		failed = e
	}
	if failed == nil {
		return notTrue
	}
	text := fmt.Sprintf("line %d is not true: %s", failed.Location.Row, oneLine(string(failed.Location.Text)))
	if values := valuesAt(failed); values != "" {
		text += ", where " + values
	}
	return text
}

func lastRow(at *ast.Location) int { return at.Row + strings.Count(string(at.Text), "\n") }

// valuesAt are the variables of a failed expression, as in `x is 1, y is "a"`.
func valuesAt(e *topdown.Event) string {
	expr, ok := e.Node.(*ast.Expr)
	if !ok || e.Locals == nil {
		return ""
	}
	values := map[string]string{}
	ast.WalkVars(expr, func(v ast.Var) bool {
		name := v
		if m, ok := e.LocalMetadata[v]; ok {
			name = m.Name
		}
		if value := e.Locals.Get(v); value != nil && !name.IsGenerated() && !name.IsWildcard() {
			values[string(name)] = clip(value.String(), maxValue)
		}
		return false
	})
	list := make([]string, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, name+" is "+values[name])
	}
	return strings.Join(list, ", ")
}

func clip(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

// coverage counts the lines of the policy's own files.
func coverage(covered *cover.Cover, own map[string]string, all map[string]*ast.Module) *Coverage {
	report := covered.Report(all)
	c := &Coverage{}
	for _, name := range slices.Sorted(maps.Keys(report.Files)) {
		if _, ok := own[name]; !ok || strings.HasSuffix(name, testSuffix) {
			continue
		}
		f := report.Files[name]
		hit, missed := lines(f.Covered), lines(f.NotCovered)
		file := FileCoverage{File: name}
		for line := range hit {
			if !missed[line] {
				file.Covered++
			}
		}
		file.Lines = file.Covered + len(missed)
		for _, line := range slices.Sorted(maps.Keys(missed)) {
			if n := len(file.Uncovered); n > 0 && file.Uncovered[n-1].To == line-1 {
				file.Uncovered[n-1].To = line
			} else {
				file.Uncovered = append(file.Uncovered, LineRange{line, line})
			}
		}
		c.Lines, c.Covered, c.Files = c.Lines+file.Lines, c.Covered+file.Covered, append(c.Files, file)
	}
	return c
}

func lines(ranges []cover.Range) map[int]bool {
	set := map[int]bool{}
	for _, r := range ranges {
		for line := r.Start.Row; line <= r.End.Row; line++ {
			set[line] = true
		}
	}
	return set
}
