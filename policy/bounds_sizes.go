package policy

import (
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

var errNodes = fmt.Errorf("the value has more than %d parts", maxNodes)

// length is how many entries a collection has; 0 for everything else.
func length(v ast.Value) int {
	switch v := v.(type) {
	case *ast.Array:
		return v.Len()
	case ast.Object:
		return v.Len()
	case ast.Set:
		return v.Len()
	}
	return 0
}

// each calls f with the elements of an array or set.
func each(v ast.Value, f func(*ast.Term)) {
	switch v := v.(type) {
	case *ast.Array:
		v.Foreach(f)
	case ast.Set:
		v.Foreach(f)
	}
}

// measure adds up the parts and the written-out bytes of a value, and says whether there are few enough. A value can
// hold another one in many places: then it counts in each.
type measure struct{ parts, bytes, most int }

func (m *measure) add(v ast.Value) bool {
	m.parts++
	switch v := v.(type) {
	case ast.String:
		m.bytes += len(v) + 2
	case ast.Number:
		m.bytes += len(v) + 1
	case *ast.Array:
		m.bytes += 2 * (v.Len() + 1)
		return m.parts <= m.most && !v.Until(func(t *ast.Term) bool { return !m.add(t.Value) })
	case ast.Set:
		m.bytes += 2 * (v.Len() + 3)
		return m.parts <= m.most && !v.Until(func(t *ast.Term) bool { return !m.add(t.Value) })
	case ast.Object:
		m.bytes += 4 * (v.Len() + 1)
		return m.parts <= m.most && !v.Until(func(k, t *ast.Term) bool { return !m.add(k.Value) || !m.add(t.Value) })
	default:
		m.bytes += 5
	}
	return m.parts <= m.most
}

// nodes counts the parts of values. Error: errNodes.
func nodes(terms []*ast.Term) (int, error) {
	m := measure{most: maxNodes}
	for _, t := range terms {
		if !m.add(t.Value) {
			return 0, errNodes
		}
	}
	return m.parts, nil
}

// written is about how many bytes a value has as JSON or as Rego. Error: errNodes.
func written(v ast.Value) (int, error) {
	m := measure{most: maxNodes}
	if !m.add(v) {
		return 0, errNodes
	}
	return m.bytes + m.bytes/4, nil
}

// nesting is how deep the brackets of a text go, those in texts between quotes left out.
func nesting(s string) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}
