package vetting

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/policy"
)

// TestMain lets this test program be the child, as the command is of the server.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		if err := Child(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const head = "package chartergate.routing\n\n"

const allow = head + "decision := {\"effect\": \"allow\", \"tiers\": [\"economy\"]}\n"

func vet(t *testing.T, change func(*Vetter), modules map[string]string) (*policy.Verdict, error) {
	t.Helper()
	v := New(os.Args[0], "child")
	if change != nil {
		change(v)
	}
	return v.Vet(t.Context(), modules)
}

func TestVerdicts(t *testing.T) {
	tests := "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_allows if routing.decision.effect == \"allow\"\n\ntest_economy if routing.decision.tiers == [\"economy\"]\n"
	if v, err := vet(t, nil, map[string]string{"routing.rego": allow, "routing_test.rego": tests}); err != nil || v.Tests != 2 || len(v.Failed)+len(v.Problems) > 0 {
		t.Errorf("a good policy: %+v, %v", v, err)
	}
	bad := tests + "\ntest_denies if routing.decision.effect == \"deny\"\n"
	v, err := vet(t, nil, map[string]string{"routing.rego": allow, "routing_test.rego": bad})
	if err != nil || len(v.Failed) != 1 || v.Failed[0].String() != "routing_test.rego:9: test_denies: line 9 is not true: routing.decision.effect == \"deny\"" {
		t.Errorf("a failing test: %+v, %v", v, err)
	}
	endless := "package chartergate.routing_test\n\nns := numbers.range(1, 9000)\n\ntest_endless if {\n\tsome a in ns\n\tsome b in ns\n\ta * b < 0\n}\n"
	v, err = vet(t, nil, map[string]string{"routing.rego": allow, "slow_test.rego": endless})
	if err != nil || len(v.Failed) != 1 || !strings.HasSuffix(v.Failed[0].String(), "it took longer than 1s") {
		t.Errorf("an endless test: %+v, %v", v, err)
	}
	v, err = vet(t, nil, map[string]string{"routing.rego": head + "decision := input.budgt"})
	if err != nil || len(v.Problems) != 1 || v.Problems[0].Line != 3 {
		t.Errorf("a typo: %+v, %v", v, err)
	}
	v, err = vet(t, nil, map[string]string{"routing.rego": allow, "net_test.rego": "package chartergate.routing_test\n\ntest_net if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})\n"})
	if err != nil || len(v.Problems) != 1 || !strings.Contains(v.Problems[0].String(), "net_test.rego:3:13: undefined function http.send") {
		t.Errorf("a test with http.send: %+v, %v", v, err)
	}
}

// long takes the compiler far more than a second.
func long() string {
	b := strings.Builder{}
	b.WriteString(head + "decision := {\"effect\": \"deny\"} if {\n\ta0 := 1\n")
	for i := 1; i < 9000; i++ {
		fmt.Fprintf(&b, "\ta%d := a%d + 1\n", i, i-1)
	}
	b.WriteString("\ta8999 > 0\n}\n")
	return b.String()
}

// chained has rules that lead to one another, each through a body of 40 expressions.
func chained() string {
	b := strings.Builder{}
	b.WriteString(head + "x0 := 1\n")
	for r := 1; r < 260; r++ {
		fmt.Fprintf(&b, "\nx%d := a39 if {\n\ta0 := x%d + 1\n", r, r-1)
		for i := 1; i < 40; i++ {
			fmt.Fprintf(&b, "\ta%d := a%d + 1\n", i, i-1)
		}
		b.WriteString("}\n")
	}
	b.WriteString("\ndecision := {\"effect\": \"deny\"} if x259 > 0\n")
	return b.String()
}

// big has as many rules as fit.
func big() map[string]string {
	modules := map[string]string{"routing.rego": allow}
	for f := range 3 {
		b := strings.Builder{}
		b.WriteString(head)
		for i := 0; b.Len() < policy.MaxModuleBytes-100; i++ {
			fmt.Fprintf(&b, "r%d_%d := [[[1, 2, 3], {\"a\": 4}], %d]\n\n", f, i, i)
		}
		modules[fmt.Sprintf("big%d.rego", f)] = b.String()
	}
	return modules
}

// wide doubles the type of a rule 30 times: what the compiler makes of it does not fit a process.
func wide() string {
	b := strings.Builder{}
	b.WriteString(head + "x0 := [1]\n\ny0 := [2]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&b, "\nx%d := [x%d, x%d]\n\ny%d := [y%d, y%d]\n", i, i-1, i-1, i, i-1, i-1)
	}
	b.WriteString("\ndecision := {\"effect\": \"deny\"} if x39 == y39\n")
	return b.String()
}

func TestLimits(t *testing.T) {
	costly := func(name, limit, problem string, change func(*Vetter), modules map[string]string) {
		t.Helper()
		start := time.Now()
		_, err := vet(t, change, modules)
		if err != nil && strings.Contains(err.Error(), "for -race mode") {
			t.Logf("%s: left out, the race detector needs more memory: %v", name, err)
			return
		}
		var c *CostlyError
		if !errors.As(err, &c) || c.Limit != limit || !strings.Contains(c.Problem, problem) {
			t.Errorf("%s: %v, want a limit of %s", name, err, limit)
		}
		t.Logf("%s: %v after %s", name, err, time.Since(start).Round(time.Millisecond))
	}
	second := func(v *Vetter) { v.CPU = time.Second }
	costly("processor", "1s", "processor time", second, map[string]string{"routing.rego": long()})
	costly("types", "1s", "processor time", second, map[string]string{"routing.rego": wide()})
	costly("clock", "100ms", "longer than", func(v *Vetter) { v.Wall = 100 * time.Millisecond }, map[string]string{"routing.rego": long()})
	costly("memory", "64 MiB", "of memory", func(v *Vetter) { v.Memory = 64 << 20 }, big())
	costly("decision", "10ms", "deciding an example", nil, map[string]string{"routing.rego": head +
		"decision := {\"effect\": \"deny\"} if {\n\tsome a in numbers.range(1, 9000)\n\tsome b in numbers.range(1, 9000)\n\ta * b < 0\n} else := {\"effect\": \"allow\"}\n"})
}

// What there is to say of tests must fit an answer.
func TestReports(t *testing.T) {
	b := strings.Builder{}
	b.WriteString("package chartergate.routing_test\n")
	const tests = 1000
	for i := range tests {
		fmt.Fprintf(&b, "\ntest_%d if true\n", i)
	}
	modules := map[string]string{"routing.rego": allow, "routing_test.rego": b.String()}
	report, err := New(os.Args[0], "child").Test(t.Context(), modules)
	if err != nil || len(report.Tests) != tests || len(report.Failed()) != 0 || report.Coverage.Permille() != 0 {
		t.Fatalf("many tests: %v", err)
	}
	name := strings.Repeat("long/", 1000) + "routing_test.rego"
	modules[name] = b.String()
	delete(modules, "routing_test.rego")
	var costly *CostlyError
	if _, err := New(os.Args[0], "child").Test(t.Context(), modules); !errors.As(err, &costly) || costly.Limit != "4 MiB" {
		t.Errorf("tests with a long name: %v", err)
	}
	var bad *policy.InvalidError
	if _, err := New(os.Args[0], "child").Test(t.Context(), map[string]string{"routing.rego": head + "decision := input.budgt"}); !errors.As(err, &bad) || bad.Problems[0].Line != 3 {
		t.Errorf("a typo: %v", err)
	}
}

func TestCancelledCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := New(os.Args[0], "child").Vet(ctx, map[string]string{"routing.rego": long()}); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
}

// TestChildKnowsNothing looks at what a child is started with.
func TestChildKnowsNothing(t *testing.T) {
	t.Setenv("CHARTERGATE_ETCD_PASSWORD", "secret")
	v := New("/bin/sh", "-c", "env >&2; exit 1")
	_, err := v.Vet(t.Context(), map[string]string{"routing.rego": allow})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error is %v", err)
	}
}
