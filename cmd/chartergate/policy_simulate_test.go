package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/chartergate/chartergate/policy"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// writePolicy writes the shipped policy with a change of its text.
func writePolicy(t *testing.T, old, changed string) string {
	t.Helper()
	dir, found := t.TempDir(), old == ""
	for name, text := range policy.Builtin() {
		found = found || strings.Contains(text, old)
		if old != "" {
			text = strings.ReplaceAll(text, old, changed)
		}
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !found {
		t.Fatalf("the shipped policy has no %q", old)
	}
	return dir
}

func simulated(t *testing.T, c cli, args ...string) *pb.PolicySimulation {
	t.Helper()
	var r pb.PolicySimulation
	if err := protojson.Unmarshal([]byte(c.ok(append([]string{"policy", "simulate", "-o", "json"}, args...)...)), &r); err != nil {
		t.Fatal(err)
	}
	return &r
}

// A trace through a real server, and then the same policy over what it decided: nothing changes, and the sums are the
// ledger's.
func TestSimulateWhatAServerDecided(t *testing.T) {
	addr, _ := startExamples(t, func(o *serveOptions) { o.usage.sample = 100 })
	c := cli{t, []string{"--server", addr}}
	trace, cost := writeTrace(t, 200)
	c.ok("replay", "--format", "csv", "--file", trace, "--feature", "contract-extraction", "--concurrency", "1")
	awaitReports(t, c, cost)
	same, other := writePolicy(t, "", ""), filepath.Join(t.TempDir(), "deny")
	var r *pb.PolicySimulation
	for end := time.Now().Add(10 * time.Second); r.GetDecisions() < 200 && time.Now().Before(end); { // decisions are kept a second later
		r = simulated(t, c, same, "--last", "1h")
	}
	if r.GetDecisions() != 200 || r.GetChanged() != 0 || r.GetFailed() != 0 || r.GetSkipped() != 0 {
		t.Fatalf("%v", r)
	}
	for _, s := range append(slices.Clone(r.GetFeatures()), r.GetBudgets()...) {
		if s.GetCostNanos() != cost || s.GetCandidateCostNanos() != cost || s.GetRan() != 200 {
			t.Errorf("%s: %d decided, %d with the same policy, settled %d", s.GetName(), s.GetCostNanos(), s.GetCandidateCostNanos(), cost)
		}
	}
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	deny := "package chartergate.routing\n\ndecision := {\"effect\": \"deny\", \"reasons\": [\"Not today.\"]}\n"
	if err := os.WriteFile(filepath.Join(other, "deny.rego"), []byte(deny), 0o600); err != nil {
		t.Fatal(err)
	}
	created := hashOf(policyRevision.FindString(c.ok("policy", "create", other, "-m", "because")))
	c.contains(c.ok("policy", "shadow", "--revision", created[:6], "--percent", "5"), created+" decides beside policies/routing for 5% of calls")
	c.contains(c.ok("policy", "shadow"), "0 by 1 server\n")
	c.ok("policy", "shadow", "--stop")
	out := c.ok("policy", "simulate", other, "--last", "1h")
	c.contains(out, "200 would be others (100.0%)", "deny             0        200        +200", "candidate: Not today.", "No budget runs out.")
	// The same by the trace: what it used is what was settled.
	r = simulated(t, c, other, "--trace", trace, "--format", "csv", "--feature", "contract-extraction")
	if r.GetChanged() != 200 || r.GetFeatures()[0].GetCostNanos() != cost || r.GetFeatures()[0].GetCandidateCostNanos() != 0 {
		t.Errorf("%v", r)
	}

	if r := simulated(t, c, created[:6], "--last", "1h"); r.GetChanged() != 200 {
		t.Errorf("by the start of its hash: %v", r)
	}
	c.contains(c.ok("policy", "simulate", other, "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"), "0 decisions replayed", "Nothing was there to replay: ")
	c.fails(exitFailed, []string{"routing has no revision 0123456789abcdef"}, "policy", "simulate", "0123456789abcdef")
	c.fails(exitUsage, []string{"no folder"}, "policy", "simulate", "./nowhere")
	c.fails(exitFailed, []string{"has no file of Rego"}, "policy", "simulate", t.TempDir())
	c.contains(c.ok("policy", "shadow"), "No candidate shadows policies/routing")
	c.fails(exitUsage, []string{"--percent is 200"}, "policy", "shadow", "--revision", "0123456789abcdef", "--percent", "200")
}

// The sums of a simulated trace, taken two ways, where budgets run out.
func TestSimulateATraceWithoutAServer(t *testing.T) {
	c := cli{t: t}
	trace, _ := writeTrace(t, 200)
	manifests := t.TempDir()
	for _, name := range []string{"budgets", "catalog", "charters", "prices"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", "acme", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.ReplaceAll(string(text), "limit: 40.00", "limit: 0.40"))
		if err := os.WriteFile(filepath.Join(manifests, name+".yaml"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := simulated(t, c, writePolicy(t, "", ""), "-f", manifests, "--trace", trace, "--format", "csv", "--features", "support-copilot=3,code-assistant", "--task-class", "chat")
	sums := map[string][2]int64{}
	for _, s := range r.GetFeatures() {
		sums["features"] = [2]int64{sums["features"][0] + s.GetCostNanos(), sums["features"][1] + s.GetCandidateCostNanos()}
	}
	ranOut := false
	for _, s := range r.GetBudgets() {
		kind := "other"
		switch name := strings.TrimPrefix(s.GetName(), "budgets/"); {
		case name == "acme":
			kind = "root"
		case strings.HasPrefix(name, "support-copilot"), strings.HasPrefix(name, "code-assistant"):
			kind = "leaves"
		}
		sums[kind] = [2]int64{sums[kind][0] + s.GetCostNanos(), sums[kind][1] + s.GetCandidateCostNanos()}
		ranOut = ranOut || s.GetCandidateExhaustedTime() != nil
	}
	if r.GetDecisions() != 200 || r.GetChanged() != 0 || sums["features"] != sums["root"] || sums["leaves"] != sums["root"] || sums["root"][0] == 0 || !ranOut {
		t.Errorf("%v of %v, ran out: %v", sums, slices.Sorted(maps.Keys(sums)), ranOut)
	}
}

var volatile = regexp.MustCompile(`builtin/[0-9a-f]{16}|` + `routing\.rego:\d+`)

func TestExplainInPlainWords(t *testing.T) {
	addr, client := startExamples(t, func(o *serveOptions) { o.usage.sample = 100 })
	call := &pb.Call{Feature: "support-copilot", TaskClass: "chat", Estimate: &pb.Estimate{InputTokens: 1200, MaxOutputTokens: 400}}
	x, err := client.Policies.ExplainDecision(t.Context(), &pb.ExplainDecisionRequest{Call: call, Trace: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(x.GetPolicies()) != 1 || !strings.Contains(x.GetPolicies()[0].GetTrace(), "Enter data.chartergate.routing.decision") {
		t.Errorf("%v", x)
	}
	golden(t, "explain.txt", func(w io.Writer) {
		for _, line := range x.GetSummary() {
			fmt.Fprintln(w, volatile.ReplaceAllString(line, "builtin/…"))
		}
		for _, r := range x.GetPolicies()[0].GetRules() {
			fmt.Fprintln(w, "rule", r.GetRule(), r.GetValue())
		}
		for _, r := range x.GetPolicies()[0].GetInputs() {
			fmt.Fprintln(w, "read", r.GetPath(), r.GetValue())
		}
	})
	c := cli{t, []string{"--server", addr}}
	c.fails(exitFailed, []string{"decisions/none"}, "policy", "explain", "--decision", "none")
	c.fails(exitFailed, []string{"nobody"}, "policy", "explain", "--feature", "nobody")
}
