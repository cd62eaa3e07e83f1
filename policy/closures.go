package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/ir"
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
	entry, err := unwrapped(plan.Plans.Plans[0])
	if err != nil {
		return nil, err
	}
	if c.program.entry, err = c.body(new(function), entry); err != nil {
		return nil, err
	}
	c.program.locals = c.locals
	c.program.plan()
	return c.program, nil
}

// unwrapped is a plan's only block with the decision as its result, which the planner puts into an object.
func unwrapped(plan *ir.Plan) ([]*ir.Block, error) {
	if len(plan.Blocks) == 1 && len(plan.Blocks[0].Stmts) > 2 {
		stmts := plan.Blocks[0].Stmts
		n := len(stmts) - 2 // that put it there, and answer
		if insert, ok := stmts[n].(*ir.ObjectInsertStmt); ok {
			if decision, ok := what(insert.Value).(ir.Local); ok {
				around := func(s ir.Stmt) bool { make, ok := s.(*ir.MakeObjectStmt); return ok && make.Target == insert.Object }
				rest := slices.DeleteFunc(slices.Clone(stmts[:n]), around)
				return []*ir.Block{{Stmts: append(rest, &ir.ResultSetAddStmt{Value: decision})}}, nil
			}
		}
	}
	return nil, errors.New("the planner wraps decisions otherwise than it did")
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
		return func(m *machine, l []value) int {
			m.result = l[source]
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
		if ordered && l[source].kind >= isBag && l[source].neg {
			return m.fail(errOrder)
		}
		switch src := l[source]; {
		case src.kind == isPart && part(src.n) == partBudgets:
			for i := range m.in.Budgets {
				l[key], l[val] = intValue(int64(i)), partValue(partBudget+part(i))
				if r := inner.round(m, l); r != 0 {
					return leave(r)
				}
			}
			return 0
		case src.kind == isArray:
			for i := range m.length(&src) {
				l[key], l[val] = intValue(int64(i)), src.elem(i)
				if r := inner.round(m, l); r != 0 {
					return leave(r)
				}
			}
			return 0
		default:
			return m.scan(src, func(k, v value) int {
				l[key], l[val] = k, v
				return inner.round(m, l)
			})
		}
	}, err
}

// round runs the block of a loop once.
func (b block) round(m *machine, l []value) int {
	if !m.tick() {
		return failed
	}
	if r := b.run(m, l); r > 1 {
		return outer(r)
	}
	return 0
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

// scan visits the elements of an object or set until a visit does not answer 0.
func (m *machine) scan(source value, visit func(k, v value) int) (r int) {
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
