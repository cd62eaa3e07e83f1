package policy

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Limits of modules, beside MaxModules and MaxModuleBytes.
const (
	// MaxPolicyBytes is for all files together: a revision is one record of the control store.
	MaxPolicyBytes = 1 << 20
	maxNesting     = 100 // of brackets
	// maxDepth bounds the stack of an evaluation: the expressions of a rule and of all rules that it leads to, one after
	// another, along the longest way.
	maxDepth = 10_000
)

// checkSizes refuses files before they are parsed.
func checkSizes(modules map[string]string) error {
	if len(modules) > MaxModules {
		return refuse("", nil, "a policy has at most %d files, this one has %d", MaxModules, len(modules))
	}
	total := 0
	for name, text := range modules {
		if len(text) > MaxModuleBytes {
			return refuse(name, nil, "the file has %d bytes, at most %d are allowed", len(text), MaxModuleBytes)
		}
		total += len(text)
	}
	if total > MaxPolicyBytes {
		return refuse("", nil, "the files have %d bytes together, at most %d are allowed", total, MaxPolicyBytes)
	}
	return nil
}

// CheckFiles refuses what is too much or no text. It parses nothing. Error: *InvalidError.
func CheckFiles(modules map[string]string) error {
	if err := checkSizes(modules); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		if err := checkText(name, modules[name]); err != nil {
			return err
		}
	}
	return nil
}

// checkText refuses a file that is not text, or that is nested so deep that parsing it takes much stack.
func checkText(name, text string) error {
	if !utf8.ValidString(text) {
		for i, line := range strings.Split(text, "\n") {
			if !utf8.ValidString(line) {
				column := 1
				for rest := line; ; column++ {
					r, size := utf8.DecodeRuneInString(rest)
					if r == utf8.RuneError && size <= 1 {
						break
					}
					rest = rest[size:]
				}
				return refuse(name, &ast.Location{Row: i + 1, Col: column}, "the file is not UTF-8: save it in this encoding")
			}
		}
	}
	if at := tooDeep(text); at != nil {
		return refuse(name, at, "brackets are nested more than %d deep", maxNesting)
	}
	return nil
}

// tooDeep gives the place where brackets are nested too deep; nil if nowhere. Texts and comments are left out.
func tooDeep(text string) *ast.Location {
	depth, row, start := 0, 1, 0
	var quote byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\n':
			row, start = row+1, i+1
			if quote == '"' || quote == '#' {
				quote = 0 // an open text ends with its line, as a comment does
			}
		case quote == '"' && c == '\\':
			i++
		case quote != 0:
			if c == quote && quote != '#' {
				quote = 0
			}
		case c == '"' || c == '`' || c == '#':
			quote = c
		case c == '(' || c == '[' || c == '{':
			if depth++; depth > maxNesting {
				return &ast.Location{Row: row, Col: i - start + 1}
			}
		case c == ')' || c == ']' || c == '}':
			depth--
		}
	}
	return nil
}

// checkRules refuses numbers that are too large to calculate with, and rules that lead to one another for too long.
func checkRules(c *ast.Compiler) error {
	var problem error
	for _, m := range c.Modules {
		ast.WalkTerms(m, func(t *ast.Term) bool {
			if n, ok := t.Value.(ast.Number); ok && problem == nil && checkNumerals(string(n)) != nil {
				problem = refuse(m.Package.Location.File, t.Location, "%s", errNumber)
			}
			return problem != nil
		})
		if problem != nil {
			return problem
		}
	}
	// Dependencies come first. A policy whose rules are recursive does not get here.
	sorted, _ := c.Graph.Sort()
	depths := make(map[any]int, len(sorted))
	for _, x := range sorted {
		r := x.(*ast.Rule)
		deepest := 0
		for d := range c.Graph.Dependencies(x) {
			deepest = max(deepest, depths[d])
		}
		depths[x] = deepest + expressions(r)
		if depths[x] > maxDepth {
			return refuse(r.Loc().File, r.Loc(), "%s and the rules that it leads to have more than %d expressions one after another", r.Head.Ref(), maxDepth)
		}
	}
	return nil
}

func expressions(r *ast.Rule) int {
	n := 1
	ast.WalkExprs(r, func(*ast.Expr) bool { n++; return false })
	return n
}
