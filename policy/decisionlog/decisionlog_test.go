package decisionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func event(_ context.Context, n int) ([]Event, error) {
	if n < 0 {
		return nil, errors.New("negative")
	}
	return []Event{{Labels: map[string]string{"app": "test"}, DecisionID: fmt.Sprint(n), Path: Path, Timestamp: time.Unix(int64(n), 0).UTC(), Result: map[string]any{"effect": "deny"}}}, nil
}

func newSink(t *testing.T, location string) *Sink[int] {
	t.Helper()
	s, err := NewSink(location, slog.New(slog.DiscardHandler), event)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ended is a context that is over: Run sends what waits and ends.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log.jsonl")
	s := newSink(t, file)
	s.Add(1, -1, 2)
	s.Run(ended())
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	var e Event
	if err := json.Unmarshal([]byte(lines[1]), &e); err != nil || len(lines) != 2 || e.DecisionID != "2" {
		t.Errorf("%v, the file is\n%s", err, text)
	}
	if sent, dropped := s.Counts(); sent != 2 || dropped != 1 {
		t.Errorf("%d sent, %d dropped", sent, dropped)
	}
}

func TestServer(t *testing.T) {
	var got []Event
	answer, batches := http.StatusOK, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("the body is no gzip: %v", err)
			return
		}
		var list []Event
		if err := json.NewDecoder(z).Decode(&list); err != nil {
			t.Error(err)
		}
		got, batches = append(got, list...), batches+1
		w.WriteHeader(answer)
	}))
	defer server.Close()
	s := newSink(t, server.URL+"/logs")
	for i := range maxWaiting + 10 { // nobody reads yet: the last ten have no room
		s.Add(i)
	}
	s.Run(ended())
	if sent, dropped := s.Counts(); sent != maxWaiting || dropped != 10 || len(got) != maxWaiting || batches != (maxWaiting+maxBatch-1)/maxBatch {
		t.Errorf("%d sent, %d dropped, %d came in %d batches", sent, dropped, len(got), batches)
	}
	answer, got = http.StatusBadRequest, nil // not to be tried again
	s.Add(1)
	s.Run(ended())
	if _, dropped := s.Counts(); dropped != 11 || len(got) != 1 {
		t.Errorf("%d dropped after a refusal, sent %d times", dropped, len(got))
	}
}

func TestArray(t *testing.T) {
	events, _ := event(t.Context(), 7)
	var b bytes.Buffer
	if err := WriteArray(&b, events); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	if err := json.NewDecoder(z).Decode(&list); err != nil || len(list) != 1 || list[0]["decision_id"] != "7" || list[0]["path"] != Path {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := NewSink("ftp://host/x", slog.Default(), event); err == nil {
		t.Error("an FTP location is taken")
	}
}
