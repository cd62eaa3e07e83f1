package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/scaffold"
)

// scaffolds are the policies to start from, with how many tests each has.
var scaffolds = map[string]int{"routing": 7, "team.developer-experience": 5, "feature.code-assistant": 3}

// initPolicy writes a policy to start from and makes its directory the current one.
func initPolicy(t *testing.T, c cli, name string) {
	t.Helper()
	t.Chdir(t.TempDir())
	cli{t: t}.ok("policy", "init", "my policy", "--policy", name)
	t.Chdir("my policy")
}

// What init writes is without fault for this program and for plain OPA, as it is.
func TestPolicyInit(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for name, tests := range scaffolds {
		t.Run(name, func(t *testing.T) {
			c := cli{t: t}
			initPolicy(t, c, name)
			c.ok("policy", "fmt", ".", "--check")
			if out := c.ok("policy", "lint", ".", "--strict"); out != "Nothing found.\n" {
				t.Errorf("lint says %s", out)
			}
			c.contains(c.ok("policy", "test", ".", "--threshold", "100"), fmt.Sprintf("%d tests: %[1]d passed, 0 failed", tests))
			modules, err := readPolicyDir(".")
			if err != nil || len(modules) != 3 {
				t.Errorf("%d files would be stored, %v", len(modules), err)
			}
			t.Run("opa test", func(t *testing.T) { opaTest(t, tests, tester.Load) })
			t.Run("opa test --bundle", func(t *testing.T) {
				opaTest(t, tests, func(paths []string, filter loader.Filter) (map[string]*ast.Module, storage.Store, error) {
					bundles, err := tester.LoadBundlesWithRegoVersion(paths, filter, ast.RegoV1)
					if err != nil {
						return nil, nil, err
					}
					modules, store := map[string]*ast.Module{}, storage.Store(nil)
					for _, b := range bundles {
						for _, m := range b.Modules {
							modules[m.Path] = m.Parsed
						}
						store = inmem.NewFromObject(b.Data)
					}
					return modules, store, nil
				})
			})
			for _, file := range []string{".vscode/settings.json", "data.json"} {
				text, err := os.ReadFile(file)
				if err != nil || !json.Valid(text) {
					t.Errorf("%s is no JSON, %v", file, err)
				}
			}
			t.Chdir(here)
		})
	}
}

// opaTest is `opa test . --schema … --capabilities …`.
func opaTest(t *testing.T, tests int, load func([]string, loader.Filter) (map[string]*ast.Module, storage.Store, error)) {
	modules, store, err := load([]string{"."}, nil)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := loader.Schemas(scaffold.ToolsDir + "/schemas/input/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	capabilities, err := ast.LoadCapabilitiesFile(scaffold.ToolsDir + "/capabilities.json")
	if err != nil {
		t.Fatal(err)
	}
	txn, err := store.NewTransaction(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(t.Context(), txn)
	compiler := ast.NewCompiler().WithSchemas(schema).WithCapabilities(capabilities).WithStrict(true)
	results, err := tester.NewRunner().SetCompiler(compiler).SetStore(store).SetModules(modules).RunTests(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	passed := 0
	for r := range results {
		if passed++; !r.Pass() {
			t.Error(r)
		}
	}
	if passed != tests {
		t.Errorf("OPA runs %d tests, want %d", passed, tests)
	}
}

func TestPolicyInitSays(t *testing.T) {
	var out, files, readme string
	t.Run("", func(t *testing.T) {
		t.Chdir(t.TempDir())
		c := cli{t: t}
		out = c.ok("policy", "init", "support", "--policy", "team.support")
		for name, text := range scaffold.Files("team.support") {
			if got, err := os.ReadFile(filepath.Join("support", name)); err != nil || string(got) != text {
				t.Errorf("%s: %v", name, err)
			}
		}
		err := filepath.WalkDir("support", func(path string, e os.DirEntry, err error) error {
			if !e.IsDir() {
				files += path + "\n"
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		readme = scaffold.Files("team.support")["README.md"]

		// What is there stays as it is, and nothing is added to it.
		c.fails(exitFailed, []string{"support/README.md is there and would be overwritten", "--refresh"}, "policy", "init", "support")
		taken := policyDir(t, map[string]string{"sub/x.txt": "", "data.json": "mine"})
		c.fails(exitFailed, []string{filepath.Join(taken, "data.json")}, "policy", "init", taken)
		if left, err := os.ReadDir(taken); err != nil || len(left) != 2 {
			t.Errorf("%v is left, %v", left, err)
		}
		file := filepath.Join(taken, "data.json")
		c.fails(exitFailed, []string{file}, "policy", "init", filepath.Join(file, "below"))
		c.fails(exitUsage, []string{`"team.Support" is not a policy`}, "policy", "init", "new", "--policy", "team.Support")
		c.fails(exitUsage, []string{"name one directory"}, "policy", "init")
		c.fails(exitUsage, []string{"name one directory"}, "policy", "init", "")

		stale := filepath.Join("support", scaffold.ToolsDir, "lib", "gone.rego")
		if err := os.WriteFile(stale, []byte("stale"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.contains(c.ok("policy", "init", "support", "--refresh"), "support/.chartergate written anew")
		if _, err := os.Stat(stale); err == nil {
			t.Error("a file that the library has no more is left")
		}
		if left, err := os.ReadDir("support"); err != nil || len(left) != 7 {
			t.Errorf("%d files are left, %v", len(left), err)
		}
		c.fails(exitFailed, []string{"there is no nowhere/.chartergate"}, "policy", "init", "nowhere", "--refresh")
	})
	golden(t, "policy_init.txt", func(w io.Writer) { fmt.Fprintf(w, "%s\n%s\n%s", out, files, readme) })
}

// From an empty directory to calls that are decided by it, as the README says.
func TestPolicyInitToActivation(t *testing.T) {
	addr, _ := startExamples(t)
	reserve := []string{"reserve", "--feature", "code-assistant", "--task-class", "code", "--user", "ada", "--cohort", "interns",
		"--input-tokens", "100", "--max-output-tokens", "4000"}
	for _, s := range []struct{ name, says string }{
		{"routing", `"effect": "EFFECT_ALLOW"`},
		{"team.developer-experience", "Cohort interns is served by the economy tier."},
		{"feature.code-assistant", `"max_output_tokens": "2000"`},
	} {
		t.Run(s.name, func(t *testing.T) {
			c := cli{t, []string{"--server", addr}}
			initPolicy(t, c, s.name)
			in := []string{"--policy", s.name}
			cli{t: t}.ok("policy", "test", ".", "--coverage")
			revision := policyRevision.FindString(c.ok(append([]string{"policy", "create", ".", "--message", "why"}, in...)...))
			c.contains(c.ok(append([]string{"policy", "simulate", ".", "--last", "24h"}, in...)...), "decisions")
			hash := hashOf(revision)
			if s.name == "routing" { // the others decide beside nothing
				c.ok("policy", "shadow", s.name, "--revision", hash, "--percent", "10")
				c.contains(c.ok("policy", "shadow", s.name), hash)
			}
			c.contains(c.ok(append([]string{"policy", "activate", hash, "--wait"}, in...)...), revision+" decides")
			c.contains(c.ok(append(reserve, "-o", "json")...), revision, s.says)
			c.contains(c.ok("policy", "explain", "--feature", "code-assistant"), hash)
		})
	}
	c := cli{t, []string{"--server", addr}}
	c.contains(c.ok("policy", "list", "routing"), "why")
}

func TestPolicyFmtHasNoLimitOfFiles(t *testing.T) {
	c := cli{t: t}
	files := map[string]string{}
	for i := range policy.MaxModules + 1 {
		files[fmt.Sprintf("p%d/routing.rego", i)] = localPolicy
	}
	dir := policyDir(t, files)
	c.ok("policy", "fmt", dir, "--check")
	c.fails(exitFailed, []string{"has more than 32 files", strings.TrimSuffix(dir, "/")}, "policy", "lint", dir)
}
