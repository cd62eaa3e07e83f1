package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const evaluationCases = `{"id":"1","task_class":"classify","input_tokens":900,"output_tokens":{"economy":5,"standard":5,"premium":5},"sufficient":{"economy":true,"standard":true,"premium":true}}
{"id":"2","task_class":"code","prompt":"Write a function that adds two numbers.","input_tokens":40,"output_tokens":{"economy":200,"premium":300},"sufficient":{"economy":false,"standard":true,"premium":true}}
{"id":"3","task_class":"proof","input_tokens":4000,"output_tokens":{"economy":700,"premium":900},"sufficient":{"economy":false,"standard":false,"premium":true}}
`

func TestPolicyEvaluate(t *testing.T) {
	c := cli{t: t}
	file := filepath.Join(t.TempDir(), "cases.jsonl")
	if err := os.WriteFile(file, []byte(evaluationCases), 0o600); err != nil {
		t.Fatal(err)
	}
	c.contains(c.ok("policy", "evaluate", "--cases", file, "--at", "2026-11-23"),
		"3 cases of "+file, "decided by builtin/", "cost saved", "quality kept  100.0%", "always-cheap", "always-standard", "always-expensive",
		"random at the same mix", "oracle", "gpt-5.4-nano", "claude-sonnet-5", "Prices per million tokens at 2026-11-23", "threshold")
	var r struct {
		CostSaved   *float64 `json:"cost_saved"`
		QualityKept *float64 `json:"quality_kept"`
		Curve       []struct {
			Threshold   *int               `json:"threshold"`
			CostSaved   *float64           `json:"cost_saved"`
			QualityKept *float64           `json:"quality_kept"`
			Mix         map[string]float64 `json:"mix"`
		} `json:"curve"`
	}
	if err := json.Unmarshal([]byte(c.ok("policy", "evaluate", "--cases", file, "-o", "json")), &r); err != nil {
		t.Fatal(err)
	}
	if r.CostSaved == nil || *r.QualityKept != 1 || len(r.Curve) != 41 || r.Curve[0].CostSaved == nil || len(r.Curve[0].Mix) != 3 {
		t.Errorf("as JSON: %+v", r)
	}
	rows, err := csv.NewReader(strings.NewReader(c.ok("policy", "evaluate", "--cases", file, "-o", "csv"))).ReadAll()
	if err != nil || len(rows) != 1+1+5+41+3 || rows[1][0] != "policy" || rows[0][7] != "share_economy" {
		t.Errorf("as CSV: %v, %d rows", err, len(rows))
	}

	// Another policy, the standard input, and other manifests: mini is dear there.
	dir := policyDir(t, map[string]string{"routing.rego": localPolicy, "routing_test.rego": localTests})
	manifests := policyDir(t, map[string]string{"catalog.yaml": `kind: Catalog
tiers: [{id: standard}, {id: premium}]
models:
  - {id: a, provider: p, tier: standard, context_tokens: 1000, max_output_tokens: 100}
  - {id: b, provider: p, tier: premium, context_tokens: 1000, max_output_tokens: 100}
---
kind: PriceBook
name: ours
currency: EUR
prices:
  - {model: a, effective_time: 2026-01-01, input: 1.00, output: 2.00}
  - {model: b, effective_time: 2026-01-01, input: 2.00, output: 4.00}
`})
	const twoTiers = `{"task_class":"chat","input_tokens":10,"output_tokens":{"premium":5},"sufficient":{"standard":true,"premium":true}}`
	exit, out, errs := c.run(twoTiers, "policy", "evaluate", "--cases", "-", "--policy", dir, "-f", manifests, "--at", "2026-11-23")
	if exit != exitOK {
		t.Fatal(errs)
	}
	c.contains(out, "1 cases of -, decided by "+dir, "cost saved    50.0%", "EUR", "0.00002")
	c.contains(c.ok("policy", "evaluate", "--cases", file, "--policy", filepath.Join(dir, "routing.rego")), "standard")

	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	if err := os.WriteFile(bad, []byte(evaluationCases+"{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.fails(exitFailed, []string{bad + ":4: input_tokens is missing"}, "policy", "evaluate", "--cases", bad)
	c.fails(exitFailed, []string{file + `:1: the catalog has no tier "economy", it has standard, premium: name these, or give another catalog with -f`},
		"policy", "evaluate", "--cases", file, "-f", manifests)
	c.fails(exitFailed, []string{"no such file"}, "policy", "evaluate", "--cases", "missing")
	c.fails(exitFailed, []string{"no server answers"}, "policy", "evaluate", "--cases", file, "--server", "127.0.0.1:1", "--policy", "policies/routing/revisions/0123456789abcdef")
	c.fails(exitUsage, []string{"--cases is required"}, "policy", "evaluate")
	c.fails(exitUsage, []string{"unknown output"}, "policy", "evaluate", "--cases", file, "-o", "yaml")
	c.fails(exitUsage, []string{"--at"}, "policy", "evaluate", "--cases", file, "--at", "soon")
}
