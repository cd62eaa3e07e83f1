package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/chartergate/chartergate/core/routing"
)

// Limits of an explanation.
const (
	explainLimit   = time.Second // tracing is slow
	maxEvents      = 100_000
	maxTraceBytes  = 1 << 20
	maxValueBytes  = 1 << 10
	maxAnswerBytes = 64 << 10
	maxHits        = 1000
	maxInputsRead  = 1000
	maxElementsOf  = 32 // of an array that is walked whole
	cutMark        = "…"
	cutTraceNotice = "… the trace is longer\n"
)

// explain asks a policy once more, with OPA watching: as plain OPA does it, whatever is remembered. Error: ctx's.
func (p *Policy) explain(ctx context.Context, revision string, in *routing.Input, trace bool) (*routing.Explanation, error) {
	input := (&inputs{prices: p.prices}).build(in)
	w := &watcher{input: input, rules: map[routing.RuleHit]bool{}, reads: map[string]string{}}
	var results rego.ResultSet
	_, err := p.guard.run(ctx, explainLimit, func(cancel topdown.Cancel) (_ *routing.Plan, err error) {
		results, err = p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalExternalCancel(cancel), rego.EvalQueryTracer(w), rego.EvalQueryTracer(stopper{cancel}),
			rego.EvalRuleIndexing(false), // an index skips conditions without telling
			rego.EvalGenerateJSON(func(t *ast.Term, _ *rego.EvalContext) (any, error) { return t.Value, nil }))
		return nil, err
	})
	if errors.Is(err, errCutOff) || errors.Is(err, errStuck) { // the evaluation may still have the watcher
		w = &watcher{input: input, rules: map[routing.RuleHit]bool{}, reads: map[string]string{}}
	}
	x := &routing.Explanation{Revision: revision}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case topdown.IsCancel(err) || errors.Is(err, errCutOff):
		err = fmt.Errorf("it took longer than %s", explainLimit)
	case err == nil && len(results) == 0:
		err = errors.New("decision is undefined for this input: give it a default")
	case err == nil:
		answer := results[0].Expressions[0].Value.(ast.Value)
		x.Answer = jsonOf(answer, maxAnswerBytes)
		if x.Plan, err = decode(answer); err == nil {
			x.Plan.Revision = revision
		}
	}
	if err != nil {
		x.Plan, x.Problem = nil, oneLine(err.Error())
	}
	for hit := range w.rules {
		x.Rules = append(x.Rules, hit)
	}
	slices.SortFunc(x.Rules, func(a, b routing.RuleHit) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Value, b.Value))
	})
	for path, value := range w.reads {
		x.Inputs = append(x.Inputs, routing.InputRead{Path: path, Value: value})
	}
	slices.SortFunc(x.Inputs, func(a, b routing.InputRead) int { return cmp.Compare(a.Path, b.Path) })
	if trace {
		x.Trace = w.pretty()
	}
	return x, nil
}

// watcher collects what an evaluation does.
type watcher struct {
	input  ast.Value
	rules  map[routing.RuleHit]bool
	reads  map[string]string
	events []*topdown.Event
}

// Enabled implements topdown.QueryTracer.
func (w *watcher) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (w *watcher) Config() topdown.TraceConfig { return topdown.TraceConfig{PlugLocalVars: true} }

// TraceEvent implements topdown.QueryTracer.
func (w *watcher) TraceEvent(e topdown.Event) {
	if len(w.events) < maxEvents {
		w.events = append(w.events, &e)
	}
	switch node := e.Node.(type) {
	case *ast.Rule:
		if e.Op == topdown.ExitOp && len(w.rules) < maxHits && !isConstant(node) {
			w.hit(node, e.Locals)
		}
	case *ast.Expr:
		if e.Op == topdown.EvalOp {
			w.expression(node, e.Locals)
		}
	}
}

// isConstant reports whether a rule only gives a name to a value, such as a table, which says nothing of a decision.
func isConstant(r *ast.Rule) bool {
	return r.Head.Value != nil && r.Head.Value.IsGround() && r.Head.Key == nil && len(r.Head.Args) == 0 && !r.Default && r.Else == nil &&
		len(r.Body) == 1 && r.Body[0].Equal(ast.NewExpr(ast.BooleanTerm(true))) && r.Head.Name != "decision" &&
		slices.Contains(r.Module.Rules, r) // and is no last else
}

func (w *watcher) hit(r *ast.Rule, locals *ast.ValueMap) {
	value := r.Head.Value
	if r.Head.Key != nil && value == nil {
		value = r.Head.Key
	}
	h := routing.RuleHit{Rule: bound(r.Ref(), locals).String(), Value: "true"}
	if at := r.Loc(); at != nil {
		h.File, h.Line = at.File, at.Row
	}
	if value != nil {
		h.Value = jsonOf(bound(value.Value, locals), maxValueBytes)
	}
	w.rules[h] = true
}

// bound puts the values of variables in their places.
func bound(v ast.Value, locals *ast.ValueMap) ast.Value {
	if locals == nil {
		return v
	}
	x, err := ast.TransformVars(ast.NewTerm(v).Copy(), func(name ast.Var) (ast.Value, error) {
		if known := locals.Get(name); known != nil {
			return known, nil
		}
		return name, nil
	})
	if known, ok := x.(ast.Value); ok && err == nil {
		return known
	}
	return v
}

// expression notes what of the input an expression reads. Those within comprehensions are evaluated on their own.
func (w *watcher) expression(e *ast.Expr, locals *ast.ValueMap) {
	var visit func(x any) bool
	visit = func(x any) bool {
		switch x := x.(type) {
		case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension, *ast.Every:
			return true
		case ast.Ref:
			if isInput(x) {
				w.read("input", w.input, x[1:], locals)
				for _, t := range x[1:] {
					ast.NewGenericVisitor(visit).Walk(t)
				}
				return true
			}
		case ast.Var:
			if x.Equal(ast.InputRootDocument.Value) {
				w.read("input", w.input, nil, locals)
			}
			return true
		}
		return false
	}
	ast.NewGenericVisitor(visit).Walk(e)
}

// read follows a path. A variable that has no value yet stands for every element.
func (w *watcher) read(path string, at ast.Value, rest ast.Ref, locals *ast.ValueMap) {
	if len(w.reads) >= maxInputsRead {
		return
	}
	if len(rest) == 0 {
		w.reads[path] = jsonOf(at, maxValueBytes)
		return
	}
	key := bound(rest[0].Value, locals)
	if _, free := key.(ast.Var); free {
		n := 0
		elements := func(k, v *ast.Term) bool {
			n++
			w.read(path+pathStep(k.Value), v.Value, rest[1:], locals)
			return n >= maxElementsOf
		}
		switch at := at.(type) {
		case *ast.Array:
			for i := range at.Len() {
				if elements(ast.InternedTerm(i), at.Elem(i)) {
					break
				}
			}
		case ast.Object:
			at.Until(elements)
		}
		return
	}
	path += pathStep(key)
	value, err := at.Find(ast.Ref{ast.NewTerm(key)})
	if err != nil {
		w.reads[path] = ""
		return
	}
	w.read(path, value, rest[1:], locals)
}

// pathStep is how a path goes on.
func pathStep(key ast.Value) string {
	if s, ok := key.(ast.String); ok && ast.IsVarCompatibleString(string(s)) {
		return "." + string(s)
	}
	return "[" + key.String() + "]"
}

// jsonOf is a value as JSON, cut short where it is long. A set is an array.
func jsonOf(v ast.Value, most int) string {
	text := v.String()
	if x, err := ast.JSON(v); err == nil {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(x) == nil {
			text = strings.TrimSpace(b.String())
		}
	}
	return cut(text, most, cutMark)
}

func cut(text string, most int, mark string) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len(mark)], "") + mark
}

// pretty is OPA's own form of the trace.
func (w *watcher) pretty() string {
	var b bytes.Buffer
	topdown.PrettyTraceWithLocation(&b, w.events)
	text := b.String()
	if len(w.events) == maxEvents {
		text += cutTraceNotice
	}
	return cut(text, maxTraceBytes, cutTraceNotice)
}

// Explain tells what each policy says that is asked for a call, the organisation's first, and why. in is as for Decide.
// trace adds OPA's. Error: ctx's.
func (d *Decider) Explain(ctx context.Context, in *routing.Input, trace bool) ([]routing.Explanation, error) {
	var list []routing.Explanation
	leftOpen := true // no policy names a tier or a model
	ask := func(name string, p *Policy, problem string) error {
		x := &routing.Explanation{Revision: name, Problem: problem}
		if p != nil {
			var err error
			if x, err = p.explain(ctx, name, in, trace); err != nil {
				return err
			}
		}
		list, leftOpen = append(list, *x), leftOpen && x.Plan != nil && x.Plan.LeavesChoice()
		return nil
	}
	for _, a := range d.inUse.Load().levels(nil, in.Charter) {
		if err := ask(a.Name, a.Policy, a.Problem); err != nil {
			return nil, err
		}
	}
	if leftOpen {
		if err := ask(d.shipped.revision, d.shipped.policy, ""); err != nil {
			return nil, err
		}
	}
	return list, nil
}
