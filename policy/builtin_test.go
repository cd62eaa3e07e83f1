package policy

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/tester"
)

func TestShippedRego(t *testing.T) {
	modules := map[string]*ast.Module{}
	files, err := filepath.Glob("rego/*.rego")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if modules[file], err = ast.ParseModuleWithOpts(file, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil {
			t.Fatal(err)
		}
		formatted, err := format.Source(file, text)
		if err != nil {
			t.Fatal(err)
		}
		if string(formatted) != string(text) {
			t.Errorf("%s is not formatted as `opa fmt` would:\n%s", file, formatted)
		}
	}
	results, err := tester.NewRunner().SetModules(modules).RunTests(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for r := range results {
		if r.Pass() {
			passed++
		} else {
			t.Errorf("%s: %s fails: %v", r.Location, r.Name, r.Error)
		}
	}
	if passed <= 15 {
		t.Errorf("only %d Rego tests pass", passed)
	}
}

func TestBuiltin(t *testing.T) {
	modules := Builtin()
	if _, ok := modules["routing.rego"]; !ok || len(modules) != 2 {
		t.Fatalf("Builtin has %d modules, want routing.rego and tasks.rego", len(modules))
	}
	d, err := NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.Builtin(), BuiltinPrefix+Hash(modules); got != want {
		t.Errorf("Revision is %q, want %q", got, want)
	}
}

func TestHash(t *testing.T) {
	seen := map[string]string{}
	for name, modules := range map[string]map[string]string{
		"none":            nil,
		"one":             {"a": "bc"},
		"split elsewhere": {"ab": "c"},
		"two":             {"a": "b", "c": ""},
		"two others":      {"a": "", "c": "b"},
		"in one text":     {"a": "b1:c0:"},
	} {
		h := Hash(modules)
		if len(h) != 16 {
			t.Errorf("%s: hash %q has %d digits", name, h, len(h))
		}
		if other, ok := seen[h]; ok {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[h] = name
	}
	if a, b := Hash(map[string]string{"x": "1", "y": "2"}), Hash(map[string]string{"y": "2", "x": "1"}); a != b {
		t.Errorf("the order counts: %s and %s", a, b)
	}
}
