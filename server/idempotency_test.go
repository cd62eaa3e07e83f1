package server

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/proto/codec"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

type memory struct {
	*Idempotency
	clock time.Time
	calls int
}

func newMemory() *memory {
	m := &memory{clock: time.Unix(1_800_000_000, 0)}
	m.Idempotency = NewIdempotency(func() time.Time { return m.clock })
	return m
}

// do answers with the number of the call.
func (m *memory) do(t *testing.T, method, id, feature string) int64 {
	t.Helper()
	reply, err := m.Do(t.Context(), method, &chartergatev1.ReserveRequest{RequestId: id, Call: &chartergatev1.Call{Feature: feature}},
		func() (proto.Message, error) {
			m.calls++
			return &chartergatev1.ReleaseResponse{ReleasedNanos: int64(m.calls)}, nil
		})
	if err != nil {
		t.Fatal(err)
	}
	return released(t, reply)
}

func released(t *testing.T, reply codec.Encoded) int64 {
	t.Helper()
	m := new(chartergatev1.ReleaseResponse)
	if err := proto.Unmarshal(reply, m); err != nil {
		t.Error(err)
	}
	return m.ReleasedNanos
}

func TestIdempotencyGivesTheFirstAnswer(t *testing.T) {
	m := newMemory()
	if a, b := m.do(t, "/m", "1", "x"), m.do(t, "/m", "1", "x"); a != 1 || b != 1 {
		t.Errorf("answers are %d and %d, want the first twice", a, b)
	}
	if m.do(t, "/other", "1", "x") != 2 || m.do(t, "/m", "2", "x") != 3 {
		t.Error("another method or id is another request")
	}
	if m.do(t, "/m", "", "x") != 4 || m.do(t, "/m", "", "x") != 5 {
		t.Error("without an id every request is made")
	}
	_, err := m.Do(t.Context(), "/m", &chartergatev1.ReserveRequest{RequestId: "1", Call: &chartergatev1.Call{Feature: "y"}}, nil)
	if r, ok := errors.AsType[Reasoned](err); !ok || r.Reason() != isIDConflict {
		t.Errorf("another body gives %v", err)
	}
}

func TestIdempotencyKeepsAMinute(t *testing.T) {
	m := newMemory()
	m.do(t, "/m", "1", "x")
	for range 3 {
		m.clock = m.clock.Add(29 * time.Second)
		m.do(t, "/m", strconv.Itoa(m.calls+10), "x") // others come meanwhile
		if m.do(t, "/m", "1", "x") != 1 {
			t.Fatalf("forgotten after %v", m.clock)
		}
	}
	m.clock = m.clock.Add(2 * time.Minute)
	if m.do(t, "/m", "1", "x") == 1 {
		t.Error("kept for more than two minutes")
	}
}

func TestIdempotencyIsBounded(t *testing.T) {
	m := newMemory()
	for i := range 3 * answersPerGeneration {
		m.do(t, "/m", strconv.Itoa(i), "x")
	}
	kept := 0
	for i := range m.shards {
		kept += len(m.shards[i].cur) + len(m.shards[i].prev)
	}
	if kept > 2*answersPerGeneration || kept < answersPerGeneration {
		t.Errorf("%d answers are kept, want at most two generations of %d", kept, answersPerGeneration)
	}
	if m.do(t, "/m", strconv.Itoa(3*answersPerGeneration-1), "x") != 3*answersPerGeneration {
		t.Error("the newest is forgotten")
	}
}

func TestIdempotencyKeepsAnswersOnly(t *testing.T) {
	m := newMemory()
	req, broken := &chartergatev1.ReserveRequest{RequestId: "1"}, errors.New("broken")
	if _, err := m.Do(t.Context(), "/m", req, func() (proto.Message, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("error is %v", err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = m.Do(t.Context(), "/m", req, func() (proto.Message, error) { panic("at the disco") })
	}()
	if reply, err := m.Do(t.Context(), "/m", req, func() (proto.Message, error) { return &chartergatev1.ReleaseResponse{}, nil }); err != nil || reply == nil {
		t.Errorf("after an error and a panic: %v (%v)", reply, err)
	}
}

// Retries that come while the first is running wait for it; when it fails, one of them is next.
func TestIdempotencyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		var calls atomic.Int64
		release, answers := make(chan struct{}), make(chan int64, 8)
		req := &chartergatev1.ReserveRequest{RequestId: "1"}
		for range 8 {
			go func() {
				reply, err := m.Do(t.Context(), "/m", req, func() (proto.Message, error) {
					n := calls.Add(1)
					<-release
					if n == 1 {
						return nil, errors.New("the first fails")
					}
					return &chartergatev1.ReleaseResponse{ReleasedNanos: n}, nil
				})
				if err != nil {
					answers <- 0
					return
				}
				answers <- released(t, reply)
			}()
		}
		synctest.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls run at once", n)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := m.Do(gone, "/m", req, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a waiter that gives up gets %v", err)
		}
		// The running call survives any number of generations.
		for range 3 {
			m.clock = m.clock.Add(time.Minute)
			for i := range idempotencyShards * 4 {
				m.do(t, "/n", strconv.Itoa(i), "x")
			}
		}
		close(release)
		synctest.Wait()
		sum := int64(0)
		for range 8 {
			sum += <-answers
		}
		if calls.Load() != 2 || sum != 7*2 {
			t.Errorf("%d calls, answers add up to %d; want 2 calls and 7 times the answer of the second", calls.Load(), sum)
		}
	})
}
