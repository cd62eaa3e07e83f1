package policy

import (
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	modules := module(`decision := {"effect": "allow", "tiers": ["economy"]}

helper if input.request.cohort == "a"

used := 1`)
	modules["routing_test.rego"] = "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_a if routing.helper with input as {\"request\": {\"cohort\": \"a\"}}\n"
	var got []string
	for _, f := range Lint(modules) {
		got = append(got, f.String())
	}
	want := []string{
		"hint: routing.rego:3:13: this decision gives no reasons: callers and reviewers will ask why (no-reasons)",
		"warning: routing.rego:5:1: nothing uses helper: remove it, or let decision read it (unused-rule)",
		"warning: routing.rego:7:1: nothing uses used: remove it, or let decision read it (unused-rule)",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the findings are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestLintOfWhatIsRefused(t *testing.T) {
	list := Lint(module("decision := input.budgt\n\nx := input.charta"))
	if len(list) != 2 || list[0].Level != Error || list[1].Line != 5 || !strings.Contains(list[0].String(), "there is no budgt") {
		t.Errorf("the findings are %v", list)
	}
}

func TestLintOfTheShipped(t *testing.T) {
	for _, f := range Lint(Builtin()) {
		if f.Rule != "no-tests" { // they are beside it
			t.Errorf("%s", f)
		}
	}
}
