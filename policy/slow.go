package policy

import (
	"cmp"
	"slices"
	"strings"
)

// SlowExpression is a place in a policy that makes decisions slow. Line and Column count from 1; 0 where there is no
// place.
type SlowExpression struct {
	File         string
	Line, Column int
	Expression   string
	Why          string
}

// Slow says which expressions make decisions of this policy slow, in the order of files and lines: what keeps the policy
// from being compiled to closures, and what makes the gate build all of the input for a call. Empty: it is fast.
func (p *Policy) Slow() []SlowExpression { return slices.Clone(p.slow) }

// slowExpressions tells of a policy that could not be compiled, for the reason err, or that reads more than it needs.
func slowExpressions(p *Policy, seen *analysis, err error) (slow []SlowExpression) {
	put := func(r *read, why string) {
		s := SlowExpression{Expression: r.text, Why: why}
		if r.at != nil {
			s.File, s.Line, s.Column = r.at.File, r.at.Row, r.at.Col
		}
		slow = append(slow, s)
	}
	for i := range seen.reads {
		r := &seen.reads[i]
		a := analysis{reads: []read{*r}}
		volatile := slices.ContainsFunc(a.fields(), func(f field) bool { return f.volatile() })
		switch {
		case err != nil && volatile:
			put(r, "it differs from call to call, and OPA's interpreter evaluates this policy: "+oneLine(err.Error()))
		case err == nil && volatile && wide(r.path):
			put(r, "it reads all of "+strings.Join(append([]string{"input"}, r.path...), ".")+", which is built for each call: read the fields that are needed")
		}
	}
	if err != nil && len(slow) == 0 && slices.ContainsFunc(p.fields, func(f field) bool { return f.volatile() }) {
		slow = append(slow, SlowExpression{Why: "OPA's interpreter evaluates this policy: " + oneLine(err.Error())})
	}
	slices.SortStableFunc(slow, func(a, b SlowExpression) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.Compact(slow)
}

// wide says whether a path is that of a part of the input that has to be built.
func wide(path []string) bool {
	return len(path) == 0 || len(path) == 1 && path[0] != "budgets"
}
