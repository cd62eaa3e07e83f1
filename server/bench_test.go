package server

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func aReserve(id string) *chartergatev1.ReserveRequest {
	return &chartergatev1.ReserveRequest{
		RequestId: id, Ttl: durationpb.New(time.Minute),
		Call: &chartergatev1.Call{
			Feature: "support-copilot", TaskClass: "chat", Complexity: 30, RequiredCapabilities: []string{"chat", "tools"},
			User: "u-4711", Cohort: "beta", PromptPattern: "answer-v3", Labels: map[string]string{"region": "eu"},
			Estimate: &chartergatev1.Estimate{InputTokens: 1200, CachedInputTokens: 800, MaxOutputTokens: 400, ToolCalls: map[string]int64{"web_search": 1}},
		},
	}
}

func BenchmarkValidateReserve(b *testing.B) {
	v, req := validator(b), aReserve("r-1")
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Validate(req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidateSettle(b *testing.B) {
	v := validator(b)
	req := &chartergatev1.SettleRequest{Hold: "token", RequestId: "r-1", Usage: &chartergatev1.Usage{
		InputTokens: 400, CacheReadTokens: 800, OutputTokens: 300, ToolCalls: map[string]int64{"web_search": 1}}}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Validate(req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIdempotency(b *testing.B) {
	plain := aReserve("")
	plain.Call.Labels, plain.Call.Estimate.ToolCalls = nil, nil
	for name, req := range map[string]*chartergatev1.ReserveRequest{"plain": plain, "maps": aReserve("")} {
		b.Run(name, func(b *testing.B) {
			c := NewIdempotency(time.Now)
			answer := &chartergatev1.ReserveResponse{Decision: &chartergatev1.Decision{Effect: chartergatev1.Effect_EFFECT_ALLOW, Tier: "economy", Model: "small"}}
			call := func() (proto.Message, error) { return answer, nil }
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				req.RequestId = strconv.Itoa(i)
				if _, err := c.Do(context.Background(), chartergatev1.PreflightService_Reserve_FullMethodName, req, call); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What the interceptor adds to a call.
func BenchmarkGate(b *testing.B) {
	g := &gate{validator: validator(b), requests: NewIdempotency(time.Now), metrics: newCallMetrics(prometheus.NewRegistry()), log: slog.New(slog.DiscardHandler)}
	info := &grpc.UnaryServerInfo{FullMethod: chartergatev1.PreflightService_Reserve_FullMethodName}
	g.metrics.add(info.FullMethod, false)
	req, answer := aReserve(""), &chartergatev1.ReserveResponse{}
	handler := func(context.Context, any) (any, error) { return answer, nil }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.unary(b.Context(), req, info, handler); err != nil {
			b.Fatal(err)
		}
	}
}
