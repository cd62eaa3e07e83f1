package prices

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Match says whether a name is meant. The zero value matches nothing.
type Match struct {
	rule  string // equals, starts_with, ends_with, contains, regex, or, and
	text  string
	regex *regexp.Regexp
	rules []Match
}

const maxMatchDepth = 8

// UnmarshalJSON reads an object with one key, the rule.
func (m *Match) UnmarshalJSON(data []byte) error { return m.read(data, 0) }

func (m *Match) read(data []byte, depth int) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || len(object) != 1 || depth > maxMatchDepth {
		return fmt.Errorf("a match is an object with one of equals, starts_with, ends_with, contains, regex, or, and; not %.80s", data)
	}
	for rule, value := range object {
		m.rule = rule
		switch rule {
		case "equals", "starts_with", "ends_with", "contains", "regex":
			if err := json.Unmarshal(value, &m.text); err != nil {
				return fmt.Errorf("match %s: %w", rule, err)
			}
		case "or", "and":
			var list []json.RawMessage
			if err := json.Unmarshal(value, &list); err != nil {
				return fmt.Errorf("match %s: %w", rule, err)
			}
			m.rules = make([]Match, len(list))
			for i, r := range list {
				if err := m.rules[i].read(r, depth+1); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("unknown match rule %q", rule)
		}
		if rule == "regex" {
			var err error
			if m.regex, err = regexp.Compile(m.text); err != nil {
				return fmt.Errorf("match regex: %w", err)
			}
		}
	}
	return nil
}

// Equals matches any of some names.
func Equals(names ...string) Match {
	m := Match{rule: "or"}
	for _, n := range names {
		m.rules = append(m.rules, Match{rule: "equals", text: n})
	}
	return m
}

// Holds says whether name is meant, as it is written or in lower case.
func (m *Match) Holds(name string) bool {
	return m.holds(name) || m.holds(strings.ToLower(name))
}

func (m *Match) holds(name string) bool {
	in := func(r Match) bool { return r.holds(name) }
	switch m.rule {
	case "equals":
		return name == m.text
	case "starts_with":
		return strings.HasPrefix(name, m.text)
	case "ends_with":
		return strings.HasSuffix(name, m.text)
	case "contains":
		return strings.Contains(name, m.text)
	case "regex":
		return m.regex.MatchString(name)
	case "or":
		return slices.ContainsFunc(m.rules, in)
	case "and":
		return len(m.rules) > 0 && !slices.ContainsFunc(m.rules, func(r Match) bool { return !r.holds(name) })
	}
	return false
}
