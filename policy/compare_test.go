package policy

import (
	"strings"
	"testing"
)

func TestComparisons(t *testing.T) {
	const head = "package chartergate.routing\n\ndefault decision := {\"effect\": \"allow\"}\n\n"
	for _, c := range []struct{ condition, problem string }{
		{`input.request.input_tokens > "5"`, `5:35: input.request.input_tokens is a number, "5" is a string: > compares them by their types, not their values`},
		{`input.request.input_tokens == "5"`, "5:35: match error: a number never equals a string"},
		{`startswith(input.request.input_tokens, "5")`, "5:35: startswith: invalid argument(s): it takes a string, a string, not a number, a string"},
		{`count(input.budgets) >= "5"`, `5:35: count(input.budgets) is a number, "5" is a string`},
		{`input.request.labels.team > 5`, "5:35: input.request.labels.team is a string, 5 is a number"},
		{"{\n\tx := input.request.input_tokens\n\tx > input.request.tier\n}", "7:2: x is a number, input.request.tier is a string"},
		{"{\n\tevery b in input.budgets {\n\t\tb.utilization > true\n\t}\n}", "7:3: b.utilization is a number, true is a boolean"},
		{`input.charter.stage == "prodution"`, `5:58: input.charter.stage is never "prodution": it is "experiment", "pilot", "production", "retired": did you mean production?`},
		{`"pilots" != input.charter.stage`, `5:35: input.charter.stage is never "pilots"`},
		{`input.charter.stage in ["5", "pilot"]`, `5:59: input.charter.stage is never "5": it is`},
		{`input.charter.stage in {"pilot", "experimental"}`, `is never "experimental": it is "experiment", "pilot", "production", "retired": did you mean experiment?`},
		{"{\n\tsome b in input.budgets\n\tb.period == \"dayly\"\n}", `7:14: b.period is never "dayly": it is "day", "week", "month", "quarter", "year", "window": did you mean day?`},
		{"{\n\tsome i, b in input.budgets\n\tb.per in [\"users\"]\n\ti > 1\n}", `b.per is never "users": it is "", "user", "cohort", "agent", "run": did you mean user?`},
		{`count([1 | some i; input.budgets[i].per == "users"]) > 0`, `.per is never "users"`},
		{"input.time.weekday == \"Monday\"\nelse := {\"effect\": \"deny\"} if input.time.weekday == \"monday\"", `6:1: input.time.weekday is never "monday": it is`},
	} {
		_, err := Compile(map[string]string{"routing.rego": head + "decision := {\"effect\": \"deny\"} if " + c.condition + "\n"})
		if err == nil || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s\ngives %v\nwant  %s", c.condition, err, c.problem)
		}
	}
	for _, condition := range []string{
		`input.request.input_tokens > 5`, `input.charter.stage in ["pilot"]`, `input.charter.stage != "retired"`, `input.request.tier == "anything"`,
		`input.budgets[_].per == ""`, `input.request.tool_calls.search > 3`, `input.request.labels["team"] != "x"`, `count(input.budgets) > input.time.hour`,
		"{\n\tsome x in [\"Monday\", 3]\n\tx == input.time.weekday\n}", "{\n\tx := input.request.tier\n\tx > \"a\"\n}", `sprintf("%d", [5]) < "7"`,
		"{\n\tsome m in input.catalog.models\n\tm.input_nanos_per_mtok < 10\n\tm.tier > \"a\"\n}",
	} {
		if _, err := Compile(map[string]string{"routing.rego": head + "decision := {\"effect\": \"deny\"} if " + condition + "\n"}); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
	}
}
