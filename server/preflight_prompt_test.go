package server

import (
	"testing"

	chartergate "github.com/chartergate/chartergate/clients/go"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Without a complexity the features of the prompt decide, with one they do not.
func TestPromptFeaturesDecideTheTier(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e12)
	const easy, hard = "Translate: good morning", "Prove that no polynomial with integer roots converges. Design the proof by induction, step by step."
	for _, c := range []struct {
		name, prompt string
		complexity   int32
		want         string
	}{
		{"an easy prompt", easy, 0, "economy"},
		{"a hard prompt", hard, 0, "premium"},
		{"a hard prompt that is said to be easy", hard, 10, "economy"},
	} {
		d := g.reserve(t, &chartergatev1.Call{
			Feature: "chat", Complexity: c.complexity, PromptFeatures: chartergate.PromptFeatures(c.prompt),
			Estimate: &chartergatev1.Estimate{InputTokens: 100, MaxOutputTokens: 50},
		}).Decision
		if d.Tier != c.want {
			t.Errorf("%s: %v", c.name, d)
		}
	}
}
