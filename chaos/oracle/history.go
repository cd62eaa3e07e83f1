// Package oracle judges a run by what is left of it: the records in etcd, the archive of the journal, and what every client
// was told. It shares no code with what it judges but the messages of the records.
package oracle

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Op is what a client asked for.
type Op string

// The operations of a history.
const (
	Reserve Op = "reserve"
	Settle  Op = "settle"
	Release Op = "release"
	Extend  Op = "extend"
)

// Outcomes of an attempt. Any other is the reason of an error that is an answer, such as `HOLD_SETTLED`.
const (
	// Unknown: there was no answer, so the operation may have been done, may yet be, or never.
	Unknown = ""
	// OK: the operation was done. A Reserve that is OK made a hold.
	OK = "OK"
	// Denied and Throttled are Reserves that made no hold.
	Denied, Throttled = "DENIED", "THROTTLED"
	// Refused: the server did nothing, and said so.
	Refused = "REFUSED"
)

// Attempt is one RPC of a client. Times are CLOCK_MONOTONIC of the machine, in nanos; amounts are nanos of money.
type Attempt struct {
	ID      string `json:"id"`             // unique in a run
	Op      Op     `json:"op"`             //
	Call    string `json:"call"`           // the AI call that it is about; its entries have it as prompt_pattern
	Replica int    `json:"on"`             // which was asked
	Hold    string `json:"hold,omitempty"` // `{owner}/{seq}`; of a Reserve once it is OK
	Ask     int64  `json:"ask,omitempty"`  // Settle: the cost of the usage. Reserve: the least that was asked for
	Usage   Tokens `json:"use,omitzero"`   // Settle: priced at Ask
	Model   string `json:"model,omitempty"`
	Start   int64  `json:"t0"`
	End     int64  `json:"t1,omitempty"` // 0: no answer
	Outcome string `json:"out,omitempty"`
	Error   string `json:"err,omitempty"` // why there is no answer, for people

	// Answer of Reserve; Token and Expires also of Extend.
	Accounts []string `json:"acc,omitempty"`    // names of the accounts that are charged
	Feature  string   `json:"feat,omitempty"`   //
	Held     int64    `json:"held,omitempty"`   //
	Charge   bool     `json:"charge,omitempty"` // on expiry
	Token    string   `json:"token,omitempty"`  //
	Expires  int64    `json:"exp,omitempty"`    //
	Bound    string   `json:"bound,omitempty"`  // the account that a refusal names

	// Answer of Settle; Journal and Time are empty once the entry has moved to the archive.
	Cost    int64  `json:"cost,omitempty"`
	Forced  int64  `json:"forced,omitempty"`
	Late    bool   `json:"late,omitempty"`
	Journal string `json:"jr,omitempty"`
	Time    int64  `json:"at,omitempty"` // when it was accepted, Unix milliseconds
	// Answer HOLD_SETTLED: what it was settled at; -1 where the answer does not say.
	First int64 `json:"first,omitempty"`
}

// Tokens are what a call used, by price.
type Tokens struct {
	Input  int64 `json:"i,omitempty"`
	Cached int64 `json:"c,omitempty"`
	Output int64 `json:"o,omitempty"`
}

// Limit is a change of a ceiling: in force at some moment between Start and End, or, where End is 0, perhaps never.
type Limit struct {
	Account string // a budget's name; it is also the ceiling of each of its keys
	Nanos   int64
	Start   int64
	End     int64
}

// History is what the clients of a run were told.
type History struct {
	Attempts []*Attempt
	Limits   []Limit
}

// Writer keeps what one client does. What it wrote survives the client's kill -9.
type Writer struct{ file *os.File }

// NewWriter appends to a file.
func NewWriter(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &Writer{f}, err
}

// Write keeps an attempt: before it is sent, and again when there is an answer.
func (w *Writer) Write(a *Attempt) error {
	line, err := json.Marshal(a)
	if err != nil {
		return err
	}
	_, err = w.file.Write(append(line, '\n')) // one write: another client's kill cannot cut it
	return err
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }

// ReadAttempts reads the files that match a pattern, in the order in which the attempts were started.
func ReadAttempts(pattern string) ([]*Attempt, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	last := map[string]*Attempt{}
	for _, name := range files {
		if err := readFile(name, last); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	list := make([]*Attempt, 0, len(last))
	for _, a := range last {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *Attempt) int {
		switch {
		case a.Start != b.Start:
			return int(min(max(a.Start-b.Start, -1), 1))
		case a.ID < b.ID:
			return -1
		}
		return 1
	})
	return list, nil
}

func readFile(name string, last map[string]*Attempt) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil // a line without an end was cut by a kill
		}
		if err != nil {
			return err
		}
		a := new(Attempt)
		if err := json.Unmarshal(line, a); err != nil {
			return err
		}
		last[a.ID] = a
	}
}

// HoldOf names the hold of a token, `{owner}/{seq}`: a token starts with a version, 16 bytes of owner and the number of
// the hold as a varint, in base64url.
func HoldOf(token string) (string, error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(data) < 18 {
		return "", fmt.Errorf("token %q: %d bytes, %v", token, len(data), err)
	}
	seq, n := binary.Uvarint(data[17:])
	if n <= 0 {
		return "", fmt.Errorf("token %q has no number", token)
	}
	return fmt.Sprintf("%s/%d", hex.EncodeToString(data[1:17]), seq), nil
}
