package preflight_test

import (
	"context"
	"testing"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
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

// What policies add to a check: none but a constant, the shipped set, and that with one of the team and one of the feature, over
// calls that differ.
func BenchmarkCheckPolicies(b *testing.B) {
	w := newWorld(b)
	w.company(1_000_000 * money.Unit)
	compiled := func(name, text string) *policy.Revision {
		modules := policy.Builtin()
		if text != "" {
			modules = map[string]string{"routing.rego": "package chartergate.routing\n\n" + text}
		}
		p, err := policy.Compile(modules)
		if err != nil {
			b.Fatal(err)
		}
		return &policy.Revision{Name: name, Policy: p}
	}
	constant := compiled("constant", "decision := {\"effect\": \"allow\", \"tiers\": [\"economy\", \"standard\"]}\n")
	shipped := compiled("shipped", "")
	team := compiled("team", "default decision := {\"effect\": \"allow\", \"max_output_tokens\": 8000}\n\ndecision := {\"effect\": \"downgrade\", \"tiers\": [\"economy\"]} if input.budget.utilization >= 0.5\n")
	feature := compiled("feature", "default decision := {\"effect\": \"allow\", \"tiers\": [\"standard\", \"economy\"]}\n\ndecision := {\"effect\": \"allow\", \"tiers\": [\"economy\"]} if input.request.cohort == \"free\"\n")
	classes := []string{"chat", "rag", "code", "classify", "summarize"}
	for _, x := range []struct {
		name string
		set  policy.Set
	}{
		{"constant", policy.Set{Organisation: constant}},
		{"shipped", policy.Set{Organisation: shipped}},
		{"three", policy.Set{Organisation: shipped, Teams: map[string]*policy.Revision{"chat": team}, Features: map[string]*policy.Revision{"chat": feature}}},
	} {
		b.Run(x.name, func(b *testing.B) {
			w.decider.Use(&x.set)
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				c := call(200+i*7919%9000, 400)
				c.Model, c.Tier, c.TaskClass = "", "", classes[i%5]
				if d, err := w.gate.Check(context.Background(), c); err != nil || d.Effect > routing.Downgrade {
					b.Fatal(d, err)
				}
			}
		})
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
