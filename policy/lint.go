package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Level is how grave a finding is.
type Level int

// Levels, the gravest last.
const (
	Hint    Level = iota // could be better
	Warning              // is probably not what was meant, or slow
	Error                // is refused
)

func (l Level) String() string { return [...]string{"hint", "warning", "error"}[l] }

// Finding is something about a policy that its author should know.
type Finding struct {
	Level Level
	Rule  string // which check has found it, such as `unused-rule`
	Problem
}

// Lint looks for what is wrong with a policy, by file and line: what an upload refuses, and what it takes but is slow or
// probably not meant.
func Lint(modules map[string]string) []Finding {
	p, err := Compile(modules)
	if err != nil {
		return refusals(err)
	}
	all, tests, err := parseTests(modules)
	if err != nil {
		return refusals(err)
	}
	var findings []Finding
	add := func(l Level, rule, file string, at *ast.Location, format string, args ...any) {
		findings = append(findings, Finding{l, rule, refuse(file, at, format, args...).Problems[0]})
	}
	if len(tests) == 0 {
		add(Warning, "no-tests", "", nil, "there are no tests: write rules that begin with test_ into a file that ends in %s", testSuffix)
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities).WithDefaultRegoVersion(ast.RegoV1)
	if compiler.Compile(all); compiler.Failed() { // of the tests
		return append(findings, refusals(compiler.Errors)...)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if strings.HasSuffix(name, testSuffix) {
			continue
		}
		for _, r := range unused(compiler, compiler.Modules[name]) {
			add(Warning, "unused-rule", name, r.Loc(), "nothing uses %s: remove it, or let decision read it", r.Head.Ref())
		}
		for _, at := range silent(all[name]) {
			add(Hint, "no-reasons", name, at, "this decision gives no reasons: callers and reviewers will ask why")
		}
	}
	if changed, err := Format(modules); err == nil {
		for _, f := range changed {
			add(Hint, "format", f.Name, nil, "it is not formatted: `chartergate policy fmt --write` does it")
		}
	}
	for _, s := range p.Slow() {
		add(Warning, "slow", s.File, &ast.Location{Row: s.Line, Col: s.Column}, "%s: %s", s.Expression, s.Why)
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return findings
}

func refusals(err error) []Finding {
	var findings []Finding
	bad, ok := errors.AsType[*InvalidError](err)
	if !ok {
		bad = invalid(err)
	}
	for _, p := range bad.Problems {
		findings = append(findings, Finding{Error, "refused", p})
	}
	return findings
}

// unused gives the rules of a module that no other rule reads, tests left out; each name once.
func unused(c *ast.Compiler, m *ast.Module) (rules []*ast.Rule) {
	seen := map[string]bool{}
	for _, r := range m.Rules {
		path := r.Ref().GroundPrefix()
		if seen[path.String()] || path.HasPrefix(ast.MustParseRef(entryPoint)) {
			continue
		}
		seen[path.String()] = true
		if !slices.ContainsFunc(c.GetRulesWithPrefix(path), func(r *ast.Rule) bool { return used(c, r) }) {
			rules = append(rules, r)
		}
	}
	return rules
}

// used says whether a rule other than itself, its else branches and tests reads a rule.
func used(c *ast.Compiler, r *ast.Rule) bool {
	for by := range c.Graph.Dependents(r) {
		if other, ok := by.(*ast.Rule); ok && !other.Ref().Equal(r.Ref()) && !strings.HasSuffix(other.Loc().File, testSuffix) {
			return true
		}
	}
	return false
}

// silent gives the places of literal decisions without reasons.
func silent(m *ast.Module) (places []*ast.Location) {
	ast.WalkTerms(m, func(t *ast.Term) bool {
		o, ok := t.Value.(ast.Object)
		if !ok || o.Get(ast.InternedTerm("effect")) == nil || o.Get(ast.InternedTerm("reasons")) != nil {
			return false
		}
		if _, literal := o.Get(ast.InternedTerm("effect")).Value.(ast.String); literal {
			places = append(places, t.Location)
		}
		return false
	})
	return places
}

func (f Finding) String() string { return fmt.Sprintf("%s: %s (%s)", f.Level, f.Problem, f.Rule) }
