package billing

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// jsonTable reads an object a line. Objects inside are columns of their own, `service.id`; lists stay JSON.
type jsonTable struct {
	b       *bufio.Reader
	raw     []string
	index   map[string]int
	record  []string
	pending []byte // the first line, read for its names
	at      int64
	buffer  []byte
}

func newJSONLines(b *bufio.Reader) (*jsonTable, error) {
	t := &jsonTable{b: b, index: make(map[string]int)}
	line, err := t.readLine()
	if err != nil {
		return nil, err
	}
	t.pending = bytes.Clone(line)
	first := make(map[string]bool)
	err = flatten(line, "", func(name, _ string) {
		if !first[name] {
			first[name] = true
			t.raw = append(t.raw, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", t.at, err)
	}
	h, _ := newHeader(t.raw)
	if !knownFormat(&h) {
		return nil, fmt.Errorf("%w: the first object has the keys of no FOCUS, AWS, Azure or GCP export", ErrFormat)
	}
	return t, nil
}

func (t *jsonTable) names() []string { return t.raw }
func (t *jsonTable) line() int64     { return t.at }
func (t *jsonTable) place(i int) int { return t.column(fold(t.raw[i])) }

func (t *jsonTable) column(folded ...string) int {
	if len(folded) == 0 {
		return -1
	}
	at := -1
	for _, f := range folded { // any of them fills the same place
		if i, ok := t.index[f]; ok {
			at = i
		}
	}
	if at < 0 {
		at = len(t.record)
		t.record = append(t.record, "")
	}
	for _, f := range folded {
		if _, ok := t.index[f]; !ok {
			t.index[f] = at
		}
	}
	return at
}

func (t *jsonTable) readLine() ([]byte, error) {
	for {
		t.at++
		t.buffer = t.buffer[:0]
		for {
			part, err := t.b.ReadSlice('\n')
			t.buffer = append(t.buffer, part...)
			if len(t.buffer) > maxRecord {
				return nil, fmt.Errorf("line %d is longer than %d MiB: write an object on each line", t.at, maxRecord>>20)
			}
			if err == nil || errors.Is(err, io.EOF) {
				break
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return nil, fmt.Errorf("line %d: %w", t.at, err)
			}
		}
		if line := bytes.TrimSpace(t.buffer); len(line) > 0 {
			return line, nil
		}
		if len(t.buffer) == 0 {
			return nil, io.EOF
		}
	}
}

func (t *jsonTable) next() ([]string, error) {
	line := t.pending
	if t.pending = nil; line == nil {
		var err error
		if line, err = t.readLine(); err != nil {
			return nil, err
		}
	}
	if !utf8.Valid(line) {
		return nil, fmt.Errorf("line %d is not UTF-8", t.at)
	}
	clear(t.record)
	err := flatten(line, "", func(name, value string) {
		if i, ok := t.index[fold(name)]; ok && value != "" {
			t.record[i] = value
		}
	})
	if err != nil {
		return nil, &RowError{Line: t.at, Reason: "not JSON", Detail: err.Error()}
	}
	return t.record, nil
}

// flatten gives the values of an object: strings as they are, lists as JSON, null as empty. An object is given whole
// too, for those that are maps.
func flatten(data []byte, prefix string, each func(name, value string)) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return fmt.Errorf("is not a JSON object: %w", err)
	}
	for name, value := range object {
		name = prefix + name
		switch {
		case value[0] == '"':
			var s string
			if err := json.Unmarshal(value, &s); err != nil {
				return err
			}
			each(name, s)
		case value[0] == '{':
			each(name, string(value))
			if strings.Count(name, ".") < 3 {
				if err := flatten(value, name+".", each); err != nil {
					return err
				}
			}
		case string(value) == "null":
			each(name, "")
		default:
			each(name, string(value))
		}
	}
	return nil
}
