package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// compiler makes closures of statements.
type compiler struct {
	ir        *ir.Policy
	program   *program
	functions map[string]*function // that are compiled; each comes after those that it calls
	byPath    map[string]*function
	f         *function // in the making
	locals    int
	// Dots that look for what an object has before it is replaced.
	replaced map[dotKey]bool
	literals map[ir.Local]int  // how many elements the block that is being made puts into what it makes
	found    map[ir.Local]bool // locals that may hold what was found in another array, set or object
}

// compilePlan makes a program of a plan.
func compilePlan(plan *ir.Policy) (*program, error) {
	c := &compiler{ir: plan, program: new(program), functions: map[string]*function{}, byPath: map[string]*function{}}
	reads := readsOf{strings: plan.Static.Strings, native: func(name string) bool { return c.functions[name] == nil }}
	for _, fn := range plan.Funcs.Funcs {
		f := &function{name: fn.Name, index: len(c.program.functions), rule: len(fn.Params) == 2}
		for _, param := range fn.Params {
			f.params = append(f.params, int(param))
		}
		f.reads = reads.function(fn.Blocks)
		var err error
		if f.blocks, err = c.body(f, fn.Blocks); err != nil {
			return nil, err
		}
		f.locals = c.locals
		c.functions[fn.Name], c.byPath[strings.Join(fn.Path, "\x00")] = f, f
		c.program.functions = append(c.program.functions, f)
	}
	entry := new(function)
	var err error
	if c.program.entry, err = c.body(entry, plan.Plans.Plans[0].Blocks); err != nil {
		return nil, err
	}
	c.program.locals = c.locals
	c.program.plan()
	return c.program, nil
}

func (c *compiler) body(f *function, blocks []*ir.Block) ([]block, error) {
	c.f, c.locals, c.found, c.replaced = f, 3, map[ir.Local]bool{}, map[dotKey]bool{}
	for _, param := range f.params {
		c.local(ir.Local(param))
	}
	c.find(blocks)
	return c.blocks(blocks)
}

type dotKey struct{ source, key, target ir.Val }

func (c *compiler) find(blocks []*ir.Block) {
	for _, b := range blocks {
		for _, s := range b.Stmts {
			if dot, ok := s.(*ir.DotStmt); ok {
				c.found[dot.Target] = true
				c.replaced[dotKey{what(dot.Source), what(dot.Key), dot.Target}] = true
			}
			c.find(inside(s))
		}
	}
}

// local is a local's place in the frame.
func (c *compiler) local(l ir.Local) int {
	c.locals = max(c.locals, int(l)+1)
	return int(l)
}

// operand is a local, or a value that is known.
type operand struct {
	local int // -1: known
	known value
}

func (o *operand) get(l []value) *value {
	if o.local >= 0 {
		return &l[o.local]
	}
	return &o.known
}

func (c *compiler) operand(o ir.Operand) operand {
	switch v := what(o).(type) {
	case ir.Local:
		return operand{local: c.local(v)}
	case ir.Bool:
		return operand{-1, boolValue(bool(v))}
	case ir.StringIndex:
		return operand{-1, textValue(&c.ir.Static.Strings[v].Value)}
	}
	panic(fmt.Sprintf("policy: an operand is %T", o.Value))
}

func (c *compiler) operands(of []ir.Operand) []operand {
	list := make([]operand, len(of))
	for i := range of {
		list[i] = c.operand(of[i])
	}
	return list
}

func (c *compiler) blocks(of []*ir.Block) ([]block, error) {
	list := make([]block, len(of))
	for i, b := range of {
		var err error
		if list[i], err = c.block(b); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (c *compiler) block(b *ir.Block) (block, error) {
	var steps block
	defer func(outside map[ir.Local]int) { c.literals = outside }(c.literals)
	c.literals = literals(b)
	for i := 0; i < len(b.Stmts); {
		if literal, n := c.literal(b.Stmts[i:]); n > 0 {
			steps, i = append(steps, literal), i+n
			continue
		}
		s, err := c.step(b.Stmts[i])
		if err != nil {
			return nil, err
		}
		steps, i = append(steps, s), i+1
	}
	return steps, nil
}

func (c *compiler) step(s ir.Stmt) (step, error) {
	switch s := s.(type) {
	case *ir.NopStmt:
		return func(*machine, []value) int { return 0 }, nil
	case *ir.ReturnLocalStmt:
		source := c.local(s.Source)
		return func(m *machine, l []value) int { m.result = l[source]; return returned }, nil
	case *ir.ResultSetAddStmt:
		source := c.local(s.Value)
		key := ast.StringTerm("result")
		return func(m *machine, l []value) int {
			m.result = valueOfTerm(l[source].ref.(ast.Object).Get(key))
			return 0
		}, nil
	case *ir.BreakStmt:
		blocks := int(s.Index) + 1
		return func(*machine, []value) int { return blocks }, nil
	case *ir.BlockStmt:
		return c.nested(s)
	case *ir.NotStmt:
		inner, err := c.block(s.Block)
		return func(m *machine, l []value) int {
			switch r := inner.run(m, l); {
			case r == 0:
				return 1
			case r == 1:
				return 0
			default:
				return outer(r)
			}
		}, err
	case *ir.ScanStmt:
		return c.scan(s)
	case *ir.WithStmt:
		return c.with(s)
	case *ir.CallStmt:
		return c.call(s)
	case *ir.CallDynamicStmt:
		return c.dynamic(s), nil
	case *ir.DotStmt:
		return c.dot(s), nil
	case *ir.LenStmt:
		source, target := c.operand(s.Source), c.local(s.Target)
		return func(m *machine, l []value) int {
			n := m.length(source.get(l))
			if n < 0 {
				return 1
			}
			l[target] = intValue(int64(n))
			return 0
		}, nil
	}
	if check := c.check(s); check != nil {
		return check, nil
	}
	if assign := c.assign(s); assign != nil {
		return assign, nil
	}
	return nil, fmt.Errorf("the statement %T is not known", s)
}

// outer is what a block's answer is to the block around it.
func outer(r int) int {
	if r >= returned {
		return r
	}
	return r - 1
}

func (c *compiler) nested(s *ir.BlockStmt) (step, error) {
	blocks, err := c.blocks(s.Blocks)
	if len(blocks) == 1 {
		only := blocks[0]
		return func(m *machine, l []value) int {
			if r := only.run(m, l); r > 1 {
				return outer(r)
			}
			return 0
		}, err
	}
	return func(m *machine, l []value) int {
		for _, b := range blocks {
			if r := b.run(m, l); r > 1 {
				return outer(r)
			}
		}
		return 0
	}, err
}

func (c *compiler) scan(s *ir.ScanStmt) (step, error) {
	source, key, val := c.local(s.Source), c.local(s.Key), c.local(s.Value)
	inner, err := c.block(s.Block)
	ordered := appends(s.Block)
	return func(m *machine, l []value) int {
		if ordered && l[source].kind == isTerm && l[source].neg {
			return m.fail(errOrder)
		}
		return m.scan(l[source], func(k, v value) int {
			if !m.tick() {
				return failed
			}
			l[key], l[val] = k, v
			if r := inner.run(m, l); r > 1 {
				return outer(r)
			}
			return 0
		})
	}, err
}

// errOrder is for OPA: it visits the elements of a literal with variables in the order of their variables, and equal ones
// of a set twice.
var errOrder = errors.New("the order of elements is not known")

func appends(b *ir.Block) bool {
	return slices.ContainsFunc(b.Stmts, func(s ir.Stmt) bool {
		_, is := s.(*ir.ArrayAppendStmt)
		return is || slices.ContainsFunc(inside(s), appends)
	})
}

// literals counts for the objects and sets that a block makes what it puts into them itself.
func literals(b *ir.Block) map[ir.Local]int {
	counts := map[ir.Local]int{}
	made := map[ir.Local]bool{}
	for _, s := range b.Stmts {
		switch s := s.(type) {
		case *ir.MakeObjectStmt:
			made[s.Target] = true
		case *ir.MakeSetStmt:
			made[s.Target] = true
		}
		if container, _, ok := insertion(s); ok && made[container] {
			counts[container]++
		}
	}
	return counts
}

// scan visits the elements of a value until a visit does not answer 0.
func (m *machine) scan(source value, visit func(k, v value) int) (r int) {
	if source.kind == isPart && part(source.n) == partBudgets {
		for i := range m.in.Budgets {
			if r = visit(intValue(int64(i)), partValue(partBudget+part(i))); r != 0 {
				break
			}
		}
		return leave(r)
	}
	if source.kind == isArray {
		for i := range m.length(&source) {
			if r = visit(intValue(int64(i)), source.elem(i)); r != 0 {
				break
			}
		}
		return leave(r)
	}
	switch x := m.composite(&source).(type) {
	case ast.Object:
		x.Until(func(k, v *ast.Term) bool {
			r = visit(valueOf(k.Value), valueOf(v.Value))
			return r != 0
		})
	case ast.Set:
		x.Until(func(t *ast.Term) bool {
			v := valueOf(t.Value)
			r = visit(v, v)
			return r != 0
		})
	}
	return leave(r)
}

// leave ends a loop: leaving one block more than the loop's own goes on behind it.
func leave(r int) int {
	if r == 0 {
		return 0
	}
	return outer(r)
}

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
		if key.kind == isInt && key.n >= 0 && key.n < int64(m.length(source)) {
			return source.elem(int(key.n))
		}
		return value{}
	case isPart:
		if part(source.n) == partBudgets {
			if key.kind == isInt && key.n >= 0 && key.n < int64(len(m.in.Budgets)) {
				return partValue(partBudget + part(key.n))
			}
			return value{}
		}
		if key.kind == isString {
			name := namesOf(key.text())
			return m.read(part(source.n), &name)
		}
		return value{}
	case isTerm:
		return member(source.ref, m.term(key))
	}
	return value{}
}
