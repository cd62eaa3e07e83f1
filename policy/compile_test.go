package policy

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// rego puts a body into the package that a routing policy has; the body starts in line 3.
func module(body string) map[string]string {
	return map[string]string{"routing.rego": "package chartergate.routing\n\n" + body + "\n"}
}

const allowAll = `decision := {"effect": "allow", "tiers": ["economy"]}`

func TestCompileRefuses(t *testing.T) {
	many := map[string]string{}
	for i := range MaxModules + 1 {
		many[fmt.Sprintf("%02d.rego", i)] = "package chartergate.routing"
	}
	for _, c := range []struct {
		name    string
		modules map[string]string
		place   string // file:line:column, or what of it there is
		message string // a part
	}{
		{"syntax", module("decision := {\n  \"effect\" \"allow\"\n}"), "routing.rego:4:12", "unexpected"},
		{"second file", map[string]string{"a.rego": module(allowAll)["routing.rego"], "b.rego": "package chartergate.routing\n\nx := }"}, "b.rego:3:6", "unexpected }"},
		{"old syntax", module("decision = x { x := 1 }"), "routing.rego:3:1", "`if` keyword"},
		{"typo at the top", module("decision := input.budgt.id"), "routing.rego:3:13", "undefined ref: input.budgt.id: there is no budgt, there is able, budget, budgets, catalog"},
		{"typo below", module("decision := input.budget.utilisation"), "routing.rego:3:13", "there is no utilisation, there is alert, currency, end_unix, escalated, exhausted, forecast, id, limit_nanos, over_alert, owner, per, period, start_unix, utilization: did you mean utilization?"},
		{"typo in a loop", module("decision := 1 if {\n\tsome b in input.budgets\n\tb.overalert\n}"), "routing.rego:5:2", "there is no overalert"},
		{"typo by import", module("import input.request as r\n\ndecision := r.tear"), "routing.rego:5:13", "there is no tear"},
		{"type", module("decision := input.request.tier + 1"), "routing.rego:3:13", "invalid argument"},
		{"no decision", module("decison := 1"), "routing.rego:1:1", "there is no rule decision"},
		{"decision below", map[string]string{"lib.rego": "package chartergate.routing.lib\n\n" + allowAll}, "lib.rego:1:1", "there is no rule decision"},
		{"mocked builtin", module("x := floor(input.budget.utilization)\n\ny := floor(1)\n\ndecision := v if v := x with floor as y"), "routing.rego:7:", "the function floor is replaced"},
		{"mocked function", module("f(x) := x\n\ng(_) := 2\n\ndecision := v if v := f(1) with f as g"), "routing.rego:7:", "the function f is replaced"},
		{"function", module("decision(x) := x"), "routing.rego:3:1", "decision is a function"},
		{"package", map[string]string{"p.rego": "package routing\n\n" + allowAll}, "p.rego:1:1", "the package is routing, it must be chartergate.routing"},
		{"package with the same start", map[string]string{"p.rego": "package chartergate.routings\n\n" + allowAll}, "p.rego:1:1", "it must be chartergate.routing"},
		{"http", module(`decision := http.send({"method": "get", "url": "http://127.0.0.1"})`), "routing.rego:3:13", "undefined function http.send: policies call functions of their arguments alone"},
		{"clock", module(`decision := time.now_ns()`), "routing.rego:3:13", "undefined function time.now_ns"},
		{"chance", module(`decision := rand.intn("x", 9)`), "routing.rego:3:13", "undefined function rand.intn"},
		{"uuid", module(`decision := uuid.rfc4122("x")`), "routing.rego:3:13", "undefined function uuid.rfc4122"},
		{"runtime", module(`decision := opa.runtime()`), "routing.rego:3:13", "undefined function opa.runtime"},
		{"network", module(`decision := net.lookup_ip_addr("localhost")`), "routing.rego:3:13", "undefined function net.lookup_ip_addr"},
		{"trace", module(`decision if trace("x")`), "routing.rego:3:13", "undefined function trace"},
		{"unused variable", module("decision := 1 if {\n\tx := 2\n}"), "routing.rego:4:2", "assigned var x unused"},
		{"unused import", module("import data.x\n\n" + allowAll), "routing.rego:3:1", "unused"},
		{"recursion", module("decision := x\n\nx := y\n\ny := x"), "routing.rego:5:1", "recursive"},
		{"unsafe", module("decision := x if not x"), "routing.rego:3:", "unsafe"},
		{"two defaults", module("default decision := 1\n\ndefault decision := 2"), "routing.rego:", "multiple default rules"},
		{"no files", nil, "", "no file"},
		{"only tests", map[string]string{"a_test.rego": "package chartergate.routing_test"}, "", "no file"},
		{"empty", map[string]string{"a.rego": ""}, "a.rego", "empty"},
		{"too many", many, "", "at most 32 files"},
		{"too big", map[string]string{"big.rego": strings.Repeat("#", MaxModuleBytes+1)}, "big.rego: ", "at most 262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Compile(c.modules)
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("Compile gives %v, want *InvalidError", err)
			}
			if text := err.Error(); !strings.HasPrefix(text, c.place) || !strings.Contains(text, c.message) || strings.Contains(text, "\n") {
				t.Errorf("the error is\n%s\nwant one line that starts with %q and has %q", text, c.place, c.message)
			}
		})
	}
}

// TestCompileRefusesDecisions has what is wrong with a decision before any call is decided.
func TestCompileRefusesDecisions(t *testing.T) {
	const decision = "routing.rego:3:"
	for _, c := range []struct{ name, body, problem string }{
		{"unknown field", `decision := {"effect": "allow", "teirs": ["economy"]}`, decision + `33: decision has the field "teirs", which nobody reads, it can have effect, max_input_tokens, max_output_tokens, models, prompt_cache, reasons, tiers, trim_context_to_tokens: did you mean tiers?`},
		{"effect by value", `decision := {"effect": "alow", "tiers": ["economy"]}`, decision + `24: decision.effect is "alow", which it cannot be, but allow, deny, downgrade, throttle: did you mean allow?`},
		{"no effect", `decision := {"tiers": ["economy"]}`, decision + "13: decision has no effect: it is"},
		{"not an object", `decision := "allow"`, decision + "13: decision is a string, it must be an object"},
		{"a set", `decision contains "allow"`, decision + "1: decision is a set, it must be an object"},
		{"tiers of a string", `decision := {"effect": "allow", "tiers": "economy"}`, decision + "42: decision.tiers is a string, it must be an array"},
		{"tiers of a number", `decision := {"effect": "allow", "tiers": [input.request.tier, 1]}`, decision + "63: decision.tiers has a number in it, which must be a string"},
		{"tiers of a set", `decision := {"effect": "allow", "tiers": {t | some t in input.able.tiers}}`, decision + "42: decision.tiers is a set, it must be an array"},
		{"no tier", `decision := {"effect": "allow", "tiers": []}`, decision + "42: decision.tiers is empty"},
		{"cap of the input's type", `decision := {"effect": "deny", "max_input_tokens": input.request.tier}`, decision + "52: decision.max_input_tokens is a string, it must be a number"},
		{"cap of a function's type", `decision := {"effect": "deny", "max_input_tokens": sprintf("%d", [3])}`, decision + "52: decision.max_input_tokens is a string"},
		{"negative cap", `decision := {"effect": "deny", "max_input_tokens": -1}`, decision + "52: decision.max_input_tokens is -1"},
		{"prompt cache", `decision := {"effect": "deny", "prompt_cache": "6m"}`, decision + `48: decision.prompt_cache is "6m", which it cannot be, but 1h, 5m, off`},
		{"by default", "default decision := {\"effect\": \"denny\"}", decision + `32: decision.effect is "denny"`},
		{"in an else", "decision := {\"effect\": \"deny\"} if input.budget.exhausted\n\nelse := {\"efect\": \"allow\"}", "routing.rego:5:10: decision has the field \"efect\""},
		{"by another rule", "decision := {\"effect\": effect}\n\neffect := \"throtle\" if input.budget.exhausted\n\nelse := \"allow\"", `routing.rego:5:11: decision.effect is "throtle", which it cannot be, but allow, deny, downgrade, throttle: did you mean throttle?`},
		{"by a variable", "decision := d if {\n\td := {\"effect\": 1}\n}", "routing.rego:4:18: decision.effect is 1"},
		{"by a union", "decision := object.union({\"effect\": \"deny\"}, {\"reason\": \"x\"})", decision + `47: decision has the field "reason"`},
		{"union without effect", "decision := object.union_n([{\"tiers\": [\"economy\"]}, more])\n\nmore := {\"reasons\": [\"x\"]}", decision + "13: decision has no effect"},
		{"by field", "decision.effect := \"allow\"\n\ndecision.tier := [\"economy\"]", `routing.rego:5:1: decision has the field "tier"`},
		{"undefined", `decision := {"effect": "deny"} if input.budget.exhausted`, decision + "1: decision can be undefined: give it a default"},
		{"undefined below", "decision := {\"effect\": effect}\n\neffect := \"deny\" if input.budget.exhausted", "routing.rego:5:1: effect can be undefined, and decision with it"},
		{"data", `decision := {"effect": "deny", "reasons": data.reasons}`, decision + "43: undefined ref: data.reasons: data has no reasons, it has chartergate, config"},
		{"config", `decision := {"effect": "deny", "max_input_tokens": data.config.context.max_input_token}`, decision + "52: undefined ref: data.config.context.max_input_token: there is no max_input_token, there is max_input_tokens, max_output_tokens, trim_to_tokens: did you mean max_input_tokens?"},
		{"rule of the policy", "import data.chartergate.routing\n\ndecision := {\"effect\": \"deny\", \"reasons\": routing.reason}\n\nreasons := []", "routing.rego:5:43: undefined ref: data.chartergate.routing.reason: data.chartergate.routing has no reason, it has decision, reasons: did you mean reasons?"},
		{"library", "import data.chartergate.lib.tier\n\ndecision := tier.x", "routing.rego:3:8: there is no data.chartergate.lib.tier in the library: did you mean data.chartergate.lib.tiers?"},
		{"function of the library", "import data.chartergate.lib.tiers\n\ndecision := tiers.rnk([], \"\")", "routing.rego:5:13: undefined function data.chartergate.lib.tiers.rnk: did you mean data.chartergate.lib.tiers.rank?"},
		{"function", `decision := {"effect": "deny", "reasons": [sprntf("x", [])]}`, decision + "44: undefined function sprntf: did you mean sprintf?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Compile(module(c.body)); err == nil || !strings.HasPrefix(err.Error(), c.problem) {
				t.Errorf("the error is\n%v\nwant it to start with\n%s", err, c.problem)
			}
		})
	}
}

func TestInvalidErrorCountsProblems(t *testing.T) {
	_, err := Compile(module("decision := input.a\n\nx := input.b\n\ny := input.c"))
	var invalid *InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) != 3 {
		t.Fatalf("Compile gives %v, want three problems", err)
	}
	for i, p := range invalid.Problems {
		if p.File != "routing.rego" || p.Line != 3+2*i {
			t.Errorf("problem %d is at %s:%d", i, p.File, p.Line)
		}
	}
	if text := err.Error(); !strings.HasSuffix(text, "(and 2 more problems)") {
		t.Errorf("the error is %q", text)
	}
}

func TestCompileTakes(t *testing.T) {
	lib := map[string]string{"lib.rego": "package chartergate.routing.lib\n\ncheap := [\"economy\"]"}
	split := module(`import data.chartergate.routing.lib` + "\n\n" + `decision := {"effect": "allow", "tiers": lib.cheap}`)
	maps.Copy(split, lib)
	withTests := module(allowAll)
	withTests["routing_test.rego"] = "package chartergate.routing_test\n\ntest_typo if input.budgt"
	for name, modules := range map[string]map[string]string{
		"plain":     module(allowAll),
		"rego.v1":   module("import rego.v1\n\n" + allowAll),
		"two files": split,
		"tests":     withTests,
		"print":     module("decision := {\"effect\": \"allow\", \"tiers\": [\"economy\"]} if {\n\tprint(input.request.tier)\n}"),
		"by field":  module("decision.effect := \"allow\"\n\ndecision.tiers := [\"economy\"]"),
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := decideOnce(t, modules)
			if err != nil {
				t.Fatal(err)
			}
			if len(plan.Tiers) != 1 || plan.Tiers[0] != "economy" {
				t.Errorf("the plan is %+v", plan)
			}
		})
	}
}
