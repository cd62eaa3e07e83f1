package vetting

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/policy"
)

// hostile gives the policies of testdata/hostile, and those that are too large for a file there or no text, by name: the file and what is
// expected of it, as its first line says.
func hostile(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../testdata/hostile/*.rego")
	if err != nil || len(files) < 24 {
		t.Fatalf("%d hostile policies, %v", len(files), err)
	}
	all := map[string]string{
		"module_10mb":   "# expect: refused: the file has 10485836 bytes, at most 262144 are allowed\n" + strings.Repeat("# a comment\n", 10<<20/12) + "#####",
		"not_utf8":      "# expect: refused: routing.rego:4:13: the file is not UTF-8\n" + head + "decision := \xff\xfe\n",
		"module_nested": "# expect: refused: routing.rego:4:113: brackets are nested more than 100 deep\n" + head + "decision := " + strings.Repeat("[", 50_000) + "\n",
	}
	all["body_long"] = "# expect: too costly: processor time\n" + long()
	all["rules_chained"] = "# expect: refused: have more than 10000 expressions one after another\n" + chained()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".rego")] = string(text)
	}
	return all
}

// A hostile policy is refused by the child, or else cut off for the input that makes it hostile.
func TestHostile(t *testing.T) {
	all := hostile(t)
	t.Logf("%-30s %-10s %8s %9s  %s", "policy", "outcome", "time", "memory", "message")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		first, _, _ := strings.Cut(all[name], "\n")
		want := strings.TrimPrefix(first, "# expect: ")
		wantOutcome, wantMessage, _ := strings.Cut(want, ": ")
		limit := 2 * time.Second
		if wantOutcome == "refused" {
			limit = DefaultCPU // the race detector makes compilers slow
		}
		outcome, message, took, memory := attack(t, map[string]string{"routing.rego": all[name]}, limit)
		t.Logf("%-30s %-10s %8s %5d MiB  %s", name, outcome, took.Round(time.Millisecond), memory>>20, message)
		asWanted := outcome == wantOutcome && strings.Contains(message, wantMessage)
		// On a slow machine a limit of time may come before the one that is meant.
		slow := strings.Contains(message, "longer than 10ms") || strings.Contains(message, "processor time")
		if !asWanted && (!slow || wantOutcome == "refused") {
			t.Errorf("%s is %s: %s\nwant %s", name, outcome, message, want)
		}
	}
}

// attack says what becomes of a policy, and the most memory of the child, or what the decision allocated.
func attack(t *testing.T, modules map[string]string, limit time.Duration) (outcome, message string, took time.Duration, memory int64) {
	t.Helper()
	v := New(os.Args[0], "child")
	v.CPU = limit
	v.Observe = func(_ time.Duration, most int64) { memory = most }
	start := time.Now()
	verdict, err := v.Vet(t.Context(), modules)
	took = time.Since(start)
	var costly *CostlyError
	switch {
	case errors.As(err, &costly):
		return "too costly", costly.Problem, took, memory
	case err != nil:
		return "error", err.Error(), took, memory
	case len(verdict.Problems) > 0:
		return "refused", verdict.Problems[0].String(), took, memory
	}
	p, err := policy.Compile(modules)
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	d.Use(policy.One(p, "hostile"))
	in := &routing.Input{
		Now: time.Unix(1_800_000_000, 0), Call: &routing.Call{Feature: "f", User: "trigger"},
		Charter: &charter.Charter{ID: "f"}, Catalog: charter.WithMeta(&charter.Catalog{}, charter.Meta{}).(*charter.Catalog),
		Budgets: []routing.BudgetState{{ID: "f", AlertPermille: 800}},
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start = time.Now()
	_, err = d.Decide(t.Context(), in)
	took = time.Since(start)
	runtime.ReadMemStats(&after)
	made := int64(after.TotalAlloc - before.TotalAlloc)
	if made > 64<<20 {
		t.Errorf("a decision allocated %d bytes", made)
	}
	var failed *policy.EvalError
	if !errors.As(err, &failed) {
		return "decides", fmt.Sprint(err), took, made
	}
	return "cut off", failed.Problem, took, made
}
