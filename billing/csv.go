package billing

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Limits of a record of text.
const (
	maxRecord   = 4 << 20 // bytes
	maxColumns  = 5000
	maxPreamble = 10 // records before the header, as old Azure exports have
)

type csvTable struct {
	header
	r     *csv.Reader
	guard *guard
	at    int64
	comma rune
}

// guard ends a record that does not end: an unclosed quote would take the rest of the file into memory.
type guard struct {
	r    io.Reader
	left int
}

var errEndless = errors.New("record does not end")

func (g *guard) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errEndless
	}
	n, err := g.r.Read(p)
	g.left -= n
	return n, err
}

func newCSV(text *bufio.Reader) (*csvTable, error) {
	comma, err := delimiter(text)
	if err != nil {
		return nil, err
	}
	t := &csvTable{guard: &guard{r: text}, comma: comma}
	t.r = csv.NewReader(t.guard)
	t.r.Comma, t.r.ReuseRecord, t.r.FieldsPerRecord = comma, true, -1
	var first []string
	for range maxPreamble {
		record, err := t.read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = append(first, record...)
		}
		h, err := newHeader(append([]string(nil), record...))
		if knownFormat(&h) {
			if err != nil {
				return nil, err
			}
			if len(record) > maxColumns {
				return nil, fmt.Errorf("the header has %d columns, at most %d are read", len(record), maxColumns)
			}
			t.header = h
			return t, nil
		}
	}
	return nil, unknownFormat(first)
}

// delimiter finds which of , ; tab and | parts the header.
func delimiter(b *bufio.Reader) (rune, error) {
	head, err := b.Peek(b.Size())
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return 0, err
	}
	best, most := ',', 0
	for line := range bytes.Lines(head) {
		for _, c := range []byte{',', ';', '\t', '|'} {
			if n := bytes.Count(line, []byte{c}); n > most {
				best, most = rune(c), n
			}
		}
		if most >= 3 { // a header, and not a title above it
			break
		}
	}
	return best, nil
}

func (t *csvTable) line() int64 { return t.at }

func (t *csvTable) read() ([]string, error) {
	t.guard.left = maxRecord
	record, err := t.r.Read()
	if len(record) > 0 {
		line, _ := t.r.FieldPos(0)
		t.at = int64(line)
	}
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		t.at = int64(e.StartLine)
		switch {
		case errors.Is(e.Err, csv.ErrBareQuote):
			return nil, fmt.Errorf("line %d, character %d: a quote stands inside of a value that does not begin with one: write it twice and put the value in quotes", e.Line, e.Column)
		case errors.Is(e.Err, csv.ErrQuote) && e.Line != e.StartLine:
			return nil, fmt.Errorf("line %d: the record has a quote that is not closed, up to line %d: close it, or write a quote inside of a value twice", e.StartLine, e.Line)
		case errors.Is(e.Err, csv.ErrQuote):
			return nil, fmt.Errorf("line %d, character %d: a quoted value ends before a delimiter, or its quote is not closed: write a quote inside of a value twice", e.Line, e.Column)
		}
		return nil, fmt.Errorf("line %d: %w", e.Line, e.Err)
	}
	if errors.Is(err, errEndless) {
		return nil, fmt.Errorf("the record after line %d does not end within %d MiB: a quote is not closed", t.at, maxRecord>>20)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("after line %d: %w", t.at, err)
	}
	return record, err
}

func (t *csvTable) next() ([]string, error) {
	record, err := t.read()
	if err != nil {
		return nil, err
	}
	if len(record) != len(t.raw) {
		if len(record) == 1 && strings.TrimSpace(record[0]) == "" {
			return nil, &RowError{Line: t.at, Reason: "blank", Detail: "the line is blank"}
		}
		return nil, &RowError{Line: t.at, Reason: "number of columns", Detail: fmt.Sprintf("has %d columns, the header has %d", len(record), len(t.raw))}
	}
	for i, v := range record {
		if !utf8.ValidString(v) {
			return nil, fmt.Errorf("line %d, column %s: %s is not UTF-8; if the file is Latin-1 or Windows-1252 say --encoding windows-1252", t.at, t.raw[i], quote(v))
		}
	}
	return record, nil
}
