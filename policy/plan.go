package policy

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	opa "github.com/open-policy-agent/opa/v1/compile"
	"github.com/open-policy-agent/opa/v1/ir"
)

// intermediate asks OPA's planner for the policy as statements: all of Rego's meaning is in them.
func intermediate(modules map[string]string, parsed map[string]*ast.Module) (*ir.Policy, error) {
	b := new(bundle.Bundle)
	for name, module := range parsed {
		b.Modules = append(b.Modules, bundle.ModuleFile{URL: name, Path: name, Parsed: module, Raw: []byte(modules[name])})
	}
	b.Manifest.Init()
	b.Manifest.SetRegoVersion(ast.RegoV1)
	build := opa.New().WithTarget(opa.TargetPlan).WithBundle(b).WithCapabilities(capabilities).WithRegoVersion(ast.RegoV1).
		WithEntrypoints(strings.ReplaceAll(strings.TrimPrefix(entryPoint, "data."), ".", "/"))
	if err := build.Build(context.Background()); err != nil {
		return nil, err
	}
	policy := new(ir.Policy)
	return policy, json.Unmarshal(build.Bundle().PlanModules[0].Raw, policy)
}

// readsOf finds where a function reads the input. It may find more than evaluation reads, never less.
type readsOf struct {
	strings  []*ir.StringConst
	native   func(name string) bool  // a builtin, not a function of the policy
	paths    map[ir.Local][][]string // what of the input a local may hold
	numbers  map[ir.Local]string     // the literal number that a local holds
	reads    []read
	elements [][]string // whose being there shows
}

func (a *readsOf) function(blocks []*ir.Block) []read {
	a.paths, a.numbers, a.reads, a.elements = map[ir.Local][][]string{ir.Input: {{}}}, map[ir.Local]string{}, nil, nil
	a.blocks(blocks)
	for _, path := range a.elements {
		if !slices.ContainsFunc(a.reads, func(r read) bool { return len(r.path) >= len(path) && overlap(r.path, path) }) {
			a.reads = append(a.reads, read{path: path})
		}
	}
	return compactReads(a.reads)
}

// blocks visits statements. A block may be left at any of them.
func (a *readsOf) blocks(blocks []*ir.Block) {
	for _, b := range blocks {
		paths, numbers := maps.Clone(a.paths), maps.Clone(a.numbers)
		for _, s := range b.Stmts {
			a.statement(s)
		}
		for l, more := range a.paths {
			for _, path := range more {
				if !holds(paths[l], path) {
					paths[l] = append(slices.Clip(paths[l]), path)
				}
			}
		}
		a.paths, a.numbers = paths, numbers
		forget(a.numbers, b)
	}
}

func holds(paths [][]string, path []string) bool {
	return slices.ContainsFunc(paths, func(p []string) bool { return slices.Equal(p, path) })
}

func (a *readsOf) count() (n int) {
	for _, paths := range a.paths {
		n += len(paths)
	}
	return n
}

func (a *readsOf) statement(s ir.Stmt) {
	switch s := s.(type) {
	case *ir.DotStmt:
		key, known := what(s.Key).(ir.StringIndex)
		name := anyElement
		if known {
			name = a.strings[key].Value
		} else {
			a.use(s.Key, "")
		}
		found := a.below(a.of(s.Source), name)
		for _, path := range found {
			a.exists(path)
			if !known {
				a.elements = append(a.elements, path)
			}
		}
		delete(a.numbers, s.Target)
		a.paths[s.Target] = found
		return
	case *ir.ScanStmt:
		found := a.below(a.paths[s.Source], anyElement)
		a.elements = append(a.elements, found...)
		forget(a.numbers, s.Block)
		delete(a.numbers, s.Key)
		delete(a.numbers, s.Value)
		a.paths[s.Value] = found
		a.paths[s.Key] = slices.DeleteFunc(slices.Clone(found), func(path []string) bool { // no more than how many there are
			text := strings.Join(path, ".")
			return text == "budgets."+anyElement || text == "catalog.models."+anyElement
		})
		for before := -1; before != a.count(); { // until another round finds nothing new
			before = a.count()
			a.blocks([]*ir.Block{s.Block})
		}
		return
	case *ir.AssignVarStmt:
		a.paths[s.Target] = a.of(s.Source)
		delete(a.numbers, s.Target)
		if source, local := what(s.Source).(ir.Local); local && a.numbers[source] != "" {
			a.numbers[s.Target] = a.numbers[source]
		}
		return
	case *ir.MakeNumberRefStmt:
		delete(a.paths, s.Target)
		a.numbers[s.Target] = a.strings[s.Index].Value
		return
	case *ir.MakeNumberIntStmt:
		delete(a.paths, s.Target)
		a.numbers[s.Target] = fmt.Sprint(s.Value)
		return
	case *ir.EqualStmt:
		a.compared(s.A, s.B)
	case *ir.NotEqualStmt:
		a.compared(s.A, s.B)
	case *ir.CallStmt:
		switch {
		case a.native(s.Func) && len(s.Args) == 2 && slices.Contains(comparisons, s.Func):
			a.compared(s.Args[0], s.Args[1])
		case a.native(s.Func) && s.Func == ast.ObjectGet.Name:
			a.get(s.Args)
		case a.native(s.Func):
			for _, arg := range s.Args {
				a.use(arg, "")
			}
		default:
			for i, arg := range s.Args {
				if what(arg) != ir.Input || i != 0 { // the function's own reads count
					a.use(arg, "")
				}
			}
		}
	case *ir.BlockStmt:
		a.blocks(s.Blocks)
		return
	case *ir.NotStmt:
		a.blocks([]*ir.Block{s.Block})
		return
	case *ir.WithStmt:
		if source, ok := what(s.Value).(ir.Local); !ok || !holds(a.paths[source], []string{}) { // not the input itself
			a.use(s.Value, "")
		}
		a.blocks([]*ir.Block{s.Block})
		return
	case *ir.AssignVarOnceStmt:
		a.use(s.Source, "")
	case *ir.ReturnLocalStmt:
		a.use(ir.Operand{Value: s.Source}, "")
	case *ir.LenStmt:
		a.use(s.Source, "")
	case *ir.ArrayAppendStmt:
		a.use(s.Value, "")
	case *ir.ObjectInsertStmt:
		a.use(s.Key, "")
		a.use(s.Value, "")
	case *ir.ObjectInsertOnceStmt:
		a.use(s.Key, "")
		a.use(s.Value, "")
	case *ir.SetAddStmt:
		a.use(s.Value, "")
	case *ir.ObjectMergeStmt:
		a.use(ir.Operand{Value: s.A}, "")
		a.use(ir.Operand{Value: s.B}, "")
	case *ir.CallDynamicStmt:
		for _, o := range s.Path {
			a.use(o, "")
		}
	}
	for _, l := range writes(s) {
		delete(a.numbers, l)
		delete(a.paths, l)
	}
}

// get reads what an object has at a key.
func (a *readsOf) get(args []ir.Operand) {
	key, known := what(args[1]).(ir.StringIndex)
	for _, path := range a.of(args[0]) {
		if known {
			path = append(slices.Clone(path), a.strings[key].Value)
		}
		a.reads = append(a.reads, read{path: path})
	}
	a.use(args[1], "")
	a.use(args[2], "")
}

func (a *readsOf) of(o ir.Operand) [][]string {
	local, ok := what(o).(ir.Local)
	if !ok {
		return nil
	}
	return a.paths[local]
}

// below gives paths one name deeper. Nothing that differs between calls is very deep.
func (a *readsOf) below(paths [][]string, name string) (found [][]string) {
	for _, path := range paths {
		if len(path) == 6 {
			a.reads = append(a.reads, read{path: path})
		} else {
			path = append(slices.Clip(path), name)
		}
		found = append(found, path)
	}
	return found
}

// exists takes a look at whether something is there for a read, unless it always is.
func (a *readsOf) exists(path []string) {
	for l, text := range leafPaths {
		leafPath := strings.Split(text, ".")
		if (len(path) > len(leafPath) || l == int(inputPrice) || l == int(outputPrice)) && len(path) >= len(leafPath) && overlap(path, leafPath) {
			a.reads = append(a.reads, read{path: path})
			return
		}
	}
}

func (a *readsOf) use(o ir.Operand, cut string) {
	for _, path := range a.of(o) {
		a.reads = append(a.reads, read{path: path, cut: cut})
	}
}

func (a *readsOf) compared(x, y ir.Operand) {
	for _, side := range [2][2]ir.Operand{{x, y}, {y, x}} {
		switch other := what(side[1]).(type) {
		case ir.Local:
			a.use(side[0], a.numbers[other])
		case ir.Bool:
			for _, path := range a.of(side[0]) {
				if l, ok := leavesByPath[strings.Join(path, ".")]; !ok || l.scale() == 0 { // no number is a boolean
					a.reads = append(a.reads, read{path: path})
				}
			}
		default:
			a.use(side[0], "")
		}
	}
}

// forget drops what statements write.
func forget(numbers map[ir.Local]string, b *ir.Block) {
	for _, s := range b.Stmts {
		for _, l := range writes(s) {
			delete(numbers, l)
		}
		for _, inner := range inside(s) {
			forget(numbers, inner)
		}
	}
}

func inside(s ir.Stmt) []*ir.Block {
	switch s := s.(type) {
	case *ir.BlockStmt:
		return s.Blocks
	case *ir.NotStmt:
		return []*ir.Block{s.Block}
	case *ir.WithStmt:
		return []*ir.Block{s.Block}
	case *ir.ScanStmt:
		return []*ir.Block{s.Block}
	}
	return nil
}

func writes(s ir.Stmt) []ir.Local {
	switch s := s.(type) {
	case *ir.DotStmt:
		return []ir.Local{s.Target}
	case *ir.ScanStmt:
		return []ir.Local{s.Key, s.Value}
	case *ir.AssignVarStmt:
		return []ir.Local{s.Target}
	case *ir.AssignVarOnceStmt:
		return []ir.Local{s.Target}
	case *ir.AssignIntStmt:
		return []ir.Local{s.Target}
	case *ir.ResetLocalStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNullStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNumberIntStmt:
		return []ir.Local{s.Target}
	case *ir.MakeNumberRefStmt:
		return []ir.Local{s.Target}
	case *ir.MakeArrayStmt:
		return []ir.Local{s.Target}
	case *ir.MakeObjectStmt:
		return []ir.Local{s.Target}
	case *ir.MakeSetStmt:
		return []ir.Local{s.Target}
	case *ir.LenStmt:
		return []ir.Local{s.Target}
	case *ir.CallStmt:
		return []ir.Local{s.Result}
	case *ir.CallDynamicStmt:
		return []ir.Local{s.Result}
	case *ir.ObjectMergeStmt:
		return []ir.Local{s.Target}
	case *ir.WithStmt:
		return []ir.Local{s.Local}
	}
	return nil
}

func compareReads(a, b read) int {
	return cmp.Or(slices.Compare(a.path, b.path), strings.Compare(a.cut, b.cut))
}

// what is an operand's value; those that were read from JSON are pointers.
func what(o ir.Operand) ir.Val {
	switch v := o.Value.(type) {
	case *ir.Local:
		return *v
	case *ir.StringIndex:
		return *v
	case *ir.Bool:
		return *v
	}
	return o.Value
}
