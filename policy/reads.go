package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// anyElement stands for every element of a path: an index, or one that is not known before evaluation.
const anyElement = "*"

// read is one place where a policy reads its input: the path below `input`, and the number that it is compared with if
// that is all that the place does with it.
type read struct {
	path []string
	cut  string        // empty: the value itself is used
	at   *ast.Location // nil: not known
	text string        // of the expression
}

// analysis collects the places where modules read their input. It may find more than evaluation reads, never less.
type analysis struct {
	reads []read
	// A `with` can replace functions, comparisons included: then no comparison is taken at its word.
	with bool
}

func (a *analysis) modules(modules map[string]*ast.Module) {
	for _, m := range modules {
		for _, r := range m.Rules {
			a.walk(r)
		}
	}
}

func (a *analysis) walk(x any) {
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.Head:
			for _, t := range x.Reference { // the visitor leaves it out
				a.walk(t)
			}
		case *ast.With:
			a.with = true
		case *ast.Expr:
			terms, ok := x.Terms.([]*ast.Term)
			return ok && len(x.With) == 0 && a.comparison(terms)
		case ast.Call:
			return a.comparison(x)
		case ast.Ref:
			if isInput(x) {
				a.ref(x, "")
				return true
			}
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				a.reads = append(a.reads, read{text: "input"})
			}
		}
		return false
	}).Walk(x)
}

func isInput(r ast.Ref) bool { return r[0].Equal(ast.InputRootDocument) }

var comparisons = []string{
	ast.GreaterThan.Name, ast.GreaterThanEq.Name, ast.LessThan.Name, ast.LessThanEq.Name,
	ast.Equal.Name, ast.NotEqual.Name, ast.Equality.Name,
}

// comparison takes a comparison of an input with a literal number, and says whether it was one.
func (a *analysis) comparison(terms []*ast.Term) bool {
	if len(terms) != 3 || !slices.Contains(comparisons, terms[0].Value.String()) {
		return false
	}
	for _, side := range [2][2]*ast.Term{{terms[1], terms[2]}, {terms[2], terms[1]}} {
		ref, isRef := side[0].Value.(ast.Ref)
		number, isNumber := side[1].Value.(ast.Number)
		if isRef && isNumber && isInput(ref) {
			a.ref(ref, string(number))
			return true
		}
	}
	return false
}

func (a *analysis) ref(r ast.Ref, cut string) {
	path := make([]string, 0, len(r)-1)
	for _, t := range r[1:] {
		name, ok := t.Value.(ast.String)
		if !ok {
			name = anyElement
			a.walk(t) // it may read input itself
		}
		path = append(path, string(name))
	}
	a.reads = append(a.reads, read{path, cut, r[len(r)-1].Loc(), r.String()})
}

// fields says what of a call the policy can read, in a fixed order.
func (a *analysis) fields() []field {
	var fields []field
	for l := range leafCount {
		fields = append(fields, a.fieldsOf(l)...)
	}
	return fields
}

func (a *analysis) fieldsOf(l leaf) []field {
	path := strings.Split(leafPaths[l], ".")
	var names []string // of the entries of a map that are read by name
	var cuts []int64
	found := false
	for _, r := range a.reads {
		if !overlap(r.path, path) {
			continue
		}
		if (l == labels || l == toolCalls) && len(r.path) > len(path) && r.path[len(path)] != anyElement {
			names = append(names, r.path[len(path)])
			continue
		}
		cut, ok := parseCut(r.cut, l.scale())
		if !ok || a.with || len(r.path) != len(path) {
			return []field{{leaf: l}}
		}
		found, cuts = true, append(cuts, cut)
	}
	slices.Sort(cuts)
	slices.Sort(names)
	var fields []field
	if found {
		fields = append(fields, field{leaf: l, cuts: slices.Compact(cuts)})
	}
	for _, name := range slices.Compact(names) {
		fields = append(fields, field{leaf: l, name: name})
	}
	return fields
}

// overlap says whether reading one path can show what is at the other: one is at or above the other.
func overlap(a, b []string) bool {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] && a[i] != anyElement && b[i] != anyElement {
			return false
		}
	}
	return true
}
