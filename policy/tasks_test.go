package policy

import (
	"context"
	"encoding/json"
	"maps"
	"testing"

	"github.com/open-policy-agent/opa/v1/rego"

	hard "github.com/chartergate/chartergate/core/complexity"
)

// The shipped Rego and core/complexity say the same of a task of which only the class and the length are known.
func TestTaskTable(t *testing.T) {
	ask := func(query string, input any) any {
		t.Helper()
		rs, err := rego.New(rego.Module("tasks.rego", Builtin()["lib/tasks.rego"]), rego.Query(query), rego.Input(input)).Eval(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(rs) == 0 {
			return nil
		}
		return rs[0].Expressions[0].Value
	}
	whole := func(v any) int32 {
		n, err := v.(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		return int32(n)
	}
	scores := map[string]int32{}
	for name, v := range ask("data.chartergate.lib.tasks.scores", nil).(map[string]any) {
		scores[name] = whole(v)
	}
	if want := hard.Classes(); !maps.Equal(scores, want) {
		t.Errorf("tasks.rego has %v,\ncore/complexity %v", scores, want)
	}
	for _, class := range []string{"", "unheard of", "code", "Code-Generation", "json extraction", "customer.support/chat", "legal_agent", "tl dr"} {
		for _, tokens := range []int64{0, 1000, 1001, 2000, 2001, 8000, 8001, 32000, 32001} {
			got := ask("data.chartergate.lib.tasks.complexity", map[string]any{"request": map[string]any{"task_class": class, "input_tokens": tokens}})
			if _, known := hard.Class(class); !known {
				if got != nil {
					t.Errorf("%q with %d tokens: %v, want undefined", class, tokens, got)
				}
			} else if want := hard.Score(nil, class, tokens); got == nil || whole(got) != want {
				t.Errorf("%q with %d tokens: %v, want %d", class, tokens, got, want)
			}
		}
	}
}
