package policy

import (
	"math/big"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
)

type valueKind uint8

const (
	undefined valueKind = iota
	isBool
	isInt    // n
	isFloat  // neg, exp, n; ref is how a literal writes it
	isString // ref is *string or ast.String
	isArray  // ref is *array or *ast.Array
	isPart   // n is a part of the input that is not built
	isTerm   // ref is any other ast.Value; neg where it is a literal whose order only OPA knows
)

// value is one of Rego's, such that numbers, texts of the call and parts of the input are no garbage.
type value struct {
	kind valueKind
	neg  bool
	exp  int32
	n    int64
	ref  any
}

// array is an array in the making. Its term is set once it is shared between calls.
type array struct {
	elems []value
	term  *ast.Array
}

func boolValue(b bool) value {
	if b {
		return value{kind: isBool, n: 1}
	}
	return value{kind: isBool}
}

func intValue(n int64) value       { return value{kind: isInt, n: n} }
func textValue(text *string) value { return value{kind: isString, ref: text} }
func termValue(v ast.Value) value  { return value{kind: isTerm, ref: v} }
func partValue(p part) value       { return value{kind: isPart, n: int64(p)} }

func (v *value) truth() bool { return v.kind != isBool || v.n != 0 }

func (v *value) text() string {
	if text, ok := v.ref.(*string); ok {
		return *text
	}
	return string(v.ref.(ast.String))
}

// float is false for what is not a number that is calculated with here.
func (v *value) float() (float, bool) {
	switch v.kind {
	case isFloat:
		return float{v.neg, v.exp, uint64(v.n)}, true
	case isInt:
		return floatOf(v.n), v.n != 0
	}
	return float{}, false
}

// floatValue is a result; false where it is whole and too large, or out of bounds.
func floatValue(f float) (value, bool) {
	if n, whole, fits := f.whole(); whole {
		return intValue(n), fits
	}
	return value{kind: isFloat, neg: f.neg, exp: f.exp, n: int64(f.mant)}, f.exp < maxExp-64 && f.exp > -maxExp
}

// permilleValue is n/1000.
func permilleValue(n int32) value {
	if n == 0 {
		return intValue(0)
	}
	v, _ := floatValue(floatOf(int64(n)).quo(floatOf(1000)))
	return v
}

// number is how OPA writes an isInt or isFloat.
func (v *value) number() ast.Number {
	if v.kind == isInt {
		return ast.Number(strconv.FormatInt(v.n, 10))
	}
	if text, ok := v.ref.(ast.Number); ok {
		return text
	}
	f, _ := v.float()
	return ast.Number(f.big().Text('g', -1))
}

// numberValue reads a number. One that cannot be calculated with here, such as a big one, stays a term.
func numberValue(text ast.Number) value {
	if n, ok := text.Int64(); ok && (n != 0 || text == "0") {
		if v := intValue(n); v.number() == text {
			return v
		}
	}
	parsed, ok := new(big.Float).SetString(string(text))
	if !ok {
		return termValue(text)
	}
	f, ok := floatOfBig(parsed)
	if !ok || ast.NumberCompare(ast.Number(parsed.Text('g', -1)), text) != 0 {
		return termValue(text)
	}
	if _, whole, fits := f.whole(); whole && !fits {
		return termValue(text)
	}
	v := value{kind: isFloat, neg: f.neg, exp: f.exp, n: int64(f.mant)}
	if v.number() != text {
		v.ref = text
	}
	return v
}

func valueOf(v ast.Value) value {
	switch x := v.(type) {
	case ast.Boolean:
		return boolValue(bool(x))
	case ast.Number:
		return numberValue(x)
	case ast.String:
		return value{kind: isString, ref: v}
	case *ast.Array:
		return value{kind: isArray, ref: x}
	}
	return termValue(v)
}

func valueOfTerm(t *ast.Term) value {
	if t == nil {
		return value{}
	}
	return valueOf(t.Value)
}

// ast builds a value for OPA.
func (m *machine) ast(v *value) ast.Value {
	switch v.kind {
	case isBool:
		return ast.Boolean(v.n != 0)
	case isInt, isFloat:
		return v.number()
	case isString:
		if text, ok := v.ref.(ast.String); ok {
			return text
		}
		return ast.String(v.text())
	case isArray:
		a, ok := v.ref.(*array)
		if !ok {
			return v.ref.(*ast.Array)
		}
		if a.term != nil {
			return a.term
		}
		terms := make([]*ast.Term, len(a.elems))
		for i := range a.elems {
			terms[i] = m.term(&a.elems[i])
		}
		return ast.NewArray(terms...)
	case isPart:
		return m.build(part(v.n))
	case isTerm:
		return v.ref.(ast.Value)
	}
	panic("policy: an undefined value is built")
}

func (m *machine) term(v *value) *ast.Term {
	switch v.kind {
	case isBool:
		return ast.InternedTerm(v.n != 0)
	case isInt:
		return ast.InternedTerm(int(v.n))
	}
	return ast.NewTerm(m.ast(v))
}

// keep makes a value independent of the call, and safe to share.
func (m *machine) keep(v value) value {
	switch v.kind {
	case isString:
		if text, ok := v.ref.(*string); ok {
			copied := *text
			return textValue(&copied)
		}
	case isPart:
		return valueOf(m.build(part(v.n)))
	case isArray:
		a, ok := v.ref.(*array)
		if !ok || a.term != nil {
			return v
		}
		kept := &array{elems: make([]value, len(a.elems))}
		terms := make([]*ast.Term, len(a.elems))
		for i := range a.elems {
			kept.elems[i] = m.keep(a.elems[i])
			terms[i] = m.term(&kept.elems[i])
		}
		kept.term = ast.NewArray(terms...)
		return value{kind: isArray, ref: kept}
	}
	return v
}

// length is -1 for what has none.
func (m *machine) length(v *value) int {
	switch v.kind {
	case isArray:
		if a, ok := v.ref.(*array); ok {
			return len(a.elems)
		}
		return v.ref.(*ast.Array).Len()
	case isPart:
		if part(v.n) == partBudgets {
			return len(m.in.Budgets)
		}
	}
	if counted, ok := m.composite(v).(interface{ Len() int }); ok {
		return counted.Len()
	}
	return -1
}

// composite is the object or set that a value is, nil if it is neither.
func (m *machine) composite(v *value) ast.Value {
	switch v.kind {
	case isPart:
		return m.build(part(v.n))
	case isTerm:
		switch x := v.ref.(type) {
		case ast.Object:
			return x
		case ast.Set:
			return x
		}
	}
	return nil
}

// elem is an array's.
func (v *value) elem(i int) value {
	if a, ok := v.ref.(*array); ok {
		return a.elems[i]
	}
	return valueOfTerm(v.ref.(*ast.Array).Elem(i))
}

func (m *machine) equal(a, b *value) bool {
	if a.kind == b.kind {
		switch a.kind {
		case isInt, isBool:
			return a.n == b.n
		case isString:
			return a.text() == b.text()
		}
	} else if a.kind <= isString && b.kind <= isString && (a.kind|b.kind) > isFloat {
		return false
	}
	return m.compare(a, b) == 0
}

// compare orders two values as OPA does.
func (m *machine) compare(a, b *value) int {
	switch {
	case a.kind == isInt && b.kind == isInt:
		switch {
		case a.n < b.n:
			return -1
		case a.n > b.n:
			return 1
		}
		return 0
	case a.kind == isInt && a.n == 0 && b.kind == isFloat:
		return sign(b.neg)
	case b.kind == isInt && b.n == 0 && a.kind == isFloat:
		return sign(!a.neg)
	}
	if x, ok := a.float(); ok {
		if y, ok := b.float(); ok {
			if c, ok := x.compare(y); ok {
				return c
			}
		}
	}
	return ast.Compare(m.ast(a), m.ast(b))
}
