package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// batchChunk is how many lines one worker takes at once.
const batchChunk = 128

// chunk is some lines of a batch and what they are answered with.
type chunk struct {
	first  int // the number of its first line
	lines  [][]byte
	answer []byte
	count  int
	failed int
	done   chan struct{}
}

// costBatch prices a file of calls, in order. Error: what keeps the file from being read, or the answers from being written.
func costBatch(cmd *cobra.Command, c *coster, d costDefaults, file string) error {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	workers := runtime.GOMAXPROCS(0)
	work, order := make(chan *chunk, workers), make(chan *chunk, 4*workers)
	stop := make(chan struct{})
	defer close(stop)
	for range workers {
		go func() {
			for k := range work {
				k.price(c, d)
				close(k.done)
			}
		}()
	}
	var readErr error
	go func() {
		defer close(order)
		defer close(work)
		readErr = readChunks(in, func(k *chunk) bool {
			select {
			case order <- k:
			case <-stop:
				return false
			}
			select {
			case work <- k:
			case <-stop:
				return false
			}
			return true
		})
	}()
	lines, failed := 0, 0
	for k := range order {
		<-k.done
		lines, failed = lines+k.count, failed+k.failed
		if _, err := cmd.OutOrStdout().Write(k.answer); err != nil {
			return err
		}
	}
	if failed > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "chartergate: %d of %d lines could not be priced; each says why in its error\n", failed, lines)
	}
	return readErr
}

// readChunks gives the lines of a file, as many at once as are there.
func readChunks(in io.Reader, give func(*chunk) bool) error {
	r := bufio.NewReaderSize(in, 1<<20)
	number := 0
	k := &chunk{done: make(chan struct{})}
	flush := func() bool {
		if len(k.lines) == 0 {
			return true
		}
		ok := give(k)
		k = &chunk{done: make(chan struct{})}
		return ok
	}
	for {
		line, err := readLine(r)
		number++
		if len(bytes.TrimSpace(line)) > 0 {
			if len(k.lines) == 0 {
				k.first = number
			}
			k.lines = append(k.lines, line)
		} else if len(k.lines) > 0 {
			k.lines = append(k.lines, nil) // so that numbers stay right
		}
		if err != nil || len(k.lines) >= batchChunk || r.Buffered() == 0 {
			if !flush() {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readLine reads a line; of one that is too long, the beginning, which is too long as well.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		if len(line) <= maxPayload {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

type batchLine struct {
	ID       json.RawMessage `json:"id"`
	Provider string          `json:"provider"`
	API      string          `json:"api"`
	Model    string          `json:"model"`
	At       json.RawMessage `json:"at"`
	Usage    json.RawMessage `json:"usage"`
}

func (k *chunk) price(c *coster, d costDefaults) {
	k.answer = make([]byte, 0, 256*len(k.lines))
	for i, line := range k.lines {
		if line == nil {
			continue
		}
		k.count++
		var l batchLine
		r, err := c.line(&l, line, d)
		if err != nil {
			k.failed++
		}
		k.answer = appendAnswer(k.answer, l.ID, r, err, k.first+i)
	}
}

func (c *coster) line(l *batchLine, line []byte, d costDefaults) (*costed, error) {
	if len(line) > maxPayload {
		return nil, errors.New("it has more than 16 MiB: cut it down to its usage object")
	}
	if err := json.Unmarshal(line, l); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			if wrong.Field == "" {
				return nil, fmt.Errorf("it is not a JSON object but %s", wrong.Value)
			}
			return nil, fmt.Errorf("%s is not a string but %s", wrong.Field, wrong.Value)
		}
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	at := d.at
	switch {
	case len(l.At) == 0 || string(l.At) == "null":
	case l.At[0] == '"':
		var text string
		err := json.Unmarshal(l.At, &text)
		if err == nil && text != "" {
			at, err = parseAt(text)
		}
		if err != nil {
			return nil, fmt.Errorf("at: %w", err)
		}
	default:
		seconds, err := strconv.ParseInt(string(l.At), 10, 64)
		if err != nil || seconds < 0 || seconds > 1<<38 {
			return nil, fmt.Errorf("at: %.40s is not a time: write 2006-01-02T15:04:05Z, or seconds since 1970", l.At)
		}
		at = time.Unix(seconds, 0)
	}
	usage := []byte(l.Usage)
	if len(usage) == 0 || string(usage) == "null" {
		return nil, errors.New("usage is missing")
	}
	if usage[0] == '"' { // the events of a stream
		var text string
		if err := json.Unmarshal(usage, &text); err != nil {
			return nil, err
		}
		usage = []byte(text)
	}
	return c.cost(cmp.Or(l.Provider, d.provider), cmp.Or(l.API, d.api), cmp.Or(l.Model, d.model), at, usage)
}

// appendAnswer appends the line that answers one. Of a payload that cannot be priced, the tokens stand.
func appendAnswer(b []byte, id json.RawMessage, r *costed, failed error, number int) []byte {
	if len(id) == 0 {
		id = json.RawMessage("null")
	}
	if r == nil {
		r = new(costed)
	}
	if failed != nil {
		r.input, r.output, r.total = 0, 0, 0
	}
	b = append(append(b, `{"id":`...), id...)
	for _, f := range [...]struct {
		name string
		n    int64
	}{
		{`,"input_tokens":`, r.used.AllInput()}, {`,"output_tokens":`, r.used.AllOutput()}, {`,"cache_read_tokens":`, cacheRead(&r.used)},
		{`,"input_nanos":`, int64(r.input)}, {`,"output_nanos":`, int64(r.output)}, {`,"total_nanos":`, int64(r.total)},
	} {
		b = strconv.AppendInt(append(b, f.name...), f.n, 10)
	}
	b = append(b, `,"error":`...)
	if failed == nil {
		b = append(b, `""`...)
	} else {
		b = appendJSON(b, fmt.Sprintf("line %d: %v", number, failed))
	}
	if len(r.unpriced) > 0 {
		b = appendJSON(append(b, `,"unpriced":`...), r.unpriced)
	}
	if r.payload != nil && r.payload.Partial {
		b = append(b, `,"partial":true`...)
	}
	return append(b, "}\n"...)
}

func appendJSON(b []byte, v any) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // strings only
	return append(b, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
}
