package policy

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const testedPolicy = `decision := {"effect": "allow", "tiers": tiers, "reasons": ["because"]}

tiers := ["economy"] if {
	input.request.cohort == "interns"
} else := ["standard"]`

func tested(t *testing.T, tests string, o TestOptions) *TestReport {
	t.Helper()
	modules := module(testedPolicy)
	modules["routing_test.rego"] = "package chartergate.routing_test\n\nimport data.chartergate.routing\n\n" + tests
	r, err := Test(context.Background(), modules, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTestsRun(t *testing.T) {
	r := tested(t, `test_interns if routing.tiers == ["economy"] with input as {"request": {"cohort": "interns"}}

test_wrong if {
	wanted := "premium"
	some tier in routing.tiers with input as {"request": {"cohort": "all"}}
	tier == wanted
}

test_conflict if {
	f(1) == 1
}

f(x) := 1 if x > 0

f(x) := 2 if x < 2

todo_test_later if false
`, TestOptions{Coverage: true})
	want := []struct {
		name, problem   string
		passed, skipped bool
		line            int
	}{
		{"test_interns", "", true, false, 5},
		{"test_wrong", `line 10 is not true: tier == wanted, where tier is "standard", wanted is "premium"`, false, false, 7},
		{"test_conflict", "eval_conflict_error", false, false, 13},
		{"todo_test_later", "", false, true, 21},
	}
	if len(r.Tests) != len(want) {
		t.Fatalf("there are %d results: %+v", len(r.Tests), r.Tests)
	}
	for i, w := range want {
		got := r.Tests[i]
		if got.Name != w.name || got.Line != w.line || got.Passed != w.passed || got.Skipped != w.skipped || !strings.Contains(got.Problem, w.problem) ||
			got.File != "routing_test.rego" {
			t.Errorf("result %d is %+v, want %+v", i, got, w)
		}
	}
	if failed := r.Failed(); len(failed) != 2 {
		t.Errorf("%d tests failed, want 2", len(failed))
	}
	// No test asks for the decision itself.
	if c := r.Coverage; c.Covered != 3 || c.Lines != 4 || c.Permille() != 750 || len(c.Files) != 1 || !slices.Equal(c.Files[0].Uncovered, []LineRange{{3, 3}}) {
		t.Errorf("the coverage is %+v", c)
	}
}

func TestCoverageNamesTheLines(t *testing.T) {
	r := tested(t, `test_interns if routing.tiers == ["economy"] with input as {"request": {"cohort": "interns"}}`, TestOptions{Coverage: true})
	f := r.Coverage.Files[0]
	// Line 3 is the decision, line 7 the other tier: neither was asked for.
	if want := []LineRange{{3, 3}, {7, 7}}; !slices.Equal(f.Uncovered, want) || f.Covered != 2 || f.Lines != 4 || f.Permille() != 500 {
		t.Errorf("the coverage is %+v, want %v not covered", f, want)
	}
}

func TestOnlyTestsThatMatch(t *testing.T) {
	r := tested(t, "test_a if true\n\ntest_b if false\n", TestOptions{Run: regexp.MustCompile("_a$")})
	if len(r.Tests) != 1 || r.Tests[0].Name != "test_a" || r.Coverage != nil {
		t.Errorf("the report is %+v", r)
	}
}

func TestTestsAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ test, want string }{
		"syntax":  {"test_a if {", "routing_test.rego:"},
		"network": {`test_a if http.send({"method": "get", "url": "http://127.0.0.1"})`, "undefined function http.send"},
		"unsafe":  {"test_a if x", "unsafe"},
	} {
		modules := module(testedPolicy)
		modules["routing_test.rego"] = "package chartergate.routing_test\n\n" + c.test
		if _, err := Test(context.Background(), modules, TestOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, c.want)
		}
	}
}

// What a test names and no file has is told, with what could be meant, before the test is run.
func TestTypos(t *testing.T) {
	routing := "package chartergate.routing\n\ndecision := {\"effect\": \"allow\", \"tiers\": data.config.own.tiers} if frugal\nelse := {\"effect\": \"allow\"}\n\nfrugal if input.request.cohort == \"interns\"\n"
	tests := "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_it if decide(\"interns\").effect == \"allow\"\n\n" +
		"decide(c) := d if d := routing.decision with input.request.cohort as c with data.config.own as {\"tiers\": []}\n"
	for _, c := range []struct{ file, old, typo, problem string }{
		{"routing.rego", "if frugal", "if frugl", "routing.rego:3:68: var frugl is unsafe: it is no rule or import, and nothing gives it a value: did you mean frugal?"},
		{"routing.rego", "config.own", "config.onw", "routing.rego:3:42: undefined ref: data.config.onw.tiers: data.config has no onw, it has "},
		{"routing.rego", "decision :=", "defualt decision :=", "routing.rego:3:1: var cannot be used for rule name: a rule begins with its name"},
		{"routing_test.rego", "routing.decision", "routing.decison", "routing_test.rego:7:24: undefined ref: data.chartergate.routing.decison: data.chartergate.routing has no decison, it has decision, frugal: did you mean decision?"},
		{"routing_test.rego", "import data.chartergate.routing", "import data.chartergate.rooting", "routing_test.rego:3:8: undefined ref: data.chartergate.rooting: "},
		{"routing_test.rego", "data.config.own", "data.config.onw", "routing_test.rego:7:77: undefined ref: data.config.onw: data.config has no onw"},
		{"routing_test.rego", "if decide(", "if decid(", "routing_test.rego:5:12: undefined function decid: did you mean decide?"},
		{"routing_test.rego", "\"interns\").", "intern).", "routing_test.rego:5:12: var intern is unsafe: it is no rule or import"},
	} {
		modules := map[string]string{"routing.rego": routing, "routing_test.rego": tests, DataFile: `{"config": {"own": {"tiers": ["economy"]}}}`}
		modules[c.file] = strings.Replace(modules[c.file], c.old, c.typo, 1)
		_, err := Test(t.Context(), modules, TestOptions{})
		if err == nil || !strings.HasPrefix(err.Error(), c.problem) {
			t.Errorf("%s: %v\nwant %s", c.typo, err, c.problem)
		}
	}
}
