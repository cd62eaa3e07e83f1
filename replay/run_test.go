package replay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// gate is a scripted server: one nano a token, answers chosen by the estimate, idempotent by hold.
type gate struct {
	mu        sync.Mutex
	reserve   func(n int, r *pb.ReserveRequest) (*pb.ReserveResponse, error) // n: how often this request came before
	settle    func(n int, r *pb.SettleRequest) error
	seen      map[string]int
	bodies    map[string]proto.Message
	changed   []string // ids that came with another body
	settled   map[string]int64
	inFlight  int
	most      int
	callTimes time.Duration
}

func newGate() *gate {
	return &gate{
		seen: map[string]int{}, bodies: map[string]proto.Message{}, settled: map[string]int64{},
		reserve: func(int, *pb.ReserveRequest) (*pb.ReserveResponse, error) { return allow("economy", "small"), nil },
		settle:  func(int, *pb.SettleRequest) error { return nil },
	}
}

func allow(tier, model string) *pb.ReserveResponse {
	return &pb.ReserveResponse{
		Decision: &pb.Decision{Effect: pb.Effect_EFFECT_ALLOW, Tier: tier, Model: model, Currency: "USD"},
		Hold:     &pb.Hold{Token: tier + "/" + model},
	}
}

func refuse(effect pb.Effect, reasons ...*pb.Reason) *pb.ReserveResponse {
	return &pb.ReserveResponse{Decision: &pb.Decision{Effect: effect, Reasons: reasons, RetryDelay: durationpb.New(2 * time.Second)}}
}

func (g *gate) come(id string, body proto.Message) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if first := g.bodies[id]; first != nil && !proto.Equal(first, body) {
		g.changed = append(g.changed, id)
	}
	g.bodies[id] = body
	g.seen[id]++
	return g.seen[id] - 1
}

func (g *gate) Reserve(_ context.Context, r *pb.ReserveRequest, _ ...grpc.CallOption) (*pb.ReserveResponse, error) {
	g.mu.Lock()
	g.inFlight++
	g.most = max(g.most, g.inFlight)
	g.mu.Unlock()
	defer func() { g.mu.Lock(); g.inFlight--; g.mu.Unlock() }()
	time.Sleep(g.callTimes) // a bubble's clock: takes no real time
	resp, err := g.reserve(g.come(r.GetRequestId(), r), r)
	if resp.GetHold() != nil {
		resp = proto.CloneOf(resp)
		resp.Hold.Token = r.GetRequestId() + " " + resp.Hold.Token
	}
	return resp, err
}

func (g *gate) Settle(_ context.Context, r *pb.SettleRequest, _ ...grpc.CallOption) (*pb.SettleResponse, error) {
	n := g.come(r.GetRequestId(), r)
	var id, tierModel string
	if _, err := fmt.Sscanf(r.GetHold(), "%s %s", &id, &tierModel); err != nil {
		return nil, err
	}
	u := r.GetUsage()
	cost := u.GetInputTokens() + u.GetCacheReadTokens() + u.GetOutputTokens()
	err := g.settle(n, r)
	g.mu.Lock()
	defer g.mu.Unlock()
	if status.Code(err) != codes.FailedPrecondition { // an answer that got lost is still a settlement
		g.settled[id] = cost
	}
	if err != nil {
		return nil, err
	}
	s := &pb.Settlement{Tier: "economy", Model: "small", CostNanos: cost, ForcedNanos: cost / 10, Currency: "USD"}
	if tierModel == "premium/big" {
		s.Tier, s.Model = "premium", "big"
	}
	return &pb.SettleResponse{Settlement: s}, nil
}

func rowsOf(rows ...Row) Rows {
	return func(yield func(Row, error) bool) {
		for _, r := range rows {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func numbered(n int) Rows {
	return func(yield func(Row, error) bool) {
		for i := range n {
			if !yield(Row{At: time.Duration(i) * time.Second, InputTokens: int64(i), CachedTokens: int64(i / 2), OutputTokens: 1}, nil) {
				return
			}
		}
	}
}

func TestRunCounts(t *testing.T) {
	g := newGate()
	g.reserve = func(_ int, r *pb.ReserveRequest) (*pb.ReserveResponse, error) {
		switch r.GetCall().GetEstimate().GetInputTokens() % 10 {
		case 0, 1, 2:
			return allow("premium", "big"), nil
		case 3:
			d := allow("economy", "small")
			d.Decision.Effect = pb.Effect_EFFECT_DOWNGRADE
			return d, nil
		case 4:
			return refuse(pb.Effect_EFFECT_THROTTLE,
				&pb.Reason{Code: pb.ReasonCode_REASON_CODE_POLICY, Message: "chat is economy"},
				&pb.Reason{Code: pb.ReasonCode_REASON_CODE_TRICKLE_LIMIT, Message: "10 a minute", Budget: "budgets/a"},
				&pb.Reason{Code: pb.ReasonCode_REASON_CODE_BUDGET_ALERT, Budget: "budgets/a"}), nil
		case 5, 6:
			n := r.GetCall().GetEstimate().GetInputTokens()
			return refuse(pb.Effect_EFFECT_DENY, &pb.Reason{Code: pb.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, Budget: fmt.Sprintf("budgets/run/keys/r%d", n)}), nil
		case 7:
			return nil, status.Error(codes.NotFound, "no such feature")
		case 8:
			return &pb.ReserveResponse{Decision: &pb.Decision{Effect: pb.Effect_EFFECT_ALLOW}}, nil // no hold
		}
		return allow("economy", "small"), nil
	}
	g.settle = func(_ int, r *pb.SettleRequest) error {
		if r.GetUsage().GetInputTokens()+r.GetUsage().GetCacheReadTokens() == 9 {
			return status.Error(codes.FailedPrecondition, "released before")
		}
		return nil
	}
	answers := 0
	r, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Concurrency: 8}, g, numbered(1000), func(*Answer) { answers++ })
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 1000 || answers != 1000 || r.Requests != r.Allowed+r.Downgraded+r.Throttled+r.Denied+r.Errors {
		t.Errorf("%d answers seen, and the counts do not add up: %+v", answers, r)
	}
	if r.Allowed != 399 || r.Downgraded != 100 || r.Throttled != 100 || r.Denied != 200 || r.Errors != 201 {
		t.Errorf("allowed %d, downgraded %d, throttled %d, denied %d, errors %d", r.Allowed, r.Downgraded, r.Throttled, r.Denied, r.Errors)
	}
	if !strings.Contains(r.FirstError, ": no such feature (NotFound)") && !strings.Contains(r.FirstError, "hold") && !strings.Contains(r.FirstError, "released before (FailedPrecondition)") {
		t.Errorf("the example of an error is %q", r.FirstError)
	}
	var want, byTier, requests int64
	for _, cost := range g.settled {
		want += cost
	}
	for _, c := range r.ByTier {
		byTier += c.SettledNanos
		requests += c.Requests
		if c.InputTokens+c.OutputTokens != c.SettledNanos {
			t.Errorf("%s: %d input and %d output tokens at a nano each are not %d", c.Model, c.InputTokens, c.OutputTokens, c.SettledNanos)
		}
	}
	if r.SettledNanos != want || byTier != want || requests != r.Allowed+r.Downgraded {
		t.Errorf("settled %d, by tier %d, the gate says %d; %d requests by tier", r.SettledNanos, byTier, want, requests)
	}
	if r.RefusedByReason["TRICKLE_LIMIT"] != 100 || r.RefusedByReason["BUDGET_EXHAUSTED"] != 200 || len(r.RefusedByReason) != 2 {
		t.Errorf("refused by reason: %v", r.RefusedByReason)
	}
	if len(r.Refusals) != 2 || r.Refusals[0].Budget != "budgets/run/keys/*" || r.Refusals[0].Requests != 200 || r.Refusals[1].RetryMs != 2000 {
		t.Errorf("refusals: %+v", r.Refusals)
	}
	if r.ReserveP50ms <= 0 || r.ReserveP99ms < r.ReserveP50ms || r.SettleP99ms <= 0 || r.DurationSeconds <= 0 || r.Currency != "USD" {
		t.Errorf("times or currency: %+v", r)
	}
}

func TestRunSendsWhatTheRowSays(t *testing.T) {
	row := Row{
		InputTokens: 100, CachedTokens: 60, OutputTokens: 0, TaskClass: "code", Cohort: "own", Run: "r1", User: "u", Agent: "a",
		Complexity: 7, PromptPattern: "p", RetrievalHops: 3, ToolCalls: map[string]int64{"web": 2}, Outcome: OutcomeSuccess,
	}
	for _, c := range []struct {
		o             Options
		wantMaxOutput int64
	}{{Options{}, 1}, {Options{MaxOutput: 4096}, 4096}} {
		c.o.Feature, c.o.RunID, c.o.Cohort, c.o.Model, c.o.TaskClass = "f", "run", "default", "big", "chat"
		c.o.User, c.o.Agent, c.o.Run = "other", "other", "other"
		g := newGate()
		if _, err := Run(t.Context(), c.o, g, rowsOf(row), nil); err != nil {
			t.Fatal(err)
		}
		wantCall := &pb.ReserveRequest{RequestId: "run-1", Call: &pb.Call{
			Feature: "f", TaskClass: "code", Complexity: 7, User: "u", Cohort: "own", Agent: "a", Run: "r1", PromptPattern: "p", Model: "big",
			Estimate: &pb.Estimate{InputTokens: 100, CachedInputTokens: 60, MaxOutputTokens: c.wantMaxOutput, RetrievalHops: 3, ToolCalls: row.ToolCalls},
		}}
		if got := g.bodies["run-1"]; !proto.Equal(got, wantCall) {
			t.Errorf("reserved %v, want %v", got, wantCall)
		}
		wantSettle := &pb.SettleRequest{
			RequestId: "run-1-s", Hold: "run-1 economy/small", Outcome: pb.Outcome_OUTCOME_SUCCESS,
			Usage: &pb.Usage{InputTokens: 40, CacheReadTokens: 60, RetrievalHops: 3, VectorQueries: 3, ToolCalls: row.ToolCalls},
		}
		if got := g.bodies["run-1-s"]; !proto.Equal(got, wantSettle) {
			t.Errorf("settled %v, want %v", got, wantSettle)
		}
	}
	g := newGate()
	if _, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Cohort: "c", User: "u", Agent: "a", Run: "r", Tier: "premium"}, g, rowsOf(Row{OutputTokens: 5}), nil); err != nil {
		t.Fatal(err)
	}
	want := &pb.ReserveRequest{RequestId: "run-1", Call: &pb.Call{
		Feature: "f", User: "u", Cohort: "c", Agent: "a", Run: "r", Tier: "premium", Estimate: &pb.Estimate{MaxOutputTokens: 5},
	}}
	if got := g.bodies["run-1"]; !proto.Equal(got, want) {
		t.Errorf("reserved %v, want %v", got, want)
	}
}

func TestRunRetriesWhileTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		away := status.Error(codes.Unavailable, "connection refused")
		g.reserve = func(n int, _ *pb.ReserveRequest) (*pb.ReserveResponse, error) {
			if n < 5 {
				return nil, away
			}
			return allow("economy", "small"), nil
		}
		g.settle = func(n int, r *pb.SettleRequest) error {
			if n < 7 {
				return status.Error(codes.DeadlineExceeded, "the answer got lost")
			}
			return nil
		}
		g.callTimes = 3 * time.Millisecond
		r, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Concurrency: 4}, g, numbered(50), nil)
		if err != nil || r.Allowed != 50 || r.Errors != 0 || r.Retries != 50*12 {
			t.Errorf("%v, %+v", err, r)
		}
		if len(g.changed) > 0 {
			t.Errorf("retries with another body: %v", g.changed)
		}
		if r.ReserveP99ms < 2.9 || r.ReserveP99ms > 3.1 {
			t.Errorf("reserve p99 is %v ms, with the waits between tries in it", r.ReserveP99ms)
		}
	})
}

func TestRunCountsAnErrorAfterTheRetryTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.settle = func(int, *pb.SettleRequest) error { return status.Error(codes.Unavailable, "connection refused") }
		start := time.Now()
		r, err := Run(t.Context(), Options{Feature: "f", RunID: "run", RetryFor: 30 * time.Second}, g, numbered(1), nil)
		if err != nil || r.Errors != 1 || r.Allowed != 0 || !strings.Contains(r.FirstError, "connection refused") {
			t.Errorf("%v, %+v", err, r)
		}
		if took := time.Since(start); took < 28*time.Second || took > 30*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
}

func TestRunPacesByTheTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var last time.Duration
		_, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Speed: 10}, newGate(), numbered(101), func(a *Answer) { last = time.Since(start) })
		if err != nil || last != 10*time.Second {
			t.Errorf("100 s of trace at speed 10 took %v, %v", last, err)
		}
	})
}

func TestRunKeepsToItsConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.callTimes = time.Millisecond
		start := time.Now()
		if _, err := Run(t.Context(), Options{Feature: "f", RunID: "run", Concurrency: 10}, g, numbered(1000), nil); err != nil {
			t.Fatal(err)
		}
		if g.most != 10 || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%d in flight, %v", g.most, time.Since(start))
		}
	})
}

func TestRunFinishesWhatIsInFlightWhenInterrupted(t *testing.T) {
	g := newGate()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Run(ctx, Options{Feature: "f", RunID: "run", Concurrency: 4}, g, numbered(100_000), func(a *Answer) {
		if a.Number == 100 {
			cancel()
		}
	})
	if err != nil || !r.Interrupted || r.Errors != 0 || r.Requests < 100 || r.Requests > 1000 || r.Requests != r.Allowed || len(g.settled) != int(r.Allowed) {
		t.Errorf("%v, %+v; the gate settled %d", err, r, len(g.settled))
	}
}

func TestRunStopsAtABadLine(t *testing.T) {
	bad := &LineError{"f", 4, "broken"}
	rows := func(yield func(Row, error) bool) {
		for row := range numbered(3) {
			yield(row, nil)
		}
		yield(Row{}, bad)
	}
	r, err := Run(t.Context(), Options{Feature: "f", RunID: "run"}, newGate(), rows, nil)
	if !errors.Is(err, bad) || r.Allowed != 3 {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestRunRefusesBadOptions(t *testing.T) {
	for _, o := range []Options{{}, {Feature: "f"}, {RunID: "r"}, {Feature: "f", RunID: string(make([]byte, 41))}, {Feature: "f", RunID: "r", Speed: -1}} {
		if _, err := Run(t.Context(), o, newGate(), numbered(1), nil); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestLatencies(t *testing.T) {
	var all, half Latencies
	if all.Percentile(500) != 0 {
		t.Error("nothing has a median")
	}
	for i := range 100_000 {
		d := time.Duration(i+1) * time.Microsecond
		if i%2 == 0 {
			all.Add(d)
		} else {
			half.Add(d)
		}
	}
	all.Merge(&half)
	for permille, want := range map[int64]time.Duration{1: 100 * time.Microsecond, 500: 50 * time.Millisecond, 990: 99 * time.Millisecond, 1000: 100 * time.Millisecond} {
		if got := all.Percentile(permille); got < want || got > want+want/128 {
			t.Errorf("percentile %d is %v, want %v", permille, got, want)
		}
	}
	if all.Count() != 100_000 {
		t.Errorf("count %d", all.Count())
	}
	for _, ns := range []uint64{0, 1, 127, 128, 255, 256, 257, 1 << 20, 1<<63 - 1} {
		b := bucketOf(ns)
		if top := uint64(ceiling(b)); top < ns || top > ns+ns/128 || (b > 0 && uint64(ceiling(b-1)) >= ns) {
			t.Errorf("%d ns is in bucket %d, which ends at %d", ns, b, top)
		}
	}
}
