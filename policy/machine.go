package policy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/routing"
)

// program is a policy as closures. It is immutable.
type program struct {
	functions []*function
	entry     []block
	locals    int     // of the entry
	staged    int     // how many functions are staged
	fields    []field // what it can read of a call
	key       []field // of a stage
	machines  sync.Pool
	// Of the stage's key: whether it has all that says what is able.
	able bool
}

// function is a rule, or one with arguments.
type function struct {
	name   string
	index  int
	params []int
	locals int
	blocks []block
	rule   bool // without arguments: evaluated once for an input
	stage  int  // the place among a stage's values; -1: it is not kept
	calls  []int
	reads  []read
	with   bool
}

type (
	// step runs a statement and says whether to go on: 0, or how many blocks to leave, 1 for the one it is in.
	step  func(m *machine, l []value) int
	block []step
)

// More blocks than there are: out of the function, and out of all of them with m.err.
const (
	returned = 1 << 20
	failed   = 1 << 21
)

// Limits of an evaluation beside its time.
const (
	maxElements = 1 << 18 // that are added to arrays, sets and objects
	stepsAClock = 512     // steps between two looks at the clock
)

var errTooLarge = errors.New("its values have more than " + fmt.Sprint(maxElements) + " elements")

// machine runs a program for one call. It is reused.
type machine struct {
	program *program
	in      *routing.Input
	inputs  *inputs
	stage   *stage
	ctx     context.Context

	stack []value
	depth int
	// Values of rules, each good for the generation of the input: `with` makes another one.
	rules      []remembered
	generation uint32
	last       uint32 // generation
	with       bool   // something of the input is replaced

	top      routing.BudgetState
	topKnown bool
	leaves   [leafCount]ast.Value
	input    ast.Object

	limit    time.Duration
	deadline time.Time
	steps    int
	elements int
	result   value
	err      error
	args     [8]*ast.Term
}

type remembered struct {
	generation uint32
	value      value
}

// run evaluates the entry point.
func (p *program) run(ctx context.Context, in *routing.Input, inputs *inputs, s *stage, limit time.Duration) (*routing.Plan, error) {
	m, _ := p.machines.Get().(*machine)
	if m == nil {
		m = &machine{program: p, stack: make([]value, 1024), rules: make([]remembered, len(p.functions))}
	}
	m.in, m.inputs, m.stage, m.ctx, m.limit = in, inputs, s, ctx, limit
	m.last++
	m.generation = m.last
	defer p.put(m)
	l := m.frame(p.locals)
	l[0], l[1] = partValue(partRoot), termValue(noData)
	for _, b := range p.entry {
		if b.run(m, l) == failed {
			return nil, m.err
		}
	}
	if m.result.kind == undefined {
		return nil, errUndefined
	}
	return decode(m.ast(&m.result))
}

var noData = ast.NewObject()

func (p *program) put(m *machine) {
	if m.last > 1<<31 || len(m.stack) > 1<<14 {
		return
	}
	clear(m.stack)
	*m = machine{program: p, stack: m.stack, rules: m.rules, last: m.last}
	p.machines.Put(m)
}

// frame takes locals from the stack; the caller gives them back.
func (m *machine) frame(n int) []value {
	if m.depth+n > len(m.stack) {
		m.stack, m.depth = make([]value, max(2*len(m.stack), n)), 0
	}
	l := m.stack[m.depth : m.depth+n : m.depth+n]
	m.depth += n
	clear(l)
	return l
}

func (b block) run(m *machine, l []value) int {
	for _, step := range b {
		if r := step(m, l); r != 0 {
			return r
		}
	}
	return 0
}

// fail ends the evaluation.
func (m *machine) fail(err error) int {
	if m.err == nil {
		m.err = err
	}
	return failed
}

// tick counts a step; false when the time is over.
func (m *machine) tick() bool {
	m.steps++
	return m.steps%stepsAClock != 0 || m.onTime()
}

func (m *machine) onTime() bool {
	now := time.Now()
	if m.deadline.IsZero() {
		m.deadline = now.Add(m.limit)
	}
	if m.ctx.Err() == nil && now.Before(m.deadline) {
		return true
	}
	m.fail(errCutOff)
	return false
}

// Cancel is there for topdown.Cancel.
func (m *machine) Cancel() {}

// Cancelled tells a builtin of OPA's that the time is over.
func (m *machine) Cancelled() bool { return !m.onTime() }

// grow counts elements that are added; false when there are too many.
func (m *machine) grow(n int) bool {
	if m.elements += n; m.elements > maxElements {
		m.fail(errTooLarge)
		return false
	}
	return true
}

// call gives a function's value. It is undefined after a failure too: look at m.err.
func (m *machine) call(f *function, args []operand, caller []value) value {
	if !f.rule {
		return m.evaluate(f, args, caller)
	}
	kept := &m.rules[f.index]
	if kept.generation == m.generation {
		return kept.value
	}
	staged := f.stage >= 0 && !m.with
	if staged {
		if v := m.stage.values[f.stage].Load(); v != nil {
			*kept = remembered{m.generation, *v}
			return *v
		}
	}
	v := m.evaluate(f, args, caller)
	if m.err != nil {
		return value{}
	}
	if staged {
		v = m.keep(v)
		m.stage.values[f.stage].Store(&v)
	}
	*kept = remembered{m.generation, v}
	return v
}

func (m *machine) evaluate(f *function, args []operand, caller []value) (v value) {
	stack, depth := m.stack, m.depth
	l := m.frame(f.locals)
	for i, param := range f.params {
		l[param] = *args[i].get(caller)
	}
	if !m.tick() {
		return value{}
	}
	for _, b := range f.blocks {
		if r := b.run(m, l); r == returned {
			v = m.result
			v.neg = v.neg && v.kind == isFloat
			break
		} else if r == failed {
			break
		}
	}
	m.stack, m.depth = stack, depth
	return v
}
