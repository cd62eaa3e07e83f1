package preflight_test

import (
	"context"
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// What the decision costs in the process: policy, price, hold and token, without gRPC.
func BenchmarkReserve(b *testing.B) {
	w := newWorld(b)
	w.company(1_000_000 * money.Unit)
	c := call(1000, 500)
	b.ReportAllocs()
	for b.Loop() {
		if _, h, err := w.gate.Reserve(context.Background(), c, 0); err != nil || h == nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	w := newWorld(b)
	w.company(1_000_000 * money.Unit)
	c := call(1000, 500)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.gate.Check(context.Background(), c); err != nil {
			b.Fatal(err)
		}
	}
}

// 64 callers at once: settlements share commits.
func BenchmarkReserveSettle64(b *testing.B) {
	w := newWorld(b)
	w.company(1_000_000 * money.Unit)
	c := call(1000, 500)
	b.ReportAllocs()
	b.SetParallelism(32) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, h, err := w.gate.Reserve(context.Background(), c, 0)
			if err != nil || h == nil {
				b.Error(err)
				return
			}
			if _, err := w.gate.Settle(context.Background(), h.Token, &usage.Usage{InputTokens: 1000, OutputTokens: 100}, "", 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
