package replay

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Format is how a trace is written.
type Format string

// Formats.
const (
	// AzureLLM is the Azure LLM inference traces' CSV: TIMESTAMP,ContextTokens,GeneratedTokens.
	// https://github.com/Azure/AzurePublicDataset
	AzureLLM Format = "azure-llm"
	// Mooncake is the Mooncake traces' JSON lines: timestamp (ms), input_length, output_length, hash_ids.
	// https://github.com/kvcache-ai/Mooncake/tree/main/FAST25-release
	Mooncake Format = "mooncake"
	// CSV has a header line that names its columns; see Columns.
	CSV Format = "csv"
	// JSONL has an object on each line, with the names of Columns as keys.
	JSONL Format = "jsonl"
)

// Formats lists the formats.
var Formats = []Format{AzureLLM, Mooncake, CSV, JSONL}

// Read reads a trace as it comes, in flat memory. File is for errors: those about a line are *LineError.
func Read(format Format, file string, r io.Reader) (Rows, error) {
	switch format {
	case AzureLLM:
		return readAzure(file, r), nil
	case Mooncake:
		return readMooncake(file, r), nil
	case CSV:
		return readCSV(file, r), nil
	case JSONL:
		return readJSONL(file, r), nil
	}
	return nil, fmt.Errorf("unknown trace format %q: use one of %v", format, Formats)
}

var azureHeader = []string{"TIMESTAMP", "ContextTokens", "GeneratedTokens"}

func readAzure(file string, r io.Reader) Rows {
	return readRecords(file, r, func(header []string) (func([]string) (Row, error), error) {
		if !slices.Equal(header, azureHeader) {
			return nil, fmt.Errorf("the header is %q, an %s trace has %q", strings.Join(header, ","), AzureLLM, strings.Join(azureHeader, ","))
		}
		var c clock
		return func(record []string) (row Row, err error) {
			at, err := parseTime(record[0])
			if err != nil {
				return row, err
			}
			row.At = c.since(at)
			if row.InputTokens, err = parseCount(header[1], record[1]); err != nil {
				return row, err
			}
			row.OutputTokens, err = parseCount(header[2], record[2])
			return row, err
		}, nil
	})
}

// readRecords reads CSV: begin checks the header and gives what turns a record into a row.
func readRecords(file string, r io.Reader, begin func(header []string) (func(record []string) (Row, error), error)) Rows {
	return func(yield func(Row, error) bool) {
		c := csv.NewReader(r)
		fail := func(line int, err error) {
			if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
				line, err = parse.Line, parse.Err
			}
			yield(Row{}, &LineError{file, line, err.Error()})
		}
		header, err := c.Read()
		if errors.Is(err, io.EOF) {
			err = errors.New("the trace is empty: it must start with a header line")
		}
		if err != nil {
			fail(1, err)
			return
		}
		header = slices.Clone(header)
		header[0] = strings.TrimPrefix(header[0], "\ufeff")
		toRow, err := begin(header)
		if err != nil {
			fail(1, err)
			return
		}
		c.ReuseRecord = true
		for line := 2; ; {
			record, err := c.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				fail(line, err)
				return
			}
			line, _ = c.FieldPos(0)
			row, err := toRow(record)
			if err == nil {
				err = row.check()
			}
			if err != nil {
				fail(line, err)
				return
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}

// maxLine is the longest line of a JSON trace.
const maxLine = 16 << 20

// readLines reads a JSON object from each line that is not blank.
func readLines(file string, r io.Reader, toRow func(line []byte) (Row, error)) Rows {
	return func(yield func(Row, error) bool) {
		s := bufio.NewScanner(r)
		s.Buffer(make([]byte, 0, 64<<10), maxLine)
		line := 0
		for s.Scan() {
			line++
			if len(strings.TrimSpace(s.Text())) == 0 {
				continue
			}
			row, err := toRow(s.Bytes())
			if err == nil {
				err = row.check()
			}
			if err != nil {
				yield(Row{}, &LineError{file, line, err.Error()})
				return
			}
			if !yield(row, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(Row{}, &LineError{file, line + 1, err.Error()})
		}
	}
}

// decodeObject decodes one JSON object and nothing after it.
func decodeObject(line []byte, into any, options ...func(*json.Decoder)) error {
	d := json.NewDecoder(strings.NewReader(string(line)))
	for _, o := range options {
		o(d)
	}
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("not a JSON object of this format: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more follows the JSON object: write one object on each line")
	}
	return nil
}

var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999",
}

// parseTime reads RFC 3339, with a blank for the T if need be; without a zone it is UTC.
func parseTime(s string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time: %q is not such as 2026-11-23T09:30:00Z or 2026-11-23 09:30:00.5", s)
}

func parseCount(name, s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: %q is not a whole number of 0 or more", name, s)
	}
	return n, nil
}
