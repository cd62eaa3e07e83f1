package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/decisionlog"
)

// What is exported of decisions, and sent as they are kept, plain OPA decides alike from its input.
func TestDecisionLog(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "decisions.jsonl")
	grpcAddr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	httpAddr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server, err := startChild(t.Context(), dir, grpcAddr, httpAddr, "serve", "--data-dir", filepath.Join(dir, "data"), "--grpc-addr", grpcAddr, "--http-addr", httpAddr,
		"--sample-decisions", "100", "--decision-log", file)
	if err != nil {
		t.Fatal(err)
	}
	c := cli{t, []string{"--server", grpcAddr}}
	c.ok("apply", "-f", "../../examples/acme")
	team := "package chartergate.routing\n\ndefault decision := {\"effect\": \"allow\", \"tiers\": [\"standard\", \"economy\"]}\n\ndecision := {\"effect\": \"deny\", \"reasons\": [sprintf(\"%d tokens are too many.\", [input.request.input_tokens])]} if input.request.input_tokens > 1500\n"
	store := filepath.Join(dir, "policy")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "routing.rego"), []byte(team), 0o600); err != nil {
		t.Fatal(err)
	}
	reserve := func(tokens string) {
		_, _, _ = c.run("", "reserve", "--feature", "support-copilot", "--task-class", "chat", "--cohort", "all", "--input-tokens", tokens, "--max-output-tokens", "400")
	}
	reserve("1200")
	reserve("90000")
	c.ok("policy", "create", store, "--policy", "feature.support-copilot", "--activate", "--wait", "--message", "caps the input")
	reserve("1201")
	reserve("1600")
	var lines []string
	deadline, tick := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for len(lines) < 4 {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		select {
		case <-deadline:
			t.Fatalf("only %d events were sent:\n%s", len(lines), text)
		case <-tick.C:
		}
	}
	exported := strings.Split(strings.TrimSpace(c.ok("policy", "decisions")), "\n")
	if len(exported) != 4 {
		t.Errorf("%d events are exported, want 4", len(exported))
	}
	if text := strings.Join(exported, "\n"); strings.Contains(text, `"input_control_revision":0`) || !strings.Contains(lines[0], `"input_control_revision":`) {
		t.Errorf("the export tells of a control revision that it does not know, or the log does not tell its own: %s", text)
	}
	denied, cached := 0, 0
	for _, line := range append(lines, exported...) {
		var e decisionlog.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		modules := policy.Builtin()
		for name := range e.Bundles {
			if name == "policies/feature.support-copilot" {
				modules = map[string]string{"routing.rego": team}
			}
		}
		if e.Path != decisionlog.Path || e.Result == nil || len(e.Bundles) != 1 || e.Timestamp.IsZero() || e.MappedResult == nil {
			t.Errorf("the event is %s", line)
			continue
		}
		if says, answered := e.Result.(map[string]any)["prompt_cache"], e.MappedResult.(map[string]any)["prompt_cache"]; says != nil && answered != nil && says != answered {
			t.Errorf("the policy's prompt cache is %v, the answer's %v", says, answered)
		}
		if e.MappedResult.(map[string]any)["prompt_cache"] == "5m" {
			cached++
		}
		plain := plainDecision(t, modules, e.Input)
		if !reflect.DeepEqual(plain, e.Result) {
			t.Errorf("plain OPA says %v of the input, the event %v", plain, e.Result)
		}
		if plain.(map[string]any)["effect"] == "deny" {
			denied++
		}
	}
	if cached == 0 {
		t.Error("no answer has the advice on prompt caches")
	}
	if denied != 2 {
		t.Errorf("%d events are denials, want that of 1,600 tokens, sent and exported", denied)
	}
	stopChild(t, server)
}

// plainDecision evaluates a policy with OPA alone.
func plainDecision(t *testing.T, modules map[string]string, input any) any {
	t.Helper()
	data, err := policy.Data(modules)
	if err != nil {
		t.Fatal(err)
	}
	options := []func(*rego.Rego){rego.Query("data.chartergate.routing.decision"), rego.Input(input), rego.Store(inmem.NewFromObject(data))}
	for name, text := range modules {
		if name != policy.DataFile {
			options = append(options, rego.Module(name, text))
		}
	}
	results, err := rego.New(options...).Eval(t.Context())
	if err != nil || len(results) != 1 {
		t.Fatalf("plain OPA gives %v, %v", results, err)
	}
	text, err := json.Marshal(results[0].Expressions[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	return value
}
