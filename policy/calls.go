package policy

import (
	"fmt"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

func (c *compiler) with(s *ir.WithStmt) (step, error) {
	c.f.with = true
	local, val := c.local(s.Local), c.operand(s.Value)
	var path []*ast.Term
	for _, i := range s.Path {
		path = append(path, ast.StringTerm(c.ir.Static.Strings[i].Value))
	}
	inner, err := c.block(s.Block)
	return func(m *machine, l []value) int {
		saved, generation, with := l[local], m.generation, m.with
		replacement := *val.get(l)
		if len(path) > 0 {
			var target ast.Value
			if saved.kind != undefined {
				target = m.ast(&saved)
			}
			replacement = termValue(upsert(target, path, m.term(&replacement)))
		}
		l[local] = replacement
		m.last++
		m.generation, m.with = m.last, true
		r := inner.run(m, l)
		l[local], m.generation, m.with = saved, generation, with
		if r > 1 {
			return outer(r)
		}
		return r
	}, err
}

// upsert copies an object, and what is not one is replaced by one, with a value at a path.
func upsert(target ast.Value, path []*ast.Term, v *ast.Term) ast.Value {
	if len(path) == 0 {
		return v.Value
	}
	changed := ast.NewObject()
	var below ast.Value
	if object, ok := target.(ast.Object); ok {
		object.Foreach(func(k, v *ast.Term) {
			if k.Equal(path[0]) {
				below = v.Value
			} else {
				changed.Insert(k, v)
			}
		})
	}
	changed.Insert(path[0], ast.NewTerm(upsert(below, path[1:], v)))
	return changed
}

func (c *compiler) call(s *ir.CallStmt) (step, error) {
	args, result := c.operands(s.Args), c.local(s.Result)
	if f := c.functions[s.Func]; f != nil {
		c.f.calls = append(c.f.calls, f.index)
		return func(m *machine, l []value) int { return m.assign(&l[result], m.call(f, args, l)) }, nil
	}
	var decl *ast.Builtin
	for _, b := range capabilities.Builtins {
		if b.Name == s.Func {
			decl = b
		}
	}
	builtin := topdown.GetBuiltin(s.Func)
	if decl == nil || builtin == nil || len(args) > len(machine{}.args) {
		return nil, fmt.Errorf("the function %s is not known", s.Func)
	}
	slow := func(m *machine, l []value) int {
		v, ok := m.builtin(builtin, decl.Relation, args, l)
		if !ok {
			return failed
		}
		return m.assign(&l[result], v)
	}
	if fast := natives[s.Func]; fast != nil && len(args) <= 3 {
		for len(args) < 3 {
			args = append(args, operand{local: -1})
		}
		n := len(s.Args)
		a, b, d := args[0], args[1], args[2]
		args = args[:n]
		return func(m *machine, l []value) int {
			if v, ok := fast(m, a.get(l), b.get(l), d.get(l)); ok {
				l[result] = v
				return 0
			}
			return slow(m, l)
		}, nil
	}
	return slow, nil
}

// assign is undefined where the value is.
func (m *machine) assign(target *value, v value) int {
	if *target = v; v.kind != undefined {
		return 0
	}
	if m.err != nil {
		return failed
	}
	return 1
}

// dynamic calls the rule whose path is put together at evaluation.
func (c *compiler) dynamic(s *ir.CallDynamicStmt) step {
	path, result, byPath := c.operands(s.Path), c.local(s.Result), c.byPath
	for _, f := range c.program.functions { // it may be any
		c.f.calls = append(c.f.calls, f.index)
	}
	args := make([]operand, len(s.Args))
	for i, l := range s.Args {
		args[i] = operand{local: c.local(l)}
	}
	return func(m *machine, l []value) int {
		var names strings.Builder
		for i := range path {
			name := path[i].get(l)
			if name.kind != isString {
				return 1
			}
			if i > 0 {
				names.WriteByte(0)
			}
			names.WriteString(name.text())
		}
		f := byPath[names.String()]
		if f == nil || !f.rule {
			return 1
		}
		if r := m.assign(&l[result], m.call(f, args, l)); r != 1 {
			return r
		}
		return 4 // undefined: the reference is, too
	}
}

func (c *compiler) dot(s *ir.DotStmt) step {
	source, target := c.operand(s.Source), c.local(s.Target)
	if index, ok := what(s.Key).(ir.StringIndex); ok {
		name := namesOf(c.ir.Static.Strings[index].Value)
		key := ast.StringTerm(name.text)
		return func(m *machine, l []value) int {
			var v value
			switch src := source.get(l); src.kind {
			case isPart:
				v = m.read(part(src.n), &name)
			case isBag:
				v = src.ref.(*bag).get(name.text)
			case isTerm:
				v = member(src.ref, key)
			}
			return m.assign(&l[target], v)
		}
	}
	key := c.operand(s.Key)
	return func(m *machine, l []value) int { return m.assign(&l[target], m.dot(source.get(l), key.get(l))) }
}

func member(composite any, key *ast.Term) value {
	switch x := composite.(type) {
	case ast.Object:
		return valueOfTerm(x.Get(key))
	case ast.Set:
		if x.Contains(key) {
			return valueOf(key.Value)
		}
	}
	return value{}
}

// dot gives what is at a key; undefined if there is nothing.
func (m *machine) dot(source, key *value) value {
	switch source.kind {
	case isArray:
		if i := key.index(m.length(source)); i >= 0 {
			return source.elem(i)
		}
		return value{}
	case isPart:
		if part(source.n) == partBudgets {
			if i := key.index(len(m.in.Budgets)); i >= 0 {
				return partValue(partBudget + part(i))
			}
			return value{}
		}
		if key.kind == isString {
			name := namesOf(key.text())
			return m.read(part(source.n), &name)
		}
		return value{}
	case isBag:
		if key.kind == isString {
			return source.ref.(*bag).get(key.text())
		}
	case isTerm:
		at := m.term(key)
		if !m.small(at.Value) {
			return value{}
		}
		return member(source.ref, at)
	}
	return value{}
}
