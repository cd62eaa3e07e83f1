package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// hinted says of names that a file does not have which of its package and imports could be meant.
func hinted(e *InvalidError, modules map[string]*ast.Module) *InvalidError {
	for i := range e.Problems {
		p := &e.Problems[i]
		m := modules[p.File]
		if m == nil {
			continue
		}
		if name, ok := strings.CutPrefix(p.Message, "undefined function "); ok {
			p.Message += didYouMean(name, ruleNames(m, modules, func(r *ast.Rule) bool { return len(r.Head.Args) > 0 }))
		} else if name, ok := strings.CutSuffix(strings.TrimPrefix(p.Message, "var "), " is unsafe"); ok {
			all := ruleNames(m, modules, func(*ast.Rule) bool { return true })
			for _, imported := range m.Imports {
				all = append(all, string(imported.Name()))
			}
			p.Message += ": it is no rule or import, and nothing gives it a value" + didYouMean(name, all)
		}
	}
	return e
}

// ruleNames are those of the rules of a module's package that are wanted.
func ruleNames(m *ast.Module, modules map[string]*ast.Module, want func(*ast.Rule) bool) (list []string) {
	for _, other := range modules {
		if !other.Package.Path.Equal(m.Package.Path) {
			continue
		}
		for _, r := range other.Rules {
			if want(r) {
				list = append(list, strings.SplitN(r.Head.Ref().String(), "[", 2)[0])
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// didYouMean is a hint at the word that is nearest to one that is not there; empty if none is near.
func didYouMean(word string, words []string) string {
	best, least := "", max(2, len(word)/3)+1
	for _, w := range words {
		if d := distance(word, w); d < least {
			best, least = w, d
		}
	}
	if best == "" {
		return ""
	}
	return ": did you mean " + best + "?"
}

// distance is how many letters have to be changed, added, dropped or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	const long = 128
	if len(a) > long || len(b) > long {
		return long
	}
	var rows [3][long + 1]int // the one before the last, the last and this one
	for j := range len(b) + 1 {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		rows[2][0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[2][j] = min(rows[1][j]+1, rows[2][j-1]+1, rows[1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[2][j] = min(rows[2][j], rows[0][j-2]+1)
			}
		}
		rows[0], rows[1] = rows[1], rows[2]
	}
	return rows[1][len(b)]
}
