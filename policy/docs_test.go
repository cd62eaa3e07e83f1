package policy

import (
	"context"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/tester"
)

// blocks gives the code blocks of a language in docs/policies.md.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		list = append(list, m[1])
	}
	return list
}

func TestDocumentedPolicy(t *testing.T) {
	texts := blocks(t, "rego")
	if len(texts) != 2 {
		t.Fatalf("docs/policies.md has %d blocks of Rego, want a policy and its tests", len(texts))
	}
	compile(t, map[string]string{"routing.rego": texts[0], "routing_test.rego": texts[1]})
	modules := map[string]*ast.Module{"routing.rego": ast.MustParseModule(texts[0]), "routing_test.rego": ast.MustParseModule(texts[1])}
	results, err := tester.NewRunner().SetModules(modules).RunTests(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for r := range results {
		if !r.Pass() {
			t.Errorf("%s fails: %v", r.Name, r.Error)
		}
	}
}

func TestDocumentedProblem(t *testing.T) {
	text := strings.Replace(blocks(t, "rego")[0], "input.budget.utilization", "input.budgt.utilization", 1)
	_, err := Compile(map[string]string{"routing.rego": text})
	doc, readErr := os.ReadFile("../docs/policies.md")
	if err == nil || readErr != nil || !strings.Contains(string(doc), "\n"+err.Error()+"\n") {
		t.Errorf("docs/policies.md does not show this problem as it is: %v", err)
	}
}

func TestDocumentedExample(t *testing.T) {
	texts := blocks(t, "json")
	if len(texts) != 2 {
		t.Fatalf("docs/policies.md has %d blocks of JSON, want an input and its decision", len(texts))
	}
	var input, want any
	if err := json.Unmarshal([]byte(texts[0]), &input); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(texts[1]), &want); err != nil {
		t.Fatal(err)
	}
	options := []func(*rego.Rego){rego.Query(entryPoint), rego.Input(input)}
	for name, text := range Builtin() {
		options = append(options, rego.Module(name, text))
	}
	results, err := rego.New(options...).Eval(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if got := results[0].Expressions[0].Value; !reflect.DeepEqual(got, want) {
		t.Errorf("the decision is %v, documented is %v", got, want)
	}
}

// TestDocumentedInput wants every field of the schema in the reference.
func TestDocumentedInput(t *testing.T) {
	doc, err := os.ReadFile("../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	for l := range leafCount {
		path := strings.Split(leafPaths[l], ".")
		if name := path[len(path)-1]; !strings.Contains(string(doc), name) {
			t.Errorf("docs/policies.md does not tell of %s", leafPaths[l])
		}
	}
}
