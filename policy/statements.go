package policy

import (
	"errors"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// errConflict is told better by OPA, which is asked then.
var errConflict = errors.New("conflicting values")

// check makes the step of a statement that only tests; nil if it is another.
func (c *compiler) check(s ir.Stmt) step {
	test := func(o ir.Operand, holds func(m *machine, v *value) bool) step {
		source := c.operand(o)
		return func(m *machine, l []value) int {
			if holds(m, source.get(l)) {
				return 0
			}
			return 1
		}
	}
	switch s := s.(type) {
	case *ir.EqualStmt:
		a, b := c.operand(s.A), c.operand(s.B)
		return func(m *machine, l []value) int {
			if m.equal(a.get(l), b.get(l)) {
				return 0
			}
			return 1
		}
	case *ir.NotEqualStmt:
		if what(s.B) == ir.Bool(false) {
			return test(s.A, func(_ *machine, v *value) bool { return v.truth() })
		}
		a, b := c.operand(s.A), c.operand(s.B)
		return func(m *machine, l []value) int {
			if m.equal(a.get(l), b.get(l)) {
				return 1
			}
			return 0
		}
	case *ir.IsDefinedStmt:
		return test(ir.Operand{Value: s.Source}, func(_ *machine, v *value) bool { return v.kind != undefined })
	case *ir.IsUndefinedStmt:
		return test(ir.Operand{Value: s.Source}, func(_ *machine, v *value) bool { return v.kind == undefined })
	case *ir.IsArrayStmt:
		return test(s.Source, func(_ *machine, v *value) bool {
			return v.kind == isArray || v.kind == isPart && part(v.n) == partBudgets
		})
	case *ir.IsObjectStmt:
		return test(s.Source, func(_ *machine, v *value) bool {
			_, object := v.ref.(ast.Object)
			return object || v.kind == isPart && part(v.n) != partBudgets
		})
	case *ir.IsSetStmt:
		return test(s.Source, func(_ *machine, v *value) bool { _, set := v.ref.(ast.Set); return set })
	}
	return nil
}

// assign makes the step of a statement that only writes a local, or what is in it; nil if it is another.
func (c *compiler) assign(s ir.Stmt) step {
	set := func(target ir.Local, v func() value) step {
		t := c.local(target)
		return func(_ *machine, l []value) int { l[t] = v(); return 0 }
	}
	known := func(target ir.Local, v value) step { return set(target, func() value { return v }) }
	switch s := s.(type) {
	case *ir.AssignVarStmt:
		source, target := c.operand(s.Source), c.local(s.Target)
		return func(_ *machine, l []value) int { l[target] = *source.get(l); return 0 }
	case *ir.AssignVarOnceStmt:
		source, target := c.operand(s.Source), c.local(s.Target)
		return func(m *machine, l []value) int {
			v := source.get(l)
			if l[target].kind != undefined && !m.equal(&l[target], v) {
				return m.fail(errConflict)
			}
			l[target] = *v
			return 0
		}
	case *ir.AssignIntStmt:
		return known(s.Target, intValue(s.Value))
	case *ir.ResetLocalStmt:
		return known(s.Target, value{})
	case *ir.MakeNullStmt:
		return known(s.Target, termValue(ast.NullValue))
	case *ir.MakeNumberIntStmt:
		return known(s.Target, intValue(s.Value))
	case *ir.MakeNumberRefStmt:
		return known(s.Target, numberValue(ast.Number(c.ir.Static.Strings[s.Index].Value)))
	case *ir.MakeArrayStmt:
		capacity := int(s.Capacity)
		return set(s.Target, func() value {
			return value{kind: isArray, ref: &array{elems: make([]value, 0, capacity)}}
		})
	case *ir.MakeObjectStmt:
		return set(s.Target, func() value { return termValue(ast.NewObject()) })
	case *ir.MakeSetStmt:
		return set(s.Target, func() value { return termValue(ast.NewSet()) })
	case *ir.ArrayAppendStmt:
		v, target := c.operand(s.Value), c.local(s.Array)
		return func(m *machine, l []value) int {
			a, ok := l[target].ref.(*array)
			if !ok {
				return m.fail(errConflict)
			}
			a.elems = append(a.elems, *v.get(l))
			return m.grew()
		}
	case *ir.SetAddStmt:
		v, target, found := c.operand(s.Value), c.local(s.Set), c.found[s.Set]
		loose := c.literals[s.Set] > 1 && v.local >= 0
		return func(m *machine, l []value) int {
			into, ok := l[target].ref.(ast.Set)
			if !ok {
				return m.fail(errConflict)
			}
			if found { // as below
				into = ast.NewSet(into.Slice()...)
				l[target] = termValue(into)
			}
			into.Add(m.term(v.get(l)))
			l[target].neg = l[target].neg || loose
			return m.grew()
		}
	case *ir.ObjectInsertStmt:
		return c.insert(s.Object, s.Key, s.Value)
	case *ir.ObjectInsertOnceStmt:
		return c.insert(s.Object, s.Key, s.Value)
	case *ir.ObjectMergeStmt:
		a, b, target := c.local(s.A), c.local(s.B), c.local(s.Target)
		return func(m *machine, l []value) int {
			x, isObject := m.ast(&l[a]).(ast.Object)
			y, both := m.ast(&l[b]).(ast.Object)
			if !isObject || !both {
				return m.fail(errConflict)
			}
			merged, ok := x.Merge(y)
			if !ok {
				return m.fail(errConflict)
			}
			l[target] = termValue(merged)
			return 0
		}
	}
	return nil
}

func (m *machine) grew() int {
	if !m.grow(1) {
		return failed
	}
	return 0
}

func (c *compiler) insert(object ir.Local, key, val ir.Operand) step {
	target, k, v, found := c.local(object), c.operand(key), c.operand(val), c.found[object]
	loose := c.literals[object] > 1 && k.local >= 0
	replaces := c.replaced[dotKey{object, what(key), what(val)}]
	return func(m *machine, l []value) int {
		into, ok := l[target].ref.(ast.Object)
		if !ok {
			return m.fail(errConflict)
		}
		if found { // it is in another object, whose hash knows it as it is
			copied := ast.NewObject()
			into.Foreach(copied.Insert)
			into = copied
			l[target] = termValue(into)
		}
		key, val := m.term(k.get(l)), m.term(v.get(l))
		if !replaces {
			if there := into.Get(key); there != nil {
				if !there.Equal(val) { // in a literal the last one wins, and OPA knows which that is
					return m.fail(errConflict)
				}
				return 0
			}
		}
		into.Insert(key, val)
		l[target].neg = l[target].neg || loose
		return m.grew()
	}
}

// insertion takes a statement that adds to an array, set or object apart.
func insertion(s ir.Stmt) (container ir.Local, added []ir.Operand, ok bool) {
	switch s := s.(type) {
	case *ir.ArrayAppendStmt:
		return s.Array, []ir.Operand{s.Value}, true
	case *ir.SetAddStmt:
		return s.Set, []ir.Operand{s.Value}, true
	case *ir.ObjectInsertStmt:
		return s.Object, []ir.Operand{s.Key, s.Value}, true
	case *ir.ObjectInsertOnceStmt:
		return s.Object, []ir.Operand{s.Key, s.Value}, true
	}
	return 0, nil, false
}

// literal makes one step of the n statements at the start that build a literal: it is built now. 0 if there are none.
func (c *compiler) literal(stmts []ir.Stmt) (step, int) {
	switch stmts[0].(type) {
	case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt:
	default:
		return nil, 0
	}
	n := literalRun(stmts)
	made := map[ir.Local]int{}
	for i, s := range stmts[:n] {
		for _, l := range writes(s) {
			made[l] = i
		}
	}
	for l := ir.Local(-1); l != 0; { // up to the first that is changed later
		l = 0
		for i, s := range stmts[:n] {
			if w := writes(s); len(w) == 1 && changed(stmts[n:], w[0]) {
				l, n = w[0], i
				break
			}
		}
	}
	if n == 0 || n == len(stmts) { // what is made last is for the block around this one
		return nil, 0
	}
	m := new(machine)
	l := make([]value, c.locals)
	for _, s := range stmts[:n] {
		assign := c.assign(s)
		l = append(l, make([]value, max(0, c.locals-len(l)))...)
		if assign(m, l) != 0 {
			return nil, 0
		}
	}
	type pair struct {
		local int
		value value
	}
	var pairs []pair
	for local, i := range made {
		if i < n {
			v := m.keep(l[local])
			v.neg = v.neg && v.kind == isFloat // all elements are known: they are in order
			pairs = append(pairs, pair{c.local(local), v})
		}
	}
	return func(_ *machine, l []value) int {
		for i := range pairs {
			l[pairs[i].local] = pairs[i].value
		}
		return 0
	}, n
}

// literalRun counts the statements at the start that make literals.
func literalRun(stmts []ir.Stmt) (n int) {
	made := map[ir.Local]bool{}
	for _, s := range stmts {
		if container, added, ok := insertion(s); ok {
			for _, o := range added {
				if l, local := what(o).(ir.Local); local && !made[l] {
					return n
				}
			}
			if !made[container] {
				return n
			}
		} else {
			switch s.(type) {
			case *ir.MakeArrayStmt, *ir.MakeObjectStmt, *ir.MakeSetStmt, *ir.MakeNullStmt, *ir.MakeNumberIntStmt, *ir.MakeNumberRefStmt:
			default:
				return n
			}
			if l := writes(s)[0]; made[l] {
				return n
			} else {
				made[l] = true
			}
		}
		n++
	}
	return n
}

// changed says whether statements add to the array, set or object of a local, at any depth.
func changed(stmts []ir.Stmt, l ir.Local) bool {
	for _, s := range stmts {
		if container, _, ok := insertion(s); ok && container == l {
			return true
		}
		for _, b := range inside(s) {
			if changed(b.Stmts, l) {
				return true
			}
		}
	}
	return false
}

// builtin calls one of OPA's. The value is undefined where it gives none; false after a failure.
func (m *machine) builtin(call topdown.BuiltinFunc, relation bool, args []operand, l []value) (v value, ok bool) {
	terms := m.args[:len(args)]
	for i := range args {
		terms[i] = m.term(args[i].get(l))
	}
	if m.steps += stepsAClock / 8; m.steps >= stepsAClock && !m.onTime() {
		return value{}, false
	}
	context := topdown.BuiltinContext{Context: m.ctx, Cancel: m}
	all := &array{}
	err := call(context, terms, func(t *ast.Term) error {
		if relation {
			all.elems = append(all.elems, valueOf(t.Value))
		} else {
			v = valueOf(t.Value)
		}
		return nil
	})
	if err != nil {
		v = value{}
		var halt topdown.Halt
		if errors.As(err, &halt) || topdown.IsCancel(err) {
			m.fail(err)
		}
		return v, m.err == nil
	}
	if relation {
		v = value{kind: isArray, ref: all}
	}
	return v, m.grow(max(0, m.length(&v)))
}
