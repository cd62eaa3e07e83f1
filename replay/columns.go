package replay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Columns describes the columns of a csv trace and the keys of a jsonl trace. input_tokens and output_tokens are
// required; an empty value is the same as none; a name that is not here is refused.
var Columns = []struct{ Name, Meaning string }{
	{"timestamp", "when: RFC 3339, or 2026-11-23 09:30:00.5 in UTC"},
	{"timestamp_ms", "when: milliseconds from any start, instead of timestamp"},
	{"input_tokens", "all input tokens, cached ones included; required"},
	{"cached_tokens", "the part of input_tokens that is read from a prompt cache"},
	{"output_tokens", "output tokens; required"},
	{"task_class", "what kind of task, such as chat"},
	{"complexity", "1 to 100"},
	{"cohort", "the cohort of the user"},
	{"user", "who is served, an opaque id"},
	{"agent", "the agent that makes the call"},
	{"run", "the agent run"},
	{"prompt_pattern", "the prompt template"},
	{"model", "the model that is asked for"},
	{"tier", "the tier that is asked for"},
	{"retrieval_hops", "retrieval hops"},
	{"tool_calls", "calls by tool: web_search=2;calculator=1, in jsonl an object"},
	{"outcome", "success or failure"},
}

var columnSetters = map[string]func(*Row, *clock, string) error{
	"timestamp": func(r *Row, c *clock, s string) error {
		t, err := parseTime(s)
		r.At = c.since(t)
		return err
	},
	"timestamp_ms": func(r *Row, c *clock, s string) error {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("timestamp_ms: %q is not a whole number", s)
		}
		r.At = c.since(time.UnixMilli(ms))
		return nil
	},
	"input_tokens":   countColumn("input_tokens", func(r *Row) *int64 { return &r.InputTokens }),
	"cached_tokens":  countColumn("cached_tokens", func(r *Row) *int64 { return &r.CachedTokens }),
	"output_tokens":  countColumn("output_tokens", func(r *Row) *int64 { return &r.OutputTokens }),
	"retrieval_hops": countColumn("retrieval_hops", func(r *Row) *int64 { return &r.RetrievalHops }),
	"complexity": func(r *Row, _ *clock, s string) error {
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return fmt.Errorf("complexity: %q is not 0 to 100", s)
		}
		r.Complexity = int32(n)
		return nil
	},
	"task_class":     textColumn("task_class", 64, func(r *Row) *string { return &r.TaskClass }),
	"cohort":         textColumn("cohort", 128, func(r *Row) *string { return &r.Cohort }),
	"user":           textColumn("user", 128, func(r *Row) *string { return &r.User }),
	"agent":          textColumn("agent", 128, func(r *Row) *string { return &r.Agent }),
	"run":            textColumn("run", 128, func(r *Row) *string { return &r.Run }),
	"prompt_pattern": textColumn("prompt_pattern", 128, func(r *Row) *string { return &r.PromptPattern }),
	"model":          textColumn("model", 128, func(r *Row) *string { return &r.Model }),
	"tier":           textColumn("tier", 64, func(r *Row) *string { return &r.Tier }),
	"tool_calls":     setToolCalls,
	"outcome": func(r *Row, _ *clock, s string) error {
		switch strings.ToLower(s) {
		case "success":
			r.Outcome = OutcomeSuccess
		case "failure":
			r.Outcome = OutcomeFailure
		default:
			return fmt.Errorf("outcome: %q is neither success nor failure", s)
		}
		return nil
	},
}

func countColumn(name string, field func(*Row) *int64) func(*Row, *clock, string) error {
	return func(r *Row, _ *clock, s string) (err error) {
		*field(r), err = parseCount(name, s)
		return err
	}
}

func textColumn(name string, longest int, field func(*Row) *string) func(*Row, *clock, string) error {
	return func(r *Row, _ *clock, s string) error {
		if len(s) > longest {
			return fmt.Errorf("%s: %d bytes are more than %d", name, len(s), longest)
		}
		*field(r) = strings.Clone(s)
		return nil
	}
}

func setToolCalls(r *Row, _ *clock, s string) error {
	r.ToolCalls = make(map[string]int64)
	for part := range strings.SplitSeq(s, ";") {
		tool, count, ok := strings.Cut(part, "=")
		n, err := strconv.ParseInt(count, 10, 64)
		if !ok || tool == "" || len(tool) > 64 || err != nil || n < 0 || n > 1_000_000 {
			return fmt.Errorf("tool_calls: %q is not such as web_search=2;calculator=1", s)
		}
		r.ToolCalls[tool] = n
	}
	if len(r.ToolCalls) > 32 {
		return fmt.Errorf("tool_calls: %d tools are more than 32", len(r.ToolCalls))
	}
	return nil
}

func checkColumns(names []string) error {
	seen := make(map[string]bool)
	for _, n := range names {
		switch {
		case columnSetters[n] == nil:
			return fmt.Errorf("unknown column %q: use %s", n, columnNames())
		case seen[n]:
			return fmt.Errorf("column %q is there twice", n)
		}
		seen[n] = true
	}
	switch {
	case !seen["input_tokens"] || !seen["output_tokens"]:
		return errors.New("input_tokens and output_tokens are required")
	case seen["timestamp"] && seen["timestamp_ms"]:
		return errors.New("give timestamp or timestamp_ms, not both")
	}
	return nil
}

func columnNames() string {
	var b strings.Builder
	for i, c := range Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.Name)
	}
	return b.String()
}

func readCSV(file string, r io.Reader) Rows {
	return readRecords(file, r, func(header []string) (func([]string) (Row, error), error) {
		if err := checkColumns(header); err != nil {
			return nil, err
		}
		var c clock
		return func(record []string) (row Row, err error) {
			for i, name := range header {
				if record[i] == "" {
					if name == "input_tokens" || name == "output_tokens" {
						return row, fmt.Errorf("%s is empty", name)
					}
					continue
				}
				if err := columnSetters[name](&row, &c, record[i]); err != nil {
					return row, err
				}
			}
			return row, nil
		}, nil
	})
}

func readJSONL(file string, r io.Reader) Rows {
	var c clock
	return readLines(file, r, func(line []byte) (row Row, err error) {
		var object map[string]any
		if err := decodeObject(line, &object, (*json.Decoder).UseNumber); err != nil {
			return row, err
		}
		names := slices.Sorted(maps.Keys(object))
		if err := checkColumns(names); err != nil {
			return row, err
		}
		for _, name := range names {
			text, err := jsonText(name, object[name])
			if err != nil {
				return row, err
			}
			if text == "" && name != "input_tokens" && name != "output_tokens" {
				continue
			}
			if err := columnSetters[name](&row, &c, text); err != nil {
				return row, err
			}
		}
		return row, nil
	})
}

// jsonText writes a JSON value as it would stand in a csv trace.
func jsonText(name string, value any) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case map[string]any:
		if name == "tool_calls" {
			parts := make([]string, 0, len(v))
			for tool, n := range v {
				parts = append(parts, fmt.Sprintf("%s=%v", tool, n))
			}
			return strings.Join(parts, ";"), nil
		}
	}
	return "", fmt.Errorf("%s: a JSON %T does not belong there", name, value)
}
