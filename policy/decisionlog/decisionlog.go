// Package decisionlog writes decisions as OPA's decision log does, so that its tools can read them.
package decisionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// Path is the rule that a policy is asked for.
const Path = "chartergate/routing/decision"

// Event is one decision of one policy: OPA's decision log event, version 1.
type Event struct {
	Labels     map[string]string `json:"labels"`
	DecisionID string            `json:"decision_id"`
	// BatchDecisionID is the kept decision's id where several policies decided it together.
	BatchDecisionID string            `json:"batch_decision_id,omitempty"`
	Bundles         map[string]Bundle `json:"bundles,omitempty"` // the policy and its revision
	Path            string            `json:"path"`
	Input           any               `json:"input,omitempty"`
	Result          any               `json:"result,omitempty"`        // what the policy says of that input
	MappedResult    any               `json:"mapped_result,omitempty"` // what the gate answered, with the money
	Timestamp       time.Time         `json:"timestamp"`
	Custom          map[string]any    `json:"custom,omitempty"`
}

// Bundle is the revision of a policy.
type Bundle struct {
	Revision string `json:"revision"`
}

// WriteLines writes events as lines of JSON.
func WriteLines(w io.Writer, events []Event) error {
	encode := json.NewEncoder(w)
	for i := range events {
		if err := encode.Encode(&events[i]); err != nil {
			return err
		}
	}
	return nil
}

// WriteArray writes events as one gzipped JSON array, as OPA sends them.
func WriteArray(w io.Writer, events []Event) error {
	z := gzip.NewWriter(w)
	if err := json.NewEncoder(z).Encode(events); err != nil {
		return err
	}
	return z.Close()
}

// Limits of a sink.
const (
	maxWaiting  = 4096 // of decisions; further ones are dropped and counted
	maxBatch    = 200
	sendTimeout = 10 * time.Second
	maxTries    = 3
)

// Sink sends decisions of type D to a file, as lines, or to an HTTP server, as gzipped arrays. Whoever hands them over
// never waits.
type Sink[D any] struct {
	location string
	events   func(context.Context, D) ([]Event, error)
	log      *slog.Logger
	client   *http.Client
	waiting  chan D

	sent, dropped atomic.Int64
}

// NewSink makes a sink of a file or an http or https URL; events turns a decision into what is sent. Run it then.
func NewSink[D any](location string, log *slog.Logger, events func(context.Context, D) ([]Event, error)) (*Sink[D], error) {
	if strings.Contains(location, "://") && !strings.HasPrefix(location, "http://") && !strings.HasPrefix(location, "https://") {
		return nil, fmt.Errorf("%q is no http or https URL and no file", location)
	}
	if !strings.Contains(location, "://") {
		f, err := os.OpenFile(location, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return &Sink[D]{location: location, events: events, log: log, client: &http.Client{Timeout: sendTimeout}, waiting: make(chan D, maxWaiting)}, nil
}

// Add hands decisions over. Those for which there is no room are dropped.
func (s *Sink[D]) Add(list ...D) {
	for _, d := range list {
		select {
		case s.waiting <- d:
		default:
			s.dropped.Add(1)
		}
	}
}

// Counts says how many decisions were sent, and how many were dropped for want of room or because they could not be sent.
func (s *Sink[D]) Counts() (sent, dropped int64) { return s.sent.Load(), s.dropped.Load() }

// Run sends what is handed over until ctx ends, and then what waits still, for at most sendTimeout.
func (s *Sink[D]) Run(ctx context.Context) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(sendTimeout, stop) })()
	for {
		select {
		case d := <-s.waiting:
			s.send(sending, s.batch(d))
			continue
		default:
		}
		select {
		case d := <-s.waiting:
			s.send(sending, s.batch(d))
		case <-ctx.Done():
			if len(s.waiting) == 0 {
				return
			}
		}
	}
}

// batch is a decision and those that wait behind it.
func (s *Sink[D]) batch(first D) []D {
	list := []D{first}
	for len(list) < maxBatch {
		select {
		case d := <-s.waiting:
			list = append(list, d)
			continue
		default:
		}
		break
	}
	return list
}

func (s *Sink[D]) send(ctx context.Context, list []D) {
	var events []Event
	done := int64(0)
	for _, d := range list {
		e, err := s.events(ctx, d)
		if err != nil {
			s.dropped.Add(1)
			s.log.Warn("a decision cannot be told to the decision log", "error", err)
			continue
		}
		events, done = append(events, e...), done+1
	}
	if len(events) == 0 {
		return
	}
	if err := s.write(ctx, events); err != nil {
		s.dropped.Add(done)
		s.log.Warn("decisions could not be sent to the decision log and are dropped", "log", s.location, "decisions", done, "error", err)
		return
	}
	s.sent.Add(done)
}

func (s *Sink[D]) write(ctx context.Context, events []Event) error {
	body := &bytes.Buffer{}
	if !strings.Contains(s.location, "://") {
		if err := WriteLines(body, events); err != nil {
			return err
		}
		f, err := os.OpenFile(s.location, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) // it may have been rotated
		if err != nil {
			return err
		}
		_, err = f.Write(body.Bytes())
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		return err
	}
	if err := WriteArray(body, events); err != nil {
		return err
	}
	var err error
	for try := range maxTries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		var again bool
		if again, err = s.post(ctx, body.Bytes()); !again {
			return err
		}
	}
	return err
}

// post says whether trying once more may help.
func (s *Sink[D]) post(ctx context.Context, body []byte) (again bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.location, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := s.client.Do(r)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("%s answers %s", s.location, resp.Status)
}
