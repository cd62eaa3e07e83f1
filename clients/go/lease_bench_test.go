package chartergate

import (
	"context"
	"testing"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestTheCheckDoesNotAllocate(t *testing.T) {
	h := newHouse(t)
	_, l := h.lease(chat(2000, 500))
	e := chat(100, 100).Call.Estimate
	if n := testing.AllocsPerRun(1000, func() {
		if !l.Check(e) {
			t.Fatal("refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// plain is a call without tools.
func plain() *chartergatev1.ReserveRequest {
	r := chat(100, 100)
	r.Call.Estimate.ToolCalls = nil
	return r
}

var plainUsage = &chartergatev1.Usage{InputTokens: 90, CacheReadTokens: 10, OutputTokens: 50}

// refill waits for the next slice: a benchmark is faster than any caller.
func refill(b *testing.B, l *Lease) {
	b.StopTimer()
	defer b.StartTimer()
	if err := l.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkLeaseCheck(b *testing.B) {
	_, l := newHouse(b).lease(chat(2000, 500))
	e := plain().Call.Estimate
	b.ReportAllocs()
	for b.Loop() {
		l.Check(e)
	}
}

func BenchmarkLeaseReserveSettle(b *testing.B) {
	_, l := newHouse(b).lease(chat(2000, 500))
	e := plain().Call.Estimate
	b.ReportAllocs()
	for b.Loop() {
		h, ok := l.Reserve(e)
		if !ok {
			refill(b, l)
			continue
		}
		if _, err := l.Settle(h, plainUsage, chartergatev1.Outcome_OUTCOME_SUCCESS); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLeasedClientReserveSettle(b *testing.B) {
	c, l := newHouse(b).lease(chat(2000, 500))
	r := plain()
	b.ReportAllocs()
	for b.Loop() {
		answer := c.leases.reserve(r)
		if answer == nil {
			refill(b, l)
			continue
		}
		if _, err := c.Settle(context.Background(), &chartergatev1.SettleRequest{Hold: answer.Hold.Token, Usage: plainUsage}); err != nil {
			b.Fatal(err)
		}
	}
}
