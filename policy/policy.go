// Package policy decides by Rego: it compiles routing policies, asks them, and remembers what they answered.
package policy

import (
	"context"
	"crypto/sha256"
	_ "embed" // schemas
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/util"
)

// BuiltinPrefix starts the revision name of the policy that ships with the server.
const BuiltinPrefix = "builtin/"

// Limits of a policy.
const (
	MaxModules     = 32
	MaxModuleBytes = 256 << 10
)

const (
	routingPackage = "data.chartergate.routing"
	entryPoint     = routingPackage + ".decision"
	testSuffix     = "_test.rego"
)

//go:embed schema/v1/input.json
var inputSchema []byte

//go:embed schema/v1/decision.json
var decisionSchema []byte

// Hash names a set of modules by its content: the first 16 hex digits of a SHA-256 over names and texts.
func Hash(modules map[string]string) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		fmt.Fprintf(h, "%d:%s%d:%s", len(name), name, len(modules[name]), modules[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// InputSchema is the JSON schema of what a routing policy sees as `input`.
func InputSchema() []byte { return slices.Clone(inputSchema) }

// DecisionSchema is the JSON schema of what a routing policy answers.
func DecisionSchema() []byte { return slices.Clone(decisionSchema) }

// Policy is a compiled routing policy. It is immutable.
type Policy struct {
	query  rego.PreparedEvalQuery
	fields []field // what it can read of a call
	prices bool    // whether it can read prices
	guard  *guard
	// The policy as closures; nil if it cannot be: then OPA evaluates it.
	program *program
	slow    []SlowExpression
}

// Compile checks modules, Rego texts by file name, and makes a policy of them. The package is `chartergate.routing`, or
// one below it, and the rule `decision` is the entry point. Files that end in `_test.rego` belong to `opa test` and are
// left out. Error: *InvalidError.
func Compile(modules map[string]string) (*Policy, error) {
	return compileChecked(modules, true)
}

// compiling lets one policy be compiled at a time: OPA's type checker (v1.22) changes types that its compilers share.
var compiling sync.Mutex

// compileChecked is Compile, with or without what it asks of the decision.
func compileChecked(modules map[string]string, check bool) (*Policy, error) {
	compiling.Lock()
	defer compiling.Unlock()
	parsed, err := parse(modules)
	if err != nil {
		return nil, err
	}
	data, err := Data(modules)
	if err != nil {
		return nil, err
	}
	config := data["config"].(map[string]any)
	if parsed[DataFile], err = configModule(config); err != nil {
		return nil, err
	}
	var seen analysis
	var written map[string]*ast.Module
	compiler := ast.NewCompiler().
		WithCapabilities(capabilities).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true).
		WithEnablePrintStatements(false).
		WithSchemas(schemas()).
		WithStageAfterID(ast.StageResolveRefs, ast.CompilerStageDefinition{
			Name: "FoldConfig", MetricName: "fold_config",
			Stage: func(c *ast.Compiler) *ast.Error { return foldConfig(c.Modules, config) },
		}).
		WithStageAfterID(ast.StageResolveRefs, ast.CompilerStageDefinition{
			Name: "FindReads", MetricName: "find_reads",
			Stage: func(c *ast.Compiler) *ast.Error {
				seen.modules(c.Modules)
				written = copies(c.Modules)
				return nil
			},
		})
	if compiler.Compile(parsed); compiler.Failed() {
		return nil, hinted(invalid(compiler.Errors), parsed)
	}
	if err := checkEntryPoint(compiler, parsed); err != nil {
		return nil, err
	}
	if err := checkRules(compiler); err != nil {
		return nil, err
	}
	if err := checkMocks(compiler); err != nil {
		return nil, err
	}
	if check {
		checker := newChecker(written, compiler.TypeEnv)
		checker.paths(written, compiler.RuleTree)
		checker.comparisons(written)
		checker.decision()
		if len(checker.problems) == 0 {
			checker.defined(entryPoint)
		}
		if len(checker.problems) > 0 {
			return nil, &InvalidError{checker.problems}
		}
	}
	query, err := rego.New(rego.Compiler(compiler), rego.Query(entryPoint)).PrepareForEval(context.Background())
	if err != nil {
		return nil, invalid(err)
	}
	p := &Policy{query: query, guard: new(guard), fields: seen.fields()}
	plan, err := intermediate(written)
	if err == nil {
		p.program, err = compilePlan(plan)
	}
	if err == nil {
		p.fields = p.program.fields
	}
	p.slow = slowExpressions(p, &seen, err)
	p.prices = slices.ContainsFunc(p.fields, func(f field) bool { return f.leaf == inputPrice || f.leaf == outputPrice })
	return p, nil
}

func parse(modules map[string]string) (map[string]*ast.Module, error) {
	if err := CheckFiles(modules); err != nil {
		return nil, err
	}
	parsed := make(map[string]*ast.Module, len(modules))
	var problems []Problem
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if strings.HasSuffix(name, testSuffix) || name == DataFile {
			continue
		}
		module, err := ast.ParseModuleWithOpts(name, modules[name],
			ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities})
		switch {
		case err != nil:
			problems = append(problems, invalid(err).Problems...)
		case module == nil:
			problems = append(problems, Problem{File: name, Message: "the file is empty"})
		case !below(module.Package.Path, ast.MustParseRef(routingPackage)) && !isLibraryFile(name, module):
			problems = append(problems, refuse(name, module.Package.Location,
				"the package is %s, it must be chartergate.routing or one below it", packageName(module)).Problems...)
		default:
			parsed[name] = module
		}
	}
	if len(problems) > 0 {
		return nil, &InvalidError{problems}
	}
	if len(parsed) == 0 {
		return nil, refuse("", nil, "the policy has no file: add one with the package chartergate.routing and the rule decision")
	}
	return parsed, addLibrary(parsed)
}

func copies(modules map[string]*ast.Module) map[string]*ast.Module {
	copied := make(map[string]*ast.Module, len(modules))
	for name, m := range modules {
		copied[name] = m.Copy()
	}
	return copied
}

func below(path, root ast.Ref) bool { return path.HasPrefix(root) }

func packageName(m *ast.Module) string { return strings.TrimPrefix(m.Package.Path.String(), "data.") }

// checkEntryPoint wants a rule `decision` that is a value, not a function.
func checkEntryPoint(c *ast.Compiler, parsed map[string]*ast.Module) error {
	rules := c.GetRules(ast.MustParseRef(entryPoint))
	for _, r := range rules {
		if len(r.Head.Args) > 0 {
			return refuse(r.Loc().File, r.Loc(), "decision is a function, it must be a rule without arguments")
		}
	}
	if len(rules) > 0 {
		return nil
	}
	own := maps.Clone(parsed)
	maps.DeleteFunc(own, func(_ string, m *ast.Module) bool { return !below(m.Package.Path, ast.MustParseRef(routingPackage)) })
	name := slices.Min(slices.Collect(maps.Keys(own)))
	return refuse(name, parsed[name].Package.Location, "there is no rule decision in the package chartergate.routing: it is what the policy answers")
}

// checkMocks wants no function to be replaced: the replacement may call it again, and OPA never ends then.
func checkMocks(c *ast.Compiler) error {
	var problems []Problem
	for _, m := range c.Modules {
		ast.WalkWiths(m, func(w *ast.With) bool {
			target, _ := w.Target.Value.(ast.Ref)
			isFunction := func(r *ast.Rule) bool { return len(r.Head.Args) > 0 }
			if !isInput(target) && (!target[0].Equal(ast.DefaultRootDocument) || slices.ContainsFunc(c.GetRules(target), isFunction)) {
				problems = append(problems, refuse(w.Target.Loc().File, w.Target.Loc(),
					"the function %s is replaced: that is for tests, pass what differs as an argument", strings.TrimPrefix(target.String(), routingPackage+".")).Problems...)
			}
			return false
		})
	}
	if len(problems) == 0 {
		return nil
	}
	return &InvalidError{problems}
}

func schemas() *ast.SchemaSet {
	var schema any
	if err := util.UnmarshalJSON(inputSchema, &schema); err != nil {
		panic(err) // embedded: a test reads it
	}
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, schema)
	return set
}
