package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// paths refuses references to data that no rule makes.
func (c *checker) paths(modules map[string]*ast.Module, tree *ast.TreeNode) {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if !below(modules[name].Package.Path, ast.MustParseRef(routingPackage)) {
			continue
		}
		c.refs(modules[name], tree)
	}
}

func (c *checker) refs(m *ast.Module, tree *ast.TreeNode) {
	ast.WalkRefs(m, func(r ast.Ref) bool {
		if r[0].Equal(ast.DefaultRootDocument) {
			c.path(r, tree.Child(ast.DefaultRootDocument.Value))
		}
		return false
	})
}

func (c *checker) path(r ast.Ref, node *ast.TreeNode) {
	for i, t := range r[1:] {
		if _, ok := t.Value.(ast.String); !ok || len(node.Values) > 0 {
			return
		}
		child := node.Child(t.Value)
		if child == nil {
			var names []string
			for name := range node.Children {
				names = append(names, strings.Trim(name.String(), `"`))
			}
			slices.Sort(names)
			word := strings.Trim(t.Value.String(), `"`)
			c.refuse(r[0].Location, "undefined ref: %s: %s has no %s, it has %s%s", r, r[:i+1], word, strings.Join(names, ", "), didYouMean(word, names))
			return
		}
		node = child
	}
}
