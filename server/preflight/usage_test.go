package preflight_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// Usage is repeated while the first request is under way, as gateways do after a time-out: it counts once, and all who
// get an answer get the same.
func TestUsageRepeatedWhileUnderWayCountsOnce(t *testing.T) {
	w := newWorld(t)
	w.company(money.Unit)
	const ids, tries = 20, 8
	for i := range ids {
		use := &preflight.Use{
			Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 100}, RequestID: fmt.Sprintf("r%d", i), BodyHash: []byte("x"),
		}
		var mu sync.Mutex
		journals := map[string]int{}
		var all sync.WaitGroup
		gone, leave := context.WithCancel(t.Context())
		for n := range tries {
			ctx := t.Context()
			if n == 0 {
				ctx = gone // the first caller does not wait for its answer
			}
			all.Go(func() {
				s, err := w.gate.RecordUsage(ctx, use)
				switch {
				case err == nil:
					mu.Lock()
					journals[s.Journal]++
					mu.Unlock()
				case n > 0:
					t.Errorf("usage %d: %v", i, err)
				}
			})
		}
		leave()
		all.Wait()
		if len(journals) != 1 {
			t.Errorf("usage %d stands in %v, want one record", i, journals)
		}
	}
	if st := w.status("budgets/chat"); st.Settled != ids*1_000_000 || st.Forced != ids*1_000_000 {
		t.Errorf("%d settled, %d forced, want %d", st.Settled, st.Forced, ids*1_000_000)
	}
	other := &preflight.Use{
		Call: routing.Call{Feature: "chat"}, Model: "large", Usage: usage.Usage{InputTokens: 101}, RequestID: "r0", BodyHash: []byte("y"),
	}
	_, err := w.gate.RecordUsage(t.Context(), other)
	if conflict := (*preflight.RequestConflictError)(nil); !errors.As(err, &conflict) {
		t.Errorf("another body under the same id: error %v", err)
	}
}
