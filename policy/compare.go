package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// schemaNode is what the schema says of a place in `input`; nil where nothing is known of it.
type schemaNode struct {
	Ref        string                 `json:"$ref"`
	Defined    map[string]*schemaNode `json:"definitions"`
	Type       string                 `json:"type"`
	Enum       []string               `json:"enum"`
	Properties map[string]*schemaNode `json:"properties"`
	Items      *schemaNode            `json:"items"`
	Additional json.RawMessage        `json:"additionalProperties"` // false, or the schema of the values
}

func schemaOfInput() *schemaNode {
	n := new(schemaNode)
	if err := json.Unmarshal(inputSchema, n); err != nil {
		panic(err)
	}
	var resolve func(*schemaNode) *schemaNode
	resolve = func(at *schemaNode) *schemaNode {
		if at == nil {
			return nil
		}
		if name, ok := strings.CutPrefix(at.Ref, "#/definitions/"); ok {
			return n.Defined[name]
		}
		for name, of := range at.Properties {
			at.Properties[name] = resolve(of)
		}
		at.Items = resolve(at.Items)
		return at
	}
	for _, of := range n.Defined {
		resolve(of)
	}
	return resolve(n)
}

// element is the schema of what stands at any place of an array, or of an object with names of its own.
func (n *schemaNode) element() *schemaNode {
	if n == nil {
		return nil
	}
	if n.Items != nil {
		return n.Items
	}
	var of schemaNode
	if len(n.Additional) == 0 || json.Unmarshal(n.Additional, &of) != nil {
		return nil
	}
	return &of
}

// kind is the type that Rego gives a value of the schema; empty where it is not known.
func (n *schemaNode) kind() string {
	if n == nil {
		return ""
	}
	if n.Type == "integer" {
		return "number"
	}
	return n.Type
}

// comparisons checks what is compared with values of `input`: OPA orders values of different types by the type, and a
// misspelled value of a closed list is never met. OPA's own check knows neither.
func (c *checker) comparisons(modules map[string]*ast.Module) {
	root := schemaOfInput()
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if !below(modules[name].Package.Path, ast.MustParseRef(routingPackage)) {
			continue
		}
		for _, r := range modules[name].Rules {
			for ; r != nil; r = r.Else {
				c.rule(r, root)
			}
		}
	}
}

// known are the places in `input` that the variables of a rule stand for.
type known map[ast.Var]*schemaNode

func (c *checker) rule(r *ast.Rule, root *schemaNode) {
	vars := known{}
	bind := func(t *ast.Term, n *schemaNode) {
		if v, ok := t.Value.(ast.Var); ok {
			if before, twice := vars[v]; twice && before != n {
				n = nil
			}
			vars[v] = n
		}
	}
	visit := func(x any) bool {
		switch x := x.(type) {
		case *ast.Expr:
			if terms, ok := x.Terms.([]*ast.Term); ok && x.IsAssignment() {
				bind(terms[1], vars.of(terms[2], root))
			}
		case *ast.SomeDecl:
			if call, ok := x.Symbols[0].Value.(ast.Call); ok { // some v in of, some k, v in of
				bind(call[len(call)-2], vars.of(call[len(call)-1], root).element())
			}
		case *ast.Every:
			bind(x.Value, vars.of(x.Domain, root).element())
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(r.Body)
	ast.NewGenericVisitor(visit).Walk(r.Head)
	check := func(x any) bool {
		switch x := x.(type) {
		case *ast.Rule:
			return x != r // its else is checked on its own
		case *ast.With:
			return true
		case *ast.Expr:
			if terms, ok := x.Terms.([]*ast.Term); ok && len(terms) == 3 {
				c.compared(terms[0].String(), terms[1], terms[2], vars, root, x.Location)
			}
		case ast.Call:
			if len(x) == 3 {
				c.compared(x[0].String(), x[1], x[2], vars, root, x[1].Location)
			}
		}
		return false
	}
	ast.NewGenericVisitor(check).Walk(r)
}

// of is the place in `input` that a term stands for.
func (k known) of(t *ast.Term, root *schemaNode) *schemaNode {
	switch v := t.Value.(type) {
	case ast.Var:
		return k[v]
	case ast.Ref:
		n := root
		if head, ok := v[0].Value.(ast.Var); !ok {
			return nil
		} else if !isInput(v) {
			n = k[head]
		}
		for _, step := range v[1:] {
			word, named := step.Value.(ast.String)
			switch {
			case n == nil:
				return nil
			case named && n.Properties[string(word)] != nil:
				n = n.Properties[string(word)]
			default:
				n = n.element()
			}
		}
		return n
	}
	return nil
}

var orderings = map[string]string{"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "neq": "!="}

func (c *checker) compared(op string, a, b *ast.Term, vars known, root *schemaNode, at *ast.Location) {
	left, right := vars.of(a, root), vars.of(b, root)
	if sign := orderings[op]; sign != "" {
		have, other := kindOf(a, left), kindOf(b, right)
		if have != "" && other != "" && have != other {
			c.refuse(at, "%s is %s, %s is %s: %s compares them by their types, not their values", a, kindNamed(have), b, kindNamed(other), sign)
			return
		}
	}
	switch op {
	case "equal", "eq", "neq":
		c.enumerated(a, left, b, at)
		c.enumerated(b, right, a, at)
	case "internal.member_2":
		switch list := b.Value.(type) {
		case *ast.Array:
			list.Foreach(func(t *ast.Term) { c.enumerated(a, left, t, at) })
		case ast.Set:
			list.Foreach(func(t *ast.Term) { c.enumerated(a, left, t, at) })
		}
	}
}

// enumerated refuses a literal that a value of a closed list never is.
func (c *checker) enumerated(t *ast.Term, n *schemaNode, literal *ast.Term, at *ast.Location) {
	word, ok := literal.Value.(ast.String)
	if !ok || n == nil || len(n.Enum) == 0 || slices.Contains(n.Enum, string(word)) {
		return
	}
	if literal.Location != nil {
		at = literal.Location
	}
	var names []string
	for _, name := range n.Enum {
		names = append(names, fmt.Sprintf("%q", name))
	}
	c.refuse(at, "%s is never %q: it is %s%s", t, string(word), strings.Join(names, ", "), didYouMean(string(word), n.Enum))
}

// kindOf is the type of a term; empty where it is not known.
func kindOf(t *ast.Term, n *schemaNode) string {
	switch t.Value.(type) {
	case ast.String:
		return "string"
	case ast.Number:
		return "number"
	case ast.Boolean:
		return "boolean"
	case *ast.Array:
		return "array"
	case ast.Object:
		return "object"
	case ast.Set:
		return "set"
	case ast.Call:
		if b := ast.BuiltinMap[t.Value.(ast.Call)[0].String()]; b != nil && b.Decl.Result() != nil {
			if names := typeNames(b.Decl.Result()); len(names) == 1 {
				return names[0]
			}
		}
	}
	return n.kind()
}
