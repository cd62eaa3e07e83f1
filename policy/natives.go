package policy

import (
	"math/bits"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// native is a builtin for the operands that are common; false leaves it to OPA's.
type native func(m *machine, a, b, c *value) (value, bool)

var natives = map[string]native{
	"equal": func(m *machine, a, b, _ *value) (value, bool) { return boolValue(m.equal(a, b)), true },
	"neq":   func(m *machine, a, b, _ *value) (value, bool) { return boolValue(!m.equal(a, b)), true },
	"gt":    func(m *machine, a, b, _ *value) (value, bool) { return boolValue(m.compare(a, b) > 0), true },
	"gte":   func(m *machine, a, b, _ *value) (value, bool) { return boolValue(m.compare(a, b) >= 0), true },
	"lt":    func(m *machine, a, b, _ *value) (value, bool) { return boolValue(m.compare(a, b) < 0), true },
	"lte":   func(m *machine, a, b, _ *value) (value, bool) { return boolValue(m.compare(a, b) <= 0), true },

	"plus":  func(_ *machine, a, b, _ *value) (value, bool) { return add(a, b, false) },
	"minus": func(_ *machine, a, b, _ *value) (value, bool) { return add(a, b, true) },
	"mul":   func(_ *machine, a, b, _ *value) (value, bool) { return multiply(a, b) },
	"div":   func(_ *machine, a, b, _ *value) (value, bool) { return divide(a, b) },
	"rem": func(_ *machine, a, b, _ *value) (value, bool) {
		if a.kind != isInt || b.kind != isInt || b.n == 0 || b.n == -1 {
			return value{}, false
		}
		return intValue(a.n % b.n), true
	},
	"abs": func(_ *machine, a, _, _ *value) (value, bool) {
		if a.kind != isInt || a.n < 0 {
			return value{}, false
		}
		return *a, true
	},
	"floor": whole, "ceil": whole, "round": whole,

	"count": func(m *machine, a, _, _ *value) (value, bool) {
		if a.kind == isString {
			return value{}, false
		}
		n := m.length(a)
		return intValue(int64(n)), n >= 0
	},
	"min": func(m *machine, a, _, _ *value) (value, bool) { return m.extreme(a, -1) },
	"max": func(m *machine, a, _, _ *value) (value, bool) { return m.extreme(a, 1) },
	"internal.member_2": func(m *machine, a, b, _ *value) (value, bool) {
		if b.kind == isArray {
			for i := range m.length(b) {
				if e := b.elem(i); m.equal(a, &e) {
					return boolValue(true), true
				}
			}
			return boolValue(false), true
		}
		if set, ok := b.ref.(ast.Set); ok {
			return boolValue(set.Contains(m.term(a))), true
		}
		return value{}, false
	},

	"array.concat": func(m *machine, a, b, _ *value) (value, bool) {
		if a.kind != isArray || b.kind != isArray {
			return value{}, false
		}
		return m.slice(m.length(a)+m.length(b), func(i int) value {
			if n := m.length(a); i >= n {
				return b.elem(i - n)
			}
			return a.elem(i)
		})
	},
	"array.reverse": func(m *machine, a, _, _ *value) (value, bool) {
		if a.kind != isArray {
			return value{}, false
		}
		n := m.length(a)
		return m.slice(n, func(i int) value { return a.elem(n - 1 - i) })
	},
	"array.slice": func(m *machine, a, from, to *value) (value, bool) {
		if a.kind != isArray || from.kind != isInt || to.kind != isInt {
			return value{}, false
		}
		stop := min(max(to.n, 0), int64(m.length(a)))
		start := min(max(from.n, 0), stop)
		return m.slice(int(stop-start), func(i int) value { return a.elem(int(start) + i) })
	},
	"object.get": func(m *machine, a, key, otherwise *value) (value, bool) {
		object := a.kind == isPart && part(a.n) != partBudgets
		if _, ok := a.ref.(ast.Object); !ok && !object || key.kind == isArray { // a path
			return value{}, false
		}
		if v := m.dot(a, key); v.kind != undefined {
			return v, true
		}
		return *otherwise, true
	},

	"startswith": func(_ *machine, a, b, _ *value) (value, bool) {
		return boolValue(a.kind == isString && b.kind == isString && strings.HasPrefix(a.text(), b.text())), a.kind == isString && b.kind == isString
	},
	"endswith": func(_ *machine, a, b, _ *value) (value, bool) {
		return boolValue(a.kind == isString && b.kind == isString && strings.HasSuffix(a.text(), b.text())), a.kind == isString && b.kind == isString
	},
	"contains": func(_ *machine, a, b, _ *value) (value, bool) {
		return boolValue(a.kind == isString && b.kind == isString && strings.Contains(a.text(), b.text())), a.kind == isString && b.kind == isString
	},
	"is_number": func(_ *machine, a, _, _ *value) (value, bool) {
		return boolValue(true), a.kind == isInt || a.kind == isFloat
	},
	"is_string": func(_ *machine, a, _, _ *value) (value, bool) { return boolValue(true), a.kind == isString },
}

func add(a, b *value, minus bool) (value, bool) {
	if a.kind == isInt && b.kind == isInt {
		n := b.n
		if minus {
			diff := a.n - n
			return intValue(diff), (a.n >= n) == (diff >= 0)
		}
		sum := a.n + n
		return intValue(sum), (sum > a.n) == (n > 0)
	}
	x, ok := a.float()
	y, both := b.float()
	if !ok || !both {
		return value{}, false
	}
	if minus {
		y.neg = !y.neg
	}
	sum, ok := x.add(y)
	if !ok {
		return intValue(0), true
	}
	return floatValue(sum)
}

func multiply(a, b *value) (value, bool) {
	if a.kind == isInt && b.kind == isInt {
		hi, lo := bits.Mul64(uint64(a.n), uint64(b.n))
		if a.n < 0 || b.n < 0 {
			const most = 1 << 31
			return intValue(a.n * b.n), a.n > -most && b.n > -most && a.n < most && b.n < most
		}
		return intValue(int64(lo)), hi == 0 && lo < 1<<63
	}
	x, ok := a.float()
	y, both := b.float()
	if !ok || !both {
		return value{}, false
	}
	return floatValue(x.mul(y))
}

func divide(a, b *value) (value, bool) {
	x, ok := a.float()
	y, both := b.float()
	if !ok || !both { // a zero is OPA's: it may be negative, or an error
		return value{}, false
	}
	return floatValue(x.quo(y))
}

func whole(_ *machine, a, _, _ *value) (value, bool) { return *a, a.kind == isInt }

func (m *machine) extreme(a *value, order int) (value, bool) {
	if a.kind != isArray || m.length(a) == 0 {
		return value{}, false
	}
	best := a.elem(0)
	for i := 1; i < m.length(a); i++ {
		if e := a.elem(i); m.compare(&e, &best)*order >= 0 { // the last of equals, as with OPA
			best = e
		}
	}
	return best, true
}

func (m *machine) slice(n int, elem func(int) value) (value, bool) {
	if !m.grow(n) {
		return value{}, false
	}
	a := &array{elems: make([]value, n)}
	for i := range a.elems {
		a.elems[i] = elem(i)
	}
	return value{kind: isArray, ref: a}, true
}
