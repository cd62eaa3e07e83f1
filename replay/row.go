// Package replay sends recorded or made-up AI calls through the gate: it reserves each call, settles it with what it
// really used, and counts what happened.
package replay

import (
	"fmt"
	"iter"
	"time"
)

// Row is one call of a trace.
type Row struct {
	At           time.Duration // since the first row; never negative
	InputTokens  int64         // cached ones included
	CachedTokens int64         // the part of InputTokens that is read from a prompt cache
	OutputTokens int64

	WrittenTokens int64    // the part of InputTokens that is written to a prompt cache
	WrittenLong   bool     // for one hour, not five minutes
	Prefix        []uint64 // fingerprints of the prompt's blocks
	PrefixBlock   int64    // tokens of each block

	TaskClass     string
	Complexity    int32 // 1 to 100; 0: unknown
	Cohort        string
	User          string
	Agent         string
	Run           string
	PromptPattern string
	Model         string // asked for; may be empty
	Tier          string // asked for; may be empty
	RetrievalHops int64
	ToolCalls     map[string]int64
	Outcome       Outcome
}

// Outcome says how the user's task ended.
type Outcome int

// Outcomes.
const (
	OutcomeUnknown Outcome = iota
	OutcomeSuccess
	OutcomeFailure
)

// Rows is a trace, row by row; an error ends it. It can be walked once.
type Rows = iter.Seq2[Row, error]

// Limit gives the first n rows; all of them when n is 0.
func Limit(rows Rows, n int) Rows {
	if n <= 0 {
		return rows
	}
	return func(yield func(Row, error) bool) {
		left := n
		for row, err := range rows {
			left--
			if !yield(row, err) || left == 0 {
				return
			}
		}
	}
}

// LineError says what is wrong with a line of a trace.
type LineError struct {
	File    string
	Line    int
	Problem string
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem) }

// maxTokens is the most that the API takes for one call.
const maxTokens = 1_000_000_000

// check refuses counts that the API would refuse, so that the error names the line.
func (r *Row) check() error {
	for _, f := range []struct {
		name  string
		count int64
		max   int64
	}{
		{"input tokens", r.InputTokens, maxTokens},
		{"cached tokens", r.CachedTokens, maxTokens},
		{"output tokens", r.OutputTokens, maxTokens},
		{"retrieval hops", r.RetrievalHops, 1_000_000},
		{"complexity", int64(r.Complexity), 100},
	} {
		if f.count < 0 || f.count > f.max {
			return fmt.Errorf("%s: %d is not 0 to %d", f.name, f.count, f.max)
		}
	}
	if r.CachedTokens > r.InputTokens {
		return fmt.Errorf("cached tokens: %d is more than the %d input tokens that they are a part of", r.CachedTokens, r.InputTokens)
	}
	return nil
}

// clock turns the absolute times of a trace into Row.At. A row that is earlier than the first comes with the first.
type clock struct {
	first time.Time
	begun bool
}

func (c *clock) since(t time.Time) time.Duration {
	if !c.begun {
		c.first, c.begun = t, true
	}
	return max(0, t.Sub(c.first))
}
