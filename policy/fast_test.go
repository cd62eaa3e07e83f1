package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/routing"
)

// TestSlow pins what is told of policies that are not fast.
func TestSlow(t *testing.T) {
	for _, c := range []struct{ body, where, why string }{
		{allowAll, "", ""},
		{`decision := {"effect": "deny", "reasons": [sprintf("%v", [input.request.input_tokens])]}`, "", ""},
		{`decision := {"effect": "deny", "reasons": [json.marshal(input.request)]}`, "routing.rego:3:57 input.request", "reads all of input.request"},
		{"a.base.n := 1\n\na[x].m := a.base.n if some x in input.catalog.tiers\n\ndecision := {\"effect\": \"deny\", \"max_input_tokens\": input.request.input_tokens + a.premium.m}",
			"routing.rego:7:52 input.request.input_tokens", "OPA's interpreter evaluates this policy"},
	} {
		slow := compile(t, module(c.body)).Slow()
		if c.where == "" {
			if len(slow) > 0 {
				t.Errorf("%s\nis slow: %+v", c.body, slow)
			}
			continue
		}
		if len(slow) != 1 {
			t.Errorf("%s\nis slow: %+v", c.body, slow)
			continue
		}
		s := slow[0]
		if where := fmt.Sprintf("%s:%d:%d %s", s.File, s.Line, s.Column, s.Expression); where != c.where || !strings.Contains(s.Why, c.why) {
			t.Errorf("%s\nis slow at %s: %s", c.body, where, s.Why)
		}
	}
}

// TestUselessMemoRests decides until the memo is given up, and until it is of use again.
func TestUselessMemoRests(t *testing.T) {
	p := compile(t, module(`decision := {"effect": "deny", "reasons": [sprintf("%d", [input.request.input_tokens % 7])]}`))
	e, ctx := inUse(using(p)), context.Background()
	decide := func(tokens int64) *routing.Plan {
		in := supportInput(t)
		in.Call.Estimate.InputTokens = tokens
		plan, err := e.decide(ctx, in)
		if err != nil || plan.Reasons[0] != fmt.Sprint(tokens%7) {
			t.Fatalf("%d tokens: %+v, %v", tokens, plan, err)
		}
		return plan
	}
	n := int64(0)
	for ; e.use.resting.Load() == 0 && n < 100*sampleShare*sampleWindow; n++ {
		decide(n)
	}
	if e.use.resting.Load() == 0 || e.memo.size() > 1 {
		t.Fatalf("after %d calls that are all different the memo has %d plans", n, e.memo.size())
	}
	if decide(1) != decide(8) {
		t.Error("equal decisions without the memo are not one plan")
	}
	e.use.resting.Store(1) // as if it had rested
	decide(0)
	for n = 0; e.use.rested.Load() && n < 200*sampleShare*sampleWindow; n++ {
		decide(n % 500)
	}
	if e.use.rested.Load() || e.use.resting.Load() > 0 {
		t.Errorf("after %d calls of 500 kinds the memo still rests", n)
	}
}

// TestClosuresAreCutOff evaluates what takes too long, or too much memory, in the closures alone.
func TestClosuresAreCutOff(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"time":   {endless, errCutOff},
		"memory": {`decision := {"effect": "deny", "reasons": [sprintf("%d", [count([x | some x in numbers.range(1, 3000); some _ in numbers.range(1, 3000)])])]}`, errTooLarge},
	} {
		p := compile(t, module(c.body))
		e := inUse(using(p))
		if e.limit = time.Minute; c.want == errCutOff {
			e.limit = EvaluationLimit
		}
		if _, err := e.run(context.Background(), supportInput(t)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNumbersAreWrittenAsInOPA pins what generated policies seldom ask.
func TestNumbersAreWrittenAsInOPA(t *testing.T) {
	for _, expression := range []string{"1.0", "[1.0, 2.50]", "{1.0, 2.50}", "1.0 + 1", "1e3", "1e3 + 0", "max([1, 1.0])", "min([1.0, 1])",
		"list[1.0]", "list[1e0]", "list[2.5 - 1.5]", "list[-1]", "list[3]", "-0.0", "0 / 5", "0 / -5", "0.1 + 0.2", "1 / 3", "10 / 4", "10 / 5", "3000000000 * 4",
		"9223372036854775807 + 1", "-9223372036854775808 - 1", "6000000000 / 2", "7 % 2.0", "7 % -1", "floor(1.0)", "round(2.5)", "ceil(0.2)", "abs(-3)",
		"0.7 * 100", "1e-400 + 1", "123456789012345678901 - 1", "input.budget.utilization * 3", "[b | some i in [1.0, 1e0, 5]; b := input.budgets[i].id]", "count({1, 1.0})",
		"[1 == 1.0, 0.1 + 0.2 == 0.3, 1 / 3 == 0.3333333333333333, 1 / 3 < 0.33333333333333333333]", `sprintf("%v %d %v", [1.0, 2.0, 1 / 3])`} {
		p, err := Compile(module("list := json.unmarshal(\"[5, 6, 7]\")\n\nr := " + expression + "\n\n" + `decision := {"effect": "deny", "reasons": [json.marshal([r | r])]}`))
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		got, err := inUse(using(p)).run(context.Background(), supportInput(t))
		want, wantErr := plain(p, supportInput(t))
		if err != nil || wantErr != nil || !slices.Equal(got.Reasons, want.Reasons) {
			t.Errorf("%s is %+v, %v; plain %+v, %v", expression, got, err, want, wantErr)
		}
	}
}

// TestCallsMayBeReused changes a call after it was decided: what is kept does not change with it.
func TestCallsMayBeReused(t *testing.T) {
	p := compile(t, module("kept := [input.request.tier, {input.request.tier: input.request.cohort}]\n\n"+
		`decision := {"effect": "deny", "reasons": [sprintf("%v %d", [kept, input.request.input_tokens])]}`))
	e, ctx := inUse(using(p)), context.Background()
	in := supportInput(t)
	in.Call.Tier, in.Call.Cohort = "economy", "beta"
	s := e.stages.get(p.program, in)
	first, err := p.program.run(ctx, e, in, s)
	if err != nil {
		t.Fatal(err)
	}
	reasons := slices.Clone(first.Reasons)
	in.Call.Tier, in.Call.Cohort = "premium", "" // the stage is the old one's
	again, err := p.program.run(ctx, e, in, s)
	if err != nil || again != first || !slices.Equal(first.Reasons, reasons) {
		t.Errorf("%v became %v, %v", reasons, again, err)
	}
}
