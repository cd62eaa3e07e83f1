package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/types"
)

// Problem is one thing that is wrong with a policy. Line and Column count from 1; 0 where the problem has no place.
type Problem struct {
	File         string
	Line, Column int
	Message      string
}

func (p Problem) String() string {
	switch {
	case p.File == "":
		return p.Message
	case p.Line == 0:
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// InvalidError says what is wrong with a policy; at least one problem, in the order of files and lines.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	switch n := len(e.Problems) - 1; n {
	case 0:
		return e.Problems[0].String()
	case 1:
		return e.Problems[0].String() + " (and 1 more problem)"
	default:
		return fmt.Sprintf("%s (and %d more problems)", e.Problems[0], n)
	}
}

func refuse(file string, at *ast.Location, format string, args ...any) *InvalidError {
	p := Problem{File: file, Message: fmt.Sprintf(format, args...)}
	if at != nil {
		p.Line, p.Column = at.Row, at.Col
	}
	return &InvalidError{[]Problem{p}}
}

// invalid tells OPA's errors as problems.
func invalid(err error) *InvalidError {
	var list ast.Errors
	if !errors.As(err, &list) || len(list) == 0 {
		return refuse("", nil, "%s", err)
	}
	var e InvalidError
	for _, err := range list {
		p := Problem{Message: message(err)}
		if at := err.Location; at != nil {
			p.File, p.Line, p.Column = at.File, at.Row, at.Col
		}
		e.Problems = append(e.Problems, p)
	}
	slices.SortStableFunc(e.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &e
}

// message is one line: what OPA says, and what could stand there instead.
func message(err *ast.Error) string {
	text := oneLine(err.Message)
	if name, ok := strings.CutPrefix(text, "undefined function "); ok {
		if slices.ContainsFunc(ast.Builtins, func(b *ast.Builtin) bool { return b.Name == name }) {
			return text + ": policies call functions of their arguments alone, of bounded cost"
		}
		return text + didYouMean(name, functions())
	}
	if text == "var cannot be used for rule name" {
		return text + ": a rule begins with its name, and after that comes :=, contains or if"
	}
	switch detail := err.Details.(type) {
	case *ast.UnificationErrDetail:
		return fmt.Sprintf("%s: %s never equals %s", text, kindsOf(detail.Left), kindsOf(detail.Right))
	case *ast.ArgErrDetail:
		var have, want []string
		for _, t := range detail.Have {
			have = append(have, kindsOf(t))
		}
		for _, t := range detail.Want.Args[:min(len(detail.Want.Args), len(have))] {
			want = append(want, kindsOf(t))
		}
		return fmt.Sprintf("%s: it takes %s, not %s", text, strings.Join(want, ", "), strings.Join(have, ", "))
	}
	detail, ok := err.Details.(*ast.RefErrInvalidDetail)
	if !ok || len(detail.OneOf) == 0 {
		return text
	}
	var names []string
	for _, v := range detail.OneOf {
		names = append(names, strings.Trim(v.String(), `"`))
	}
	slices.Sort(names)
	word := strings.Trim(detail.Ref[detail.Pos].Value.String(), `"`)
	return fmt.Sprintf("%s: there is no %s, there is %s%s", text, word, strings.Join(names, ", "), didYouMean(word, names))
}

// kindsOf tells a type in a few words.
func kindsOf(t types.Type) string {
	names := typeNames(t)
	if len(names) == 0 {
		return "any value"
	}
	slices.Sort(names)
	var kinds []string
	for _, name := range slices.Compact(names) {
		kinds = append(kinds, kindNamed(name))
	}
	return strings.Join(kinds, " or ")
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// functions names all that a policy can call but its own functions.
func functions() []string {
	var names []string
	for _, b := range capabilities.Builtins {
		names = append(names, b.Name)
	}
	for path, m := range library {
		for _, r := range parseShipped(m).Rules {
			if len(r.Head.Args) > 0 {
				names = append(names, path+"."+r.Head.Name.String())
			}
		}
	}
	slices.Sort(names)
	return names
}
