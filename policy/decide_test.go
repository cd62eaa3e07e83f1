package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

func compile(t testing.TB, modules map[string]string) *Policy {
	t.Helper()
	p, err := Compile(modules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func decider(t testing.TB, modules map[string]string) *Decider {
	t.Helper()
	return using(compile(t, modules))
}

// using makes a decider that never cuts off: the machine may be busy.
func using(p *Policy) *Decider {
	d := &Decider{limit: time.Minute, slots: newSlots()}
	d.Use(One(p, "test"))
	return d
}

// inUse is what asks the one policy that a decider has.
func inUse(d *Decider) *evaluator {
	if a := d.inUse.Load().organisation; a != nil {
		return a.evaluator
	}
	return d.shipped
}

func decideOnce(t *testing.T, modules map[string]string) (*routing.Plan, error) {
	t.Helper()
	return decider(t, modules).Decide(context.Background(), supportInput(t))
}

func testCatalog(t testing.TB) *charter.Catalog {
	t.Helper()
	return charter.WithMeta(&charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "standard"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "mini", Provider: "openai", Tier: "economy", Capabilities: []string{"chat", "tools"}, ContextTokens: 128_000, MaxOutputTokens: 16_384, Regions: []string{"eu"}},
			{ID: "base", Provider: "openai", Tier: "standard", Capabilities: []string{"chat", "tools", "vision"}, ContextTokens: 128_000, MaxOutputTokens: 16_384},
			{ID: "large", Provider: "anthropic", Tier: "premium", Capabilities: []string{"chat", "tools", "vision", "code"}, ContextTokens: 200_000, MaxOutputTokens: 64_000},
		},
	}, charter.Meta{}).(*charter.Catalog)
}

func supportInput(t testing.TB) *routing.Input {
	return &routing.Input{
		Now:     time.Date(2026, 11, 23, 10, 15, 30, 0, time.UTC),
		Call:    &routing.Call{Feature: "support-copilot", TaskClass: "chat", Capabilities: []string{"tools"}, Estimate: routing.Estimate{InputTokens: 1200, MaxOutputTokens: 400}, User: "u-1"},
		Charter: &charter.Charter{ID: "support-copilot", Team: "support", Stage: charter.StageProduction},
		Budgets: []routing.BudgetState{{ID: "support", UtilizationPermille: 412, AlertPermille: 800}, {ID: "acme", UtilizationPermille: 300, AlertPermille: 900}},
		Catalog: testCatalog(t),
		Epoch:   7,
	}
}

func TestDecideShipped(t *testing.T) {
	d, err := NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	d.limit, inUse(d).limit = time.Minute, time.Minute
	in := supportInput(t)
	plan, err := d.Decide(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	want := &routing.Plan{Effect: routing.Allow, Tiers: []string{"standard", "economy"}, PromptCache: routing.Cache5m,
		Reasons: []string{"A task of class chat starts at the standard tier."}, Revision: d.Builtin()}
	if !reflect.DeepEqual(plan, want) {
		t.Errorf("the plan is %+v, want %+v", plan, want)
	}
	in.Budgets[1].UtilizationPermille = 900
	if plan, err = d.Decide(context.Background(), in); err != nil || plan.Effect != routing.Downgrade || plan.Tiers[0] != "economy" {
		t.Errorf("over the alert threshold the plan is %+v, %v", plan, err)
	}
	in.Budgets[0].UtilizationPermille = 1000
	if plan, err = d.Decide(context.Background(), in); err != nil || plan.Effect != routing.Deny {
		t.Errorf("with nothing left the plan is %+v, %v", plan, err)
	}
}

func TestDecodesAll(t *testing.T) {
	plan, err := decideOnce(t, module(`decision := {
		"effect": "downgrade", "models": ["mini", "base"], "tiers": ["economy"], "max_input_tokens": 0, "max_output_tokens": 500,
		"trim_context_to_tokens": 4000, "prompt_cache": "1h", "reasons": ["because", "and so"],
	}`))
	want := &routing.Plan{Effect: routing.Downgrade, Models: []string{"mini", "base"}, Tiers: []string{"economy"}, MaxOutputTokens: 500,
		TrimContextToTokens: 4000, PromptCache: routing.Cache1h, Reasons: []string{"because", "and so"}, Revision: "test"}
	if err != nil || !reflect.DeepEqual(plan, want) {
		t.Errorf("the plan is %+v, %v; want %+v", plan, err, want)
	}
}

func TestDecideRefuses(t *testing.T) {
	allow := func(rest string) string { return `decision := {"effect": "allow", "tiers": ["economy"], ` + rest + `}` }
	for _, c := range []struct{ name, body, problem string }{
		{"undefined", `decision := {"effect": "deny"} if input.request.tier == "none"`, "undefined"},
		{"conflict", "decision := {\"effect\": \"deny\"} if input.request.task_class\n\n" + allowAll, "routing.rego:5: eval_conflict_error: rule data.chartergate.routing.decision produced conflicting values"},
		{"string", `decision := "allow"`, "decision is a string, it must be an object"},
		{"set", `decision contains "allow"`, "decision is a set"},
		{"no effect", `decision := {"tiers": ["economy"]}`, "no effect"},
		{"effect", `decision := {"effect": "Allow", "tiers": ["economy"]}`, `decision.effect is "Allow", which it cannot be`},
		{"effect of another type", `decision := {"effect": 1}`, "decision.effect is 1"},
		{"allow what", `decision := {"effect": "allow"}`, "names no tiers and no models"},
		{"downgrade to what", `decision := {"effect": "downgrade", "tiers": []}`, "decision says downgrade, but names no tiers"},
		{"unknown field", allow(`"teirs": ["economy"]`), `the field "teirs", which nobody reads`},
		{"other case", allow(`"Models": ["mini"]`), `the field "Models"`},
		{"field of another type", allow(`1: 2`), "the names of fields are strings"},
		{"tiers of another type", `decision := {"effect": "allow", "tiers": "economy"}`, "decision.tiers is a string, it must be an array"},
		{"tiers without order", `decision := {"effect": "allow", "tiers": {"economy"}}`, "decision.tiers is a set, it must be an array"},
		{"tier of another type", `decision := {"effect": "allow", "tiers": ["a", 2]}`, "decision.tiers[1] is a number, it must be a string"},
		{"empty tier", `decision := {"effect": "allow", "tiers": [""]}`, "decision.tiers[0] is empty"},
		{"too many models", `decision := {"effect": "allow", "models": [sprintf("m%d", [i]) | some i in numbers.range(1, 65)]}`, "decision.models has 65 entries, at most 64"},
		{"too many reasons", allow(`"reasons": [sprintf("r%d", [i]) | some i in numbers.range(1, 17)]`), "decision.reasons has 17 entries, at most 16"},
		{"long reason", allow(`"reasons": [concat("", [c | some _ in numbers.range(1, 241); c := "x"])]`), "decision.reasons[0] has 241 bytes, at most 240"},
		{"negative", allow(`"max_input_tokens": -1`), "decision.max_input_tokens is -1, it must be a whole number"},
		{"fraction", allow(`"max_output_tokens": 1.5`), "decision.max_output_tokens is 1.5, it must be a whole number"},
		{"huge", allow(`"trim_context_to_tokens": 1e30`), "it must be a whole number"},
		{"count of another type", allow(`"max_input_tokens": "10"`), "it must be a whole number"},
		{"prompt cache", allow(`"prompt_cache": "24h"`), `decision.prompt_cache is "24h", which it cannot be`},
		{"null", `decision := null`, "decision is a null"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan, err := decideOnce(t, module(c.body))
			var eval *EvalError
			if !errors.As(err, &eval) {
				t.Fatalf("Decide gives %+v, %v; want *EvalError", plan, err)
			}
			if eval.Revision != "test" || !strings.Contains(eval.Problem, c.problem) {
				t.Errorf("the error is %q, want %q in it", err, c.problem)
			}
		})
	}
}

func TestReasonsMayBeASet(t *testing.T) {
	plan, err := decideOnce(t, module(`decision := {"effect": "deny", "reasons": {"b", "a"}}`))
	if err != nil || !reflect.DeepEqual(plan.Reasons, []string{"a", "b"}) {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
}

// endless would take days: 3,000 times 3,000 times 3,000 steps.
const endless = `decision := {"effect": "deny"} if {
	some a in numbers.range(1, 3000)
	some b in numbers.range(1, 3000)
	some c in numbers.range(1, 3000)
	a * b * c < 0
}`

func TestEvaluationIsCutOff(t *testing.T) {
	d := decider(t, module(endless))
	inUse(d).limit = EvaluationLimit
	start := time.Now()
	_, err := d.Decide(context.Background(), supportInput(t))
	var eval *EvalError
	if !errors.As(err, &eval) || eval.Problem != "it took longer than 10ms" {
		t.Fatalf("Decide gives %v", err)
	}
	if took := time.Since(start); took < EvaluationLimit || took > 2*time.Second {
		t.Errorf("it was cut off after %s", took)
	}
}

func TestCancelledContextIsNoPolicyFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := decider(t, module(endless)).Decide(ctx, supportInput(t))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Decide gives %v, want the context's error", err)
	}
}

func TestErrorsAreNotRemembered(t *testing.T) {
	d := decider(t, module(`decision := "ill-formed"`))
	for range 2 {
		if _, err := d.Decide(context.Background(), supportInput(t)); err == nil {
			t.Fatal("no error")
		}
	}
	if n := inUse(d).memo.size(); n != 0 {
		t.Errorf("%d plans are remembered", n)
	}
}

func TestUseSwitchesAtOnce(t *testing.T) {
	d := decider(t, module(`decision := {"effect": "allow", "tiers": ["a"]}`))
	ctx, in := context.Background(), supportInput(t)
	before, err := d.Decide(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	other := compile(t, module(`decision := {"effect": "allow", "tiers": ["b"]}`))
	d.Use(One(other, "second"))
	after, err := d.Decide(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if before.Tiers[0] != "a" || before.Revision != "test" || after.Tiers[0] != "b" || after.Revision != "second" {
		t.Errorf("before %+v, after %+v", before, after)
	}
	d.Use(One(other, "second"))
	if again, _ := d.Decide(ctx, in); again != after {
		t.Error("the same policy under the same name has forgotten its plans")
	}
	d.Use(One(other, "third"))
	if renamed, _ := d.Decide(ctx, in); renamed.Revision != "third" {
		t.Errorf("the plan is of revision %s", renamed.Revision)
	}
}

func TestDecideConcurrently(t *testing.T) {
	d, err := NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	d.limit, inUse(d).limit = time.Minute, time.Minute
	builtin := inUse(d).policy
	byUser := compile(t, module(`decision := {"effect": "deny", "reasons": [input.request.user]}`))
	base := supportInput(t)
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			for i := range 200 {
				if g == 0 && i%20 == 0 {
					d.Use(One(byUser, "by-user"))
				} else if g == 0 && i%20 == 10 {
					d.Use(One(builtin, "builtin"))
				}
				in, call := *base, *base.Call
				call.User = fmt.Sprintf("u-%d-%d", g, i/4)
				in.Call, in.Epoch = &call, int64(i/50)
				plan, err := d.Decide(context.Background(), &in)
				switch {
				case err != nil:
					t.Error(err)
				case plan.Revision == "by-user" && plan.Reasons[0] != call.User:
					t.Errorf("%s got the plan of %s", call.User, plan.Reasons[0])
				case plan.Revision != "by-user" && plan.Effect != routing.Allow:
					t.Errorf("the plan is %+v", plan)
				}
			}
		})
	}
	wait.Wait()
}

func TestMemoIsBounded(t *testing.T) {
	m := newMemo()
	plan := new(routing.Plan)
	var hot = []byte("asked for all the time")
	m.put(hot, plan)
	for i := range 3 * memoPlans {
		m.put(fmt.Appendf(nil, "key %d", i), plan)
		if i%64 == 0 && func() bool { p, _ := m.get(hot); return p == nil }() {
			t.Fatalf("a plan that is asked for was dropped after %d others", i)
		}
	}
	if n := m.size(); n > memoPlans || n < memoPlans/4 {
		t.Errorf("%d plans are remembered, the bound is %d", n, memoPlans)
	}
}
