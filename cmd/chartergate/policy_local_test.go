package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const localPolicy = `package chartergate.routing

decision := {"effect": "allow", "tiers": tiers, "reasons": ["because"]}

tiers := ["economy"] if {
	input.request.cohort == "interns"
} else := ["standard"]
`

const localTests = `package chartergate.routing_test

import data.chartergate.routing

test_interns if {
	decision := routing.decision with input as {"request": {"cohort": "interns"}}
	decision.tiers == ["economy"]
}
`

func policyDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What is no text is told of by file and line before it is sent.
func TestPolicyUploadOfNoText(t *testing.T) {
	dir := policyDir(t, map[string]string{"lib/routing.rego": "package chartergate.routing\n\n# caf\xe9\n"})
	c := cli{t: t}
	for _, args := range [][]string{{"create", dir, "-m", "x"}, {"simulate", dir}} {
		c.fails(exitFailed, []string{"lib/routing.rego:3:6: the file is not UTF-8"}, append([]string{"policy"}, args...)...)
	}
}

func TestPolicyTest(t *testing.T) {
	c := cli{t: t}
	good := policyDir(t, map[string]string{"routing.rego": localPolicy, "sub/routing_test.rego": localTests, ".hidden/x.rego": "nonsense", "notes.txt": "x"})
	c.contains(c.ok("policy", "test", good, "-v", "--coverage"), "test_interns", "sub/routing_test.rego:5", "1 test: 1 passed, 0 failed", "routing.rego", "75.0%", "  7")
	c.contains(c.ok("policy", "test", good, "-o", "json", "--coverage"), `"coverage_permille": 750`, `"passed": true`, "\"uncovered_ranges\": [\n        7,\n        7\n")
	exit, out, errs := c.run("", "policy", "test", good, "--threshold", "80")
	if exit != exitFailed || !strings.Contains(out, "1 passed") || errs != "chartergate: the tests cover 75.0% of the lines, less than the 80% of --threshold\n" {
		t.Errorf("below the threshold: exit %d, %q", exit, errs)
	}
	bad := policyDir(t, map[string]string{"routing.rego": localPolicy, "routing_test.rego": strings.Replace(localTests, `["economy"]`, `["premium"]`, 1)})
	exit, out, errs = c.run("", "policy", "test", bad)
	if exit != exitFailed || errs != "chartergate: 1 of 1 test fails\n" {
		t.Errorf("a failed test: exit %d, %q", exit, errs)
	}
	c.contains(out, "test_interns  routing_test.rego:5  failed", `line 7 is not true: decision.tiers == ["premium"], where decision is {"effect": "allow", "reasons": ["because"], "tiers": ["economy"]}`)
	none := policyDir(t, map[string]string{"routing.rego": localPolicy})
	if _, _, errs = c.run("", "policy", "test", none); !strings.Contains(errs, "has no tests: write rules that begin with test_") {
		t.Errorf("without tests: %q", errs)
	}
	c.fails(exitFailed, []string{"there is no directory", "policy init"}, "policy", "test", filepath.Join(none, "missing"))
	c.fails(exitFailed, []string{"has no file of Rego"}, "policy", "test", t.TempDir())
	c.fails(exitFailed, []string{"routing.rego:3:"}, "policy", "test", policyDir(t, map[string]string{"routing.rego": "package chartergate.routing\n\ndecision := }"}))
	c.fails(exitUsage, []string{"name one directory"}, "policy", "test")
	c.fails(exitUsage, []string{"--run"}, "policy", "test", good, "--run", "(")
}

func TestPolicyFmtAndLint(t *testing.T) {
	c := cli{t: t}
	dir := policyDir(t, map[string]string{"routing.rego": strings.ReplaceAll(localPolicy, "\t", "    "), "routing_test.rego": localTests})
	file := filepath.Join(dir, "routing.rego")
	if out := c.ok("policy", "fmt", dir); out != file+"\n" {
		t.Errorf("fmt lists %q", out)
	}
	exit, _, errs := c.run("", "policy", "fmt", dir, "--check")
	if exit != exitFailed || !strings.Contains(errs, "1 file is not formatted: `chartergate policy fmt "+dir+" --write` does it") {
		t.Errorf("--check: exit %d, %q", exit, errs)
	}
	c.contains(c.ok("policy", "lint", dir), "hint: routing.rego: it is not formatted")
	c.ok("policy", "fmt", dir, "-w")
	if text, err := os.ReadFile(file); err != nil || string(text) != localPolicy {
		t.Errorf("%v: the file is now\n%s", err, text)
	}
	if out := c.ok("policy", "fmt", dir, "--check"); out != "" {
		t.Errorf("after it fmt lists %q", out)
	}
	if out := c.ok("policy", "lint", dir); out != "Nothing found.\n" {
		t.Errorf("lint finds %q", out)
	}
	dir = policyDir(t, map[string]string{"routing.rego": localPolicy})
	exit, out, errs := c.run("", "policy", "lint", dir, "--strict", "-o", "json")
	if exit != exitFailed || errs != "chartergate: 1 warning\n" {
		t.Errorf("--strict: exit %d, %q", exit, errs)
	}
	c.contains(out, `"rule": "no-tests"`, `"level": "warning"`)
}

func TestPolicyBench(t *testing.T) {
	c := cli{t: t}
	dir := policyDir(t, map[string]string{"routing.rego": localPolicy})
	c.contains(c.ok("policy", "bench", dir, "--duration", "20ms"), "as a server decides", "anew for each call", "plain OPA", "20,000 calls; 100.0% of them", "10 decisions are remembered.")
	trace := policyDir(t, map[string]string{"trace.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"})
	c.contains(c.ok("policy", "bench", dir, "--duration", "20ms", "-o", "json", "--trace", filepath.Join(trace, "trace.csv")), `"inputs": 2`, `"plain_opa"`)
	c.fails(exitUsage, []string{"--duration"}, "policy", "bench", dir, "--duration", "1ms")
	c.fails(exitFailed, []string{"routing.rego:1: the header is"}, "policy", "bench", dir, "--trace", filepath.Join(dir, "routing.rego"))
}

func TestTimes(t *testing.T) {
	for ratio, want := range map[float64]string{0.68: "0.7x", 1: "1.0x", 9.94: "9.9x", 9.96: "10x", 187.4: "187x"} {
		if got := times(ratio); got != want {
			t.Errorf("%v is told as %s, want %s", ratio, got, want)
		}
	}
}
