package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/routing"
)

// Limits of a decision.
const (
	MaxChoices     = 64 // tiers, and models
	MaxReasons     = 16
	MaxReasonBytes = 240
)

var effects = map[string]routing.Effect{
	"allow": routing.Allow, "downgrade": routing.Downgrade, "throttle": routing.Throttle, "deny": routing.Deny,
}

var promptCaches = map[string]routing.PromptCache{
	"off": routing.CacheOff, "5m": routing.Cache5m, "1h": routing.Cache1h,
}

// decode reads a decision, strictly: what it does not know it refuses.
func decode(v ast.Value) (*routing.Plan, error) {
	object, ok := v.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("decision is %s, it must be an object", kind(v))
	}
	plan := new(routing.Plan)
	err := object.Iter(func(k, v *ast.Term) (err error) {
		name, ok := k.Value.(ast.String)
		if !ok {
			return fmt.Errorf("decision has the field %s, the names of fields are strings", short(k))
		}
		switch name {
		case "effect":
			plan.Effect, err = choice(name, v, effects)
		case "tiers":
			plan.Tiers, err = list(name, v.Value, MaxChoices, 64)
		case "models":
			plan.Models, err = list(name, v.Value, MaxChoices, 128)
		case "max_input_tokens":
			plan.MaxInputTokens, err = count(name, v)
		case "max_output_tokens":
			plan.MaxOutputTokens, err = count(name, v)
		case "trim_context_to_tokens":
			plan.TrimContextToTokens, err = count(name, v)
		case "prompt_cache":
			plan.PromptCache, err = choice(name, v, promptCaches)
		case "reasons":
			if set, ok := v.Value.(ast.Set); ok { // `reasons contains text if …`
				v = ast.ArrayTerm(set.Slice()...)
			}
			plan.Reasons, err = list(name, v.Value, MaxReasons, MaxReasonBytes)
		default:
			return fmt.Errorf("decision has the field %s, which nobody reads", short(k))
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case plan.Effect == routing.EffectUnspecified:
		return nil, fmt.Errorf("decision has no effect")
	case plan.Effect <= routing.Downgrade && len(plan.Tiers)+len(plan.Models) == 0:
		return nil, fmt.Errorf("decision says %s, but names no tiers and no models", plan.Effect)
	}
	return plan, nil
}

func choice[T any](name ast.String, v *ast.Term, choices map[string]T) (T, error) {
	text, _ := v.Value.(ast.String)
	c, ok := choices[string(text)]
	if !ok {
		return c, fmt.Errorf("decision.%s is %s, which it cannot be", string(name), short(v))
	}
	return c, nil
}

func count(name ast.String, v *ast.Term) (int64, error) {
	if n, ok := v.Value.(ast.Number); ok {
		if n, ok := n.Int64(); ok && n >= 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("decision.%s is %s, it must be a whole number of 0 or more", string(name), short(v))
}

func list(name ast.String, v ast.Value, most, mostBytes int) ([]string, error) {
	array, ok := v.(*ast.Array)
	if !ok {
		return nil, fmt.Errorf("decision.%s is %s, it must be an array of strings", string(name), kind(v))
	}
	if array.Len() > most {
		return nil, fmt.Errorf("decision.%s has %d entries, at most %d are allowed", string(name), array.Len(), most)
	}
	texts := make([]string, array.Len())
	for i := range texts {
		text, ok := array.Elem(i).Value.(ast.String)
		switch {
		case !ok:
			return nil, fmt.Errorf("decision.%s[%d] is %s, it must be a string", string(name), i, kind(array.Elem(i).Value))
		case text == "":
			return nil, fmt.Errorf("decision.%s[%d] is empty", string(name), i)
		case len(text) > mostBytes:
			return nil, fmt.Errorf("decision.%s[%d] has %d bytes, at most %d are allowed", string(name), i, len(text), mostBytes)
		case !utf8.ValidString(string(text)):
			return nil, fmt.Errorf("decision.%s[%d] is not UTF-8", string(name), i)
		}
		texts[i] = string(text)
	}
	return texts, nil
}

func kind(v ast.Value) string {
	name := ast.ValueName(v)
	if strings.ContainsRune("aeiou", rune(name[0])) {
		return "an " + name
	}
	return "a " + name
}

// short writes a small value out, and of a large one the kind.
func short(v *ast.Term) string {
	if n, err := written(v.Value); err == nil && n <= 80 {
		if text := v.String(); len(text) <= 40 {
			return text
		}
	}
	return kind(v.Value)
}
