package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"

	"github.com/chartergate/chartergate/core/routing"
)

// checker finds what is wrong with a decision before it is made. Rules are as they are written, with references resolved.
// It follows rules, local variables and unions of objects, and leaves to the evaluation what it cannot follow.
type checker struct {
	rules    map[string][]*ast.Rule // by their whole path
	types    *ast.TypeEnv
	problems []Problem
	told     map[string]bool
	open     map[string]bool // rules that are being followed
}

func newChecker(modules map[string]*ast.Module, env *ast.TypeEnv) *checker {
	c := &checker{rules: map[string][]*ast.Rule{}, types: env, told: map[string]bool{}, open: map[string]bool{}}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		m := modules[name]
		for _, r := range m.Rules {
			path := m.Package.Path.Extend(r.Head.Ref()).String()
			c.rules[path] = append(c.rules[path], r)
		}
	}
	return c
}

func (c *checker) refuse(at *ast.Location, format string, args ...any) {
	p := Problem{Message: fmt.Sprintf(format, args...)}
	if at != nil {
		p.File, p.Line, p.Column = at.File, at.Row, at.Col
	}
	if key := p.String(); !c.told[key] {
		c.told[key] = true
		c.problems = append(c.problems, p)
	}
}

// decision checks the fields of the decision by name, type and, where they are literal, value.
func (c *checker) decision() {
	for _, path := range slices.Sorted(maps.Keys(c.rules)) {
		field, below := strings.CutPrefix(path, entryPoint+".")
		for _, r := range c.rules[path] {
			switch {
			case path == entryPoint:
				c.whole(r)
			case below && !strings.ContainsAny(field, ".["):
				c.fieldOfRule(field, r)
			}
		}
	}
}

// whole checks a rule that gives all of the decision.
func (c *checker) whole(r *ast.Rule) {
	if r.Head.Value == nil || r.Head.RuleKind() == ast.MultiValue {
		c.refuse(r.Loc(), "decision is a set, it must be an object")
		return
	}
	for ; r != nil; r = r.Else {
		if fields, all := c.object(r.Head.Value, r); all && !fields["effect"] {
			c.refuse(place(r.Head.Value, r), `decision has no effect: it is "allow", "downgrade", "throttle" or "deny"`)
		}
	}
}

// object checks a term that has to be a part of the decision, and says which fields it has; all, if no other can come.
func (c *checker) object(t *ast.Term, r *ast.Rule) (fields map[string]bool, all bool) {
	fields = map[string]bool{}
	follow := func(t *ast.Term, r *ast.Rule) {
		more, known := c.object(t, r)
		maps.Copy(fields, more)
		all = all && known
	}
	switch v := t.Value.(type) {
	case ast.Object:
		all = true
		v.Foreach(func(k, value *ast.Term) {
			name, ok := k.Value.(ast.String)
			switch {
			case ok:
				fields[string(name)] = true
				c.field(string(name), value, r, k.Location)
			case ast.IsConstant(k.Value):
				c.refuse(k.Location, "decision has the field %v, the names of fields are strings", k)
			default:
				all = false
			}
		})
	case ast.Ref, ast.Var:
		all = c.followed(t, r, func(t *ast.Term, r *ast.Rule) { follow(t, r) }, &all)
	case ast.Call:
		parts, ok := unionParts(v)
		if all = ok; ok {
			for _, part := range parts {
				follow(part, r)
			}
		}
	default:
		if ast.IsConstant(v) {
			c.refuse(place(t, r), "decision is %s, it must be an object", kind(v))
		}
	}
	return fields, all
}

// followed hands on what a variable or rule stands for, each of several. It says whether that is all that is known of it;
// known is what the handing on has left.
func (c *checker) followed(t *ast.Term, r *ast.Rule, hand func(*ast.Term, *ast.Rule), known *bool) bool {
	switch v := t.Value.(type) {
	case ast.Var:
		if value := assigned(v, r.Body); value != nil {
			*known = true
			hand(value, r)
			return *known
		}
	case ast.Ref:
		path := v.String()
		rules := c.rules[path]
		if len(rules) == 0 || c.open[path] {
			return false
		}
		c.open[path] = true
		defer delete(c.open, path)
		*known = true
		for _, other := range rules {
			for ; other != nil; other = other.Else {
				if other.Head.Value == nil || other.Head.RuleKind() == ast.MultiValue || len(other.Head.Args) > 0 {
					return false
				}
				hand(other.Head.Value, other)
			}
		}
		return *known
	}
	return false
}

// assigned is what a body assigns to a variable; nil if it does not.
func assigned(v ast.Var, body ast.Body) *ast.Term {
	for _, e := range body {
		if terms, ok := e.Terms.([]*ast.Term); ok && e.IsAssignment() && !e.Negated && len(e.With) == 0 && terms[1].Value.Compare(v) == 0 {
			return terms[2]
		}
	}
	return nil
}

// unionParts are the objects of which object.union and object.union_n make one.
func unionParts(call ast.Call) ([]*ast.Term, bool) {
	switch call[0].Value.String() {
	case "object.union":
		return call[1:3], true
	case "object.union_n":
		if array, ok := call[1].Value.(*ast.Array); ok {
			var parts []*ast.Term
			array.Foreach(func(t *ast.Term) { parts = append(parts, t) })
			return parts, true
		}
	}
	return nil, false
}

// decisionFields says what each field has to be.
var decisionFields = map[string][]string{
	"effect": {"string"}, "prompt_cache": {"string"}, "tiers": {"array"}, "models": {"array"}, "reasons": {"array", "set"},
	"max_input_tokens": {"number"}, "max_output_tokens": {"number"}, "trim_context_to_tokens": {"number"},
}

func (c *checker) fieldOfRule(name string, r *ast.Rule) {
	if r.Head.RuleKind() == ast.MultiValue {
		if !slices.Contains(decisionFields[name], "set") {
			c.misfit(name, "a set", r.Loc())
		}
		return
	}
	for ; r != nil; r = r.Else {
		c.field(name, r.Head.Value, r, r.Loc())
	}
}

func (c *checker) misfit(name, have string, at *ast.Location) {
	if want, ok := decisionFields[name]; ok {
		c.refuse(at, "decision.%s is %s, it must be %s", name, have, kindNamed(want[0]))
		return
	}
	names := slices.Sorted(maps.Keys(decisionFields))
	c.refuse(at, "decision has the field %q, which nobody reads, it can have %s%s", name, strings.Join(names, ", "), didYouMean(name, names))
}

// field checks the value of a field of the decision.
func (c *checker) field(name string, t *ast.Term, r *ast.Rule, at *ast.Location) {
	want, ok := decisionFields[name]
	if !ok {
		c.misfit(name, "", at)
		return
	}
	if ast.IsConstant(t.Value) {
		if err := setField(new(routing.Plan), ast.String(name), t); err != nil {
			c.refuse(place(t, r), "%s", err)
		}
		return
	}
	switch v := t.Value.(type) {
	case ast.Ref, ast.Var:
		known := false
		c.followed(t, r, func(t *ast.Term, r *ast.Rule) { c.field(name, t, r, place(t, r)) }, &known)
		if ref, ok := v.(ast.Ref); ok {
			if have := c.types.GetByRef(ref); !fits(have, want) {
				c.misfit(name, kindNamed(typeNames(have)[0]), place(t, r))
			}
		}
	case ast.Call:
		for _, b := range capabilities.Builtins {
			if b.Name == v[0].Value.String() && !fits(b.Decl.Result(), want) {
				c.misfit(name, kindNamed(typeNames(b.Decl.Result())[0]), place(t, r))
			}
		}
	case *ast.Array:
		if c.composite(name, "array", want, t, r) {
			v.Foreach(func(e *ast.Term) {
				if _, ok := e.Value.(ast.String); !ok && ast.IsConstant(e.Value) {
					c.refuse(place(e, r), "decision.%s has %s in it, which must be a string", name, kind(e.Value))
				}
			})
		}
	case *ast.ArrayComprehension:
		c.composite(name, "array", want, t, r)
	case *ast.SetComprehension, ast.Set:
		c.composite(name, "set", want, t, r)
	case *ast.ObjectComprehension, ast.Object:
		c.composite(name, "object", want, t, r)
	}
}

func (c *checker) composite(name, have string, want []string, t *ast.Term, r *ast.Rule) bool {
	ok := slices.Contains(want, have)
	if !ok {
		c.misfit(name, kindNamed(have), place(t, r))
	}
	return ok
}

func place(t *ast.Term, r *ast.Rule) *ast.Location {
	if t != nil && t.Location != nil && t.Location.Row > 0 {
		return t.Location
	}
	return r.Loc()
}

func kindNamed(name string) string {
	if strings.ContainsRune("aeiou", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}

// fits says whether a value of a type can be one of the wanted kinds. Nothing is known of nil.
func fits(have types.Type, want []string) bool {
	names := typeNames(have)
	return len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return slices.Contains(want, name) })
}

// typeNames are the kinds that values of a type can have; none if any.
func typeNames(t types.Type) []string {
	switch t := t.(type) {
	case *types.NamedType:
		return typeNames(t.Type)
	case types.Any:
		var names []string
		for _, of := range t {
			more := typeNames(of)
			if len(more) == 0 {
				return nil
			}
			names = append(names, more...)
		}
		return names
	case types.Null:
		return []string{"null"}
	case types.Boolean:
		return []string{"boolean"}
	case types.Number:
		return []string{"number"}
	case types.String:
		return []string{"string"}
	case *types.Array:
		return []string{"array"}
	case *types.Object:
		return []string{"object"}
	case *types.Set:
		return []string{"set"}
	}
	return nil
}

// defined refuses a rule that can be undefined: it has no default, and no rule or else without a condition. A value that
// is made of other rules needs these to be defined.
func (c *checker) defined(path string) bool {
	rules := c.rules[path]
	if len(rules) == 0 || c.open[path] {
		return true
	}
	c.open[path] = true
	defer delete(c.open, path)
	for _, r := range rules {
		if r.Default || r.Head.RuleKind() == ast.MultiValue || len(r.Head.Args) > 0 {
			return true
		}
	}
	for _, r := range rules {
		for ; r != nil; r = r.Else {
			if !unconditional(r.Body) {
				continue
			}
			ok := c.definedTerms(r.Head.Value)
			for _, e := range r.Body {
				ok = ok && c.definedTerms(e)
			}
			return ok
		}
	}
	if path != entryPoint {
		c.refuse(rules[0].Loc(), "%s can be undefined, and decision with it: give it a default, or a rule or else without a condition",
			strings.TrimPrefix(path, routingPackage+"."))
		return false
	}
	c.refuse(rules[0].Loc(), "decision can be undefined: give it a default, or a rule or else without a condition")
	return false
}

// definedTerms wants the rules that a value is made of to be defined. A comprehension always is.
func (c *checker) definedTerms(x any) bool {
	ok := true
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
			return true
		case ast.Ref:
			path := x.String()
			ok = c.defined(path) && ok
		}
		return false
	}).Walk(x)
	return ok
}

// unconditional says that a body only assigns.
func unconditional(body ast.Body) bool {
	return !slices.ContainsFunc(body, func(e *ast.Expr) bool {
		t, isTerm := e.Terms.(*ast.Term)
		isTrue := isTerm && t.Value.Compare(ast.Boolean(true)) == 0
		return e.Negated || len(e.With) > 0 || !isTrue && !e.IsAssignment()
	})
}
