package policy

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/chartergate/chartergate/core/routing"
)

// matchSchema says where an input does not fit the schema; empty if it does.
func matchSchema(t *testing.T, in *routing.Input) string {
	t.Helper()
	query, err := rego.New(
		rego.Query(`[ok, errors] := json.match_schema(input, `+string(InputSchema())+`)`),
		rego.ParsedInput((&inputs{prices: true}).build(in)),
		rego.StrictBuiltinErrors(true),
	).Eval(context.Background())
	if err != nil || len(query) != 1 {
		t.Fatalf("the schema cannot be matched: %v", err)
	}
	if query[0].Bindings["ok"] == true {
		return ""
	}
	text, _ := json.Marshal(query[0].Bindings["errors"])
	return string(text)
}

func TestSchemaRefusesStrangers(t *testing.T) {
	in := supportInput(t)
	in.Call.Complexity = 101
	if matchSchema(t, in) == "" {
		t.Error("a complexity of 101 fits the schema")
	}
}
