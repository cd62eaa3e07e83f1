package policy

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"
)

// evaluate asks plain OPA, with the library and what Rego sees as `data`.
func evaluate(t *testing.T, query string, input any, modules map[string]string) any {
	t.Helper()
	options := []func(*rego.Rego){rego.Query(query), rego.Input(input), rego.Store(dataStore(t, modules))}
	files := Builtin()
	maps.Copy(files, modules)
	for name, text := range files {
		if strings.HasSuffix(name, ".rego") && !strings.HasSuffix(name, testSuffix) {
			options = append(options, rego.Module(name, text))
		}
	}
	results, err := rego.New(options...).Eval(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(results) == 0 {
		return nil
	}
	return results[0].Expressions[0].Value
}

func readJSON(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestCombineInRego runs the cases that Go's combination is tested with.
func TestCombineInRego(t *testing.T) {
	file := readJSON(t, "testdata/combine.json")
	for _, c := range file["cases"].([]any) {
		c := c.(map[string]any)
		var levels []any
		for i, decision := range c["levels"].([]any) {
			levels = append(levels, map[string]any{"name": []string{"organisation", "team", "feature"}[i], "decision": decision})
		}
		input := map[string]any{"levels": levels, "catalog": file["catalog"]}
		got, _ := evaluate(t, "data.chartergate.lib.combine.decision(input.levels, input.catalog)", input, nil).(map[string]any)
		if reasons, _ := got["reasons"].([]any); len(reasons) == 0 {
			delete(got, "reasons")
		}
		want, err := json.Marshal(c["want"])
		if err != nil {
			t.Fatal(err)
		}
		wantJSON(t, c["name"].(string), got, string(want))
	}
}

// TestLibraryHasTests wants a file of tests for every file of the library.
func TestLibraryHasTests(t *testing.T) {
	for name := range libraryFiles {
		if strings.HasSuffix(name, testSuffix) || name == DataFile {
			continue
		}
		if test := strings.TrimSuffix(name, ".rego") + testSuffix; libraryFiles[test] == "" {
			t.Errorf("%s has no %s", name, filepath.Base(test))
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ text, problem string }{
		{"{", "data.json:1:1: unexpected EOF"},
		{"{\n  \"config\": {,}\n}", "data.json:2:14: invalid character ','"},
		{`[]`, "data.json: it must be an object with the one field config"},
		{`{"config": {}, "x": 1}`, "data.json: it must be an object with the one field config"},
		{`{"config": []}`, "data.json: it must be an object with the one field config"},
		{`{"config": {}} {}`, "data.json:1:1: there is more than one value"},
		{`{"config": {"a b": 1}}`, "data.json: config.a b: a name in config is made of"},
		{`{"config": {"context": {"max_input_token": 1}}}`, "data.json: there is no config.context.max_input_token: did you mean max_input_tokens?"},
		{`{"config": {"context": {"max_input_tokens": "1"}}}`, "data.json: config.context.max_input_tokens is a string, it must be a number"},
		{`{"config": {"context": 1}}`, "data.json: config.context is a number, it must be an object"},
		{`{"config": {"busines_hours": {"zone": "UTC"}}}`, "data.json: no file reads config.busines_hours: did you mean business_hours?"},
	} {
		_, err := Compile(map[string]string{"routing.rego": module(allowAll)["routing.rego"], DataFile: c.text})
		if err == nil || !strings.HasPrefix(err.Error(), c.problem) {
			t.Errorf("%s: %v, want %s", c.text, err, c.problem)
		}
	}
}

func TestConfigIsRead(t *testing.T) {
	modules := map[string]string{
		"routing.rego": module(`decision := {"effect": "allow", "tiers": data.config.own.tiers, "max_input_tokens": data.config.context.max_input_tokens}`)["routing.rego"],
		DataFile:       `{"config": {"own": {"tiers": ["premium"]}, "context": {"max_input_tokens": 7}}}`,
	}
	plan, err := decideOnce(t, modules)
	if err != nil || plan.Tiers[0] != "premium" || plan.MaxInputTokens != 7 {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
}

// TestConfigFolds pins that what is not configured is not read.
func TestConfigFolds(t *testing.T) {
	for _, c := range []struct {
		config string
		reads  leaf
	}{
		{`{"agent_runs": {"enabled": true, "max_tool_calls": 3}}`, agent},
		{`{"business_hours": {"zone": "UTC"}}`, timeUnix},
		{`{"exhausted": {"approval": true}}`, pathEscalated},
		{`{"prompt_cache": {"hour_patterns": ["p"]}}`, promptPattern},
	} {
		for _, config := range []string{"{}", c.config} {
			modules := Builtin()
			modules[DataFile] = `{"config": ` + config + `}`
			found := false
			for _, f := range compile(t, modules).fields {
				found = found || f.leaf == c.reads
			}
			if found != (config == c.config) {
				t.Errorf("with %s the policy reads %s: %v", config, leafPaths[c.reads], found)
			}
		}
	}
}

// TestOwnLibraryFile wants a policy that comes with a file of the library to be decided by its own.
func TestOwnLibraryFile(t *testing.T) {
	modules := module("import data.chartergate.lib.tiers\n\ndecision := {\"effect\": \"allow\", \"tiers\": [tiers.first]}")
	modules["lib/tiers.rego"] = "package chartergate.lib.tiers\n\nfirst := \"premium\""
	if plan, err := decideOnce(t, modules); err != nil || plan.Tiers[0] != "premium" {
		t.Errorf("the plan is %+v, %v", plan, err)
	}
	modules["tiers.rego"] = modules["lib/tiers.rego"]
	delete(modules, "lib/tiers.rego")
	if _, err := Compile(modules); err == nil || !strings.Contains(err.Error(), "tiers.rego:1:1: the package is chartergate.lib.tiers, it must be chartergate.routing") {
		t.Errorf("a package of the library in another file gives %v", err)
	}
}
