// Package evaluate scores a routing policy on labelled cases: what it saves, and what quality it keeps.
package evaluate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
)

// Limits of a file of cases.
const (
	MaxLine   = 1 << 20 // bytes
	MaxTokens = 1_000_000_000
)

// Case is one task: what it used with each tier, and which tiers sufficed for it.
type Case struct {
	ID           string           `json:"id"`
	TaskClass    string           `json:"task_class"`
	Prompt       string           `json:"prompt"`
	InputTokens  *int64           `json:"input_tokens"`
	OutputTokens map[string]int64 `json:"output_tokens"`
	Sufficient   map[string]bool  `json:"sufficient"`
}

// LineError says what is wrong with a line.
type LineError struct {
	File    string
	Line    int // from 1
	Problem string
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem) }

// Read gives the cases of a file of JSON lines, one after the other; empty lines are passed over. It keeps one line at a
// time. It stops at the first error, of f or its own, and says its line. Error: *LineError, and those of r.
func Read(file string, r io.Reader, f func(*Case) error) error {
	b := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for line := 1; ; line++ {
		text, err := readLine(b, &long)
		if err != nil && !errors.Is(err, io.EOF) {
			if errors.Is(err, errLong) {
				return &LineError{file, line, fmt.Sprintf("the line has more than %d bytes", MaxLine)}
			}
			return fmt.Errorf("%s:%d: %w", file, line, err)
		}
		if line == 1 {
			text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
		}
		if text = bytes.TrimSpace(text); len(text) > 0 {
			c := new(Case)
			problem := decode(text, c)
			if problem == nil {
				problem = f(c)
			}
			if problem != nil {
				return &LineError{file, line, problem.Error()}
			}
		}
		if err != nil {
			return nil
		}
	}
}

var errLong = errors.New("the line is too long")

// readLine gives a line, which is valid until the next; with io.EOF the last.
func readLine(b *bufio.Reader, long *[]byte) ([]byte, error) {
	text, err := b.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		return text, err
	}
	*long = append((*long)[:0], text...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if text, err = b.ReadSlice('\n'); len(*long)+len(text) > MaxLine {
			return nil, errLong
		}
		*long = append(*long, text...)
	}
	return *long, err
}

func decode(text []byte, c *Case) error {
	if err := json.Unmarshal(text, c); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return fmt.Errorf("%s has a %s: it must be %s", e.Field, e.Value, wanted(e))
		}
		return fmt.Errorf("it is not a JSON object: %w", err)
	}
	switch {
	case c.InputTokens == nil:
		return errors.New("input_tokens is missing: give the tokens of the prompt")
	case *c.InputTokens < 0 || *c.InputTokens > MaxTokens:
		return fmt.Errorf("input_tokens is %d: it must be 0 to %d", *c.InputTokens, MaxTokens)
	case len(c.OutputTokens) == 0:
		return errors.New(`output_tokens is missing: give them by tier, as in "output_tokens":{"economy":120,"premium":150}`)
	case len(c.Sufficient) == 0:
		return errors.New(`sufficient is missing: say by tier whether it sufficed, as in "sufficient":{"economy":false,"premium":true}`)
	}
	for _, tier := range slices.Sorted(maps.Keys(c.OutputTokens)) {
		if n := c.OutputTokens[tier]; n < 0 || n > MaxTokens {
			return fmt.Errorf("output_tokens.%s is %d: it must be 0 to %d", tier, n, MaxTokens)
		}
	}
	return nil
}

func wanted(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "bool":
		return "true or false"
	case "int64":
		return "a whole number"
	case "map", "struct":
		return "an object"
	}
	return "a text"
}

// tiersOf gives the tiers that a case labels, in the catalog's order.
func tiersOf(c *Case, catalog *charter.Catalog) ([]string, error) {
	for _, names := range [2][]string{slices.Sorted(maps.Keys(c.Sufficient)), slices.Sorted(maps.Keys(c.OutputTokens))} {
		for _, tier := range names {
			if catalog.Rank(tier) < 0 {
				return nil, fmt.Errorf("the catalog has no tier %q, it has %s: name these, or give another catalog with -f", tier, tierList(catalog))
			}
		}
	}
	var tiers []string
	for _, t := range catalog.Tiers {
		if _, ok := c.Sufficient[t.ID]; ok {
			tiers = append(tiers, t.ID)
		}
	}
	return tiers, nil
}

func tierList(catalog *charter.Catalog) string {
	list := ""
	for i, t := range catalog.Tiers {
		if i > 0 {
			list += ", "
		}
		list += t.ID
	}
	return list
}

// outputs gives the output tokens by the given tiers. A tier that is not there is taken to write as much as the one of
// the case that writes the most.
func outputs(dst []int64, c *Case, tiers []string) {
	most := slices.Max(slices.Collect(maps.Values(c.OutputTokens)))
	for i, tier := range tiers {
		n, ok := c.OutputTokens[tier]
		if !ok {
			n = most
		}
		dst[i] = n
	}
}
