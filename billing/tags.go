package billing

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// DefaultFeatureTags are the tags that name the feature a line is allocated to; the first that a line has counts.
var DefaultFeatureTags = []string{"chartergate:feature", "chartergate-feature", "chartergate_feature", "feature", "feature_id", "ai-feature"}

// modelTags name the model, where the line's other columns do not.
var modelTags = []string{"chartergate:model", "chartergate-model", "chartergate_model", "model", "model_id", "model_name"}

const maxTags = 1000

// tags turns the tags of lines into one form, remembering what it has seen.
type tags struct {
	feature []string // in the order of preference
	aws     bool     // names have the prefix of tags that users made
	seen    map[string]parsedTags
}

type parsedTags struct{ text, feature, model string }

// maxSeen bounds what is remembered of attributes that repeat.
const maxSeen = 20_000

func newTags(feature []string) *tags {
	if len(feature) == 0 {
		feature = DefaultFeatureTags
	}
	return &tags{feature: feature, seen: make(map[string]parsedTags)}
}

// parse reads a JSON object, or the inside of one without its braces as Azure writes it, or a list of {key, value}.
func (t *tags) parse(s string) (parsedTags, error) {
	if s == "" || s == "{}" || s == "[]" {
		return parsedTags{}, nil
	}
	if p, ok := t.seen[s]; ok {
		return p, nil
	}
	m, err := readTags(s)
	if err != nil {
		return parsedTags{}, err
	}
	return t.keep(s, m)
}

func (t *tags) keep(s string, m map[string]string) (parsedTags, error) {
	if len(m) == 0 {
		return parsedTags{}, nil
	}
	if t.aws {
		named := make(map[string]string, len(m))
		for k, v := range m {
			named[tagName(k)] = v
		}
		m = named
	}
	if len(m) > maxTags {
		return parsedTags{}, fmt.Errorf("has %d tags, at most %d are read", len(m), maxTags)
	}
	text, err := json.Marshal(m) // keys sorted
	if err != nil {
		return parsedTags{}, err
	}
	p := parsedTags{text: string(text), feature: find(m, t.feature), model: find(m, modelTags)}
	if len(t.seen) >= maxSeen {
		clear(t.seen)
	}
	t.seen[strings.Clone(s)] = p
	return p, nil
}

// find gives the value of the first tag that is there. Names are compared without case, where none is equal.
func find(m map[string]string, names []string) string {
	keys := slices.Sorted(maps.Keys(m))
	for _, name := range names {
		if v := m[name]; v != "" {
			return v
		}
		for _, k := range keys {
			if strings.EqualFold(k, name) && m[k] != "" {
				return m[k]
			}
		}
	}
	return ""
}

func readTags(s string) (map[string]string, error) {
	trimmed := strings.TrimSpace(s)
	var loose map[string]any
	switch {
	case trimmed == "" || trimmed == "null":
		return nil, nil
	case trimmed[0] == '[':
		var list []struct{ Key, Value any }
		if err := json.Unmarshal([]byte(trimmed), &list); err != nil {
			return nil, fmt.Errorf("%s is not JSON: %w", quote(s), err)
		}
		loose = make(map[string]any, len(list))
		for _, kv := range list {
			if kv.Key == nil {
				return nil, fmt.Errorf("%s is not a list of {\"key\", \"value\"}", quote(s))
			}
			loose[tagText(kv.Key)] = kv.Value
		}
	default:
		if trimmed[0] != '{' {
			trimmed = "{" + strings.TrimSuffix(trimmed, ",") + "}"
		}
		if err := json.Unmarshal([]byte(trimmed), &loose); err != nil {
			return nil, fmt.Errorf("%s is not a JSON object: %w", quote(s), err)
		}
	}
	m := make(map[string]string, len(loose))
	for k, v := range loose {
		m[k] = tagText(v)
	}
	return m, nil
}

// tagName takes the prefix of tags off that users made on AWS.
func tagName(k string) string {
	for _, p := range []string{"user:", "user_"} {
		if rest, ok := strings.CutPrefix(k, p); ok && rest != "" {
			return rest
		}
	}
	return k
}

func tagText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case nil:
		return ""
	}
	b, _ := json.Marshal(v) // it was JSON before
	return string(b)
}
