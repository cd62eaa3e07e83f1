package server

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/etcd"
)

// leaser is a stream of leases.
type leaser struct {
	chartergatev1.LeaseService_LeaseClient
	service chartergatev1.LeaseServiceClient
	last    uint64
}

func (g *gateRig) leases(t *testing.T) *leaser {
	t.Helper()
	l := &leaser{service: chartergatev1.NewLeaseServiceClient(g.conn)}
	var err error
	if l.LeaseService_LeaseClient, err = l.service.Lease(soon(t)); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *leaser) ask(t *testing.T, call *chartergatev1.Call, calls int64) *chartergatev1.SliceAnswer {
	t.Helper()
	l.last++
	err := l.Send(&chartergatev1.LeaseRequest{Slices: []*chartergatev1.SliceRequest{{Id: l.last, Call: call, Calls: calls, Ttl: durationpb.New(time.Minute)}}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := l.Recv()
	if err != nil || len(r.Slices) != 1 || r.Slices[0].Id != l.last {
		t.Fatalf("%v, %v", r, err)
	}
	return r.Slices[0]
}

// slice asks for one that must be given.
func (l *leaser) slice(t *testing.T, call *chartergatev1.Call, calls int64) *chartergatev1.Slice {
	t.Helper()
	a := l.ask(t, call, calls)
	if a.Slice == nil {
		t.Fatalf("no slice: %v", a)
	}
	return a.Slice
}

func (l *leaser) settle(t *testing.T, token string, use *chartergatev1.SliceUse) *chartergatev1.Settlement {
	t.Helper()
	done, err := l.service.SettleSlice(t.Context(), &chartergatev1.SettleSliceRequest{Slice: token, Use: use})
	if err != nil {
		t.Fatal(err)
	}
	return done.Settlement
}

// report sends a report, and an empty ask behind it, so that it has arrived.
func (l *leaser) report(t *testing.T, token string, use *chartergatev1.SliceUse) {
	t.Helper()
	if err := l.Send(&chartergatev1.LeaseRequest{Reports: []*chartergatev1.SliceReport{{Slice: token, Use: use}}}); err != nil {
		t.Fatal(err)
	}
	a := l.ask(t, &chartergatev1.Call{Feature: "nobody", Estimate: &chartergatev1.Estimate{}}, 1)
	if a.GetError().GetReason() != "FEATURE_UNKNOWN" || codes.Code(a.GetError().GetCode()) != codes.NotFound {
		t.Fatal(a)
	}
}

func wantReason(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) == codes.OK || status.Code(err) != code || sessionError(status.Convert(err)).Reason != reason {
		t.Errorf("%v, want %s %s", err, code, reason)
	}
}

// useOf is what a number of calls used that cost one nano more than tokens do: each was rounded by itself.
func useOf(calls, in, out int64) *chartergatev1.SliceUse {
	return &chartergatev1.SliceUse{CostNanos: in*1000 + out*2000 + 1, Usage: used(in, out), Calls: calls, Successes: calls - 1, Failures: 1}
}

func TestASliceIsOneHoldForManyCalls(t *testing.T) {
	g := startGate(t)
	g.chat(t, 400_000_000_000)
	l := g.leases(t)
	a := l.ask(t, aCall(1000, 500), 100)
	want := g.reserve(t, aCall(1000, 500)).Decision
	if !proto.Equal(a.Decision, want) {
		t.Errorf("the decision is\n%v, Reserve's\n%v", a.Decision, want)
	}
	s := a.Slice
	if s.AmountNanos != 200_000_000 || s.GetPrice().GetModel() != "small" || s.GetPrice().GetInputNanos() != 1e9 || s.ChargeOnExpiry {
		t.Errorf("slice %v", s)
	}
	within, expire := s.ReserveWithin.AsDuration(), s.ExpireWithin.AsDuration()
	if within <= 0 || within > ledger.HeartbeatValid || expire < within+time.Minute || expire > within+time.Minute+3*time.Second {
		t.Errorf("reserve within %v, expire within %v", within, expire)
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 202_000_000 {
		t.Errorf("held %d", st.HeldNanos)
	}
	use := useOf(40, 30_000, 9_000)
	done := l.settle(t, s.Token, use)
	if done.CostNanos != 48_000_001 || done.ReleasedNanos != 151_999_999 || done.ForcedNanos != 0 || done.Late || done.Currency != "USD" || done.Feature != "chat" {
		t.Errorf("settled %v", done)
	}
	if again := l.settle(t, s.Token, use); !proto.Equal(again, done) {
		t.Errorf("repeated\n%v, first\n%v", again, done)
	}
	_, err := l.service.SettleSlice(t.Context(), &chartergatev1.SettleSliceRequest{Slice: s.Token, Use: useOf(41, 31_000, 9_000)})
	wantReason(t, err, codes.FailedPrecondition, "HOLD_SETTLED")
	for _, name := range []string{"budgets/support", "budgets/acme"} {
		if st := g.status(t, name); st.SettledNanos != 48_000_001 || st.HeldNanos != 2_000_000 {
			t.Errorf("%v", st)
		}
	}
	unused := l.slice(t, aCall(1000, 500), 10)
	if done := l.settle(t, unused.Token, &chartergatev1.SliceUse{}); done.CostNanos != 0 || done.ReleasedNanos != 20_000_000 {
		t.Errorf("released %v", done)
	}
	entries := g.journal(t)
	if len(entries) != 2 || entries[0].Calls != 40 || entries[0].Successes != 39 || entries[0].Failures != 1 || entries[1].Calls != 0 ||
		entries[1].Kind != storev1.EntryKind_ENTRY_KIND_RELEASE {
		t.Errorf("journal %v", entries)
	}
	g.settle(t, g.hold(t, aCall(10, 10)), used(10, 10))
	if last := g.journal(t)[2]; last.Calls != 1 || last.Successes != 0 {
		t.Errorf("an ordinary settlement counts %v", last)
	}
}

// journal reads every entry in etcd, in order.
func (g *gateRig) journal(t *testing.T) (entries []*storev1.Entry) {
	t.Helper()
	found, err := etcdServer.Client().Get(t.Context(), etcd.Prefix+"jr/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range found.Kvs {
		var b storev1.Batch
		if err := proto.Unmarshal(kv.Value, &b); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, b.Entries...)
	}
	return entries
}

// A slice is at most a 400th of the ceiling and a 16th of what is left, and one call where that is more; when not even
// that fits, the answer is Reserve's.
func TestSlicesShrinkNearTheCeiling(t *testing.T) {
	g := startGate(t)
	g.chat(t, 400_000_000)
	l := g.leases(t)
	call := aCall(0, 50) // 100,000 nanos
	for _, c := range []struct {
		what         string
		spend, want  int64
		calls, price int64
	}{
		{"as much as is wanted", 0, 300_000, 3, 100_000},
		{"a 400th of the ceiling", 0, 1_000_000, 1000, 100_000},
		{"a 16th of what is left", 390_000_000, (400_000_000 - 1_300_000 - 390_000_000) / 16, 1000, 100_000},
		{"one call", 8_000_000, 100_000, 1000, 100_000},
	} {
		if c.spend > 0 {
			g.settle(t, g.hold(t, aCall(0, 4000)), used(c.spend/1000, 0))
		}
		if s := l.slice(t, call, c.calls); s.AmountNanos != c.want {
			t.Errorf("%s: %d, want %d", c.what, s.AmountNanos, c.want)
		}
	}
	refused := l.ask(t, call, 10)
	want := g.reserve(t, call).Decision
	if refused.Slice != nil || refused.Decision.Effect != want.Effect || !proto.Equal(refused.Decision.Reasons[0], want.Reasons[0]) {
		t.Errorf("refused with\n%v, Reserve with\n%v", refused, want)
	}
}

func TestOverflowIsNotLeased(t *testing.T) {
	g := startGate(t)
	g.apply(t, daily("acme", "", 1e12), daily("support", "acme", 1_000_000),
		allTiers("chat", "support", exhausted(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE, 30_000_000, 0)))
	g.settle(t, g.hold(t, aCall(1000, 0)), used(1000, 0))
	if r := g.reserve(t, aCall(1000, 500)); r.Hold == nil {
		t.Fatalf("no overflow: %v", r)
	}
	if a := g.leases(t).ask(t, aCall(1000, 500), 1); a.Slice != nil || a.Decision.Effect != chartergatev1.Effect_EFFECT_DENY {
		t.Errorf("%v", a)
	}
}

// A client that is gone: what it reported is settled at the slice's expiry, and the rest charged or released. When it
// comes back after all, the difference is forced spend, once.
func TestASliceThatExpires(t *testing.T) {
	charge := func(b *chartergatev1.Budget) { b.OnExpiry = chartergatev1.OnExpiry_ON_EXPIRY_CHARGE }
	for _, c := range []struct {
		name                   string
		change                 []func(*chartergatev1.Budget)
		reports                []*chartergatev1.SliceUse
		settled, calls         int64 // at the expiry
		late                   *chartergatev1.SliceUse
		total, forced, counted int64 // after it
	}{
		{"released, nothing reported", nil, nil, 0, 0, useOf(3, 3000, 100), 3_200_001, 3_200_001, 3},
		{"released, the last report counts", nil, []*chartergatev1.SliceUse{useOf(2, 2000, 0), useOf(5, 5000, 500), useOf(3, 3000, 0)}, 6_000_001, 5,
			useOf(7, 7000, 500), 8_000_001, 2_000_000, 7},
		{"released, all was reported", nil, []*chartergatev1.SliceUse{useOf(5, 5000, 500)}, 6_000_001, 5, useOf(5, 5000, 500), 6_000_001, 0, 5},
		{"charged, nothing reported", []func(*chartergatev1.Budget){charge}, nil, 20_000_000, 0, useOf(2, 2000, 0), 20_000_000, 0, 0},
		{"charged, above the slice", []func(*chartergatev1.Budget){charge}, []*chartergatev1.SliceUse{useOf(5, 5000, 500)}, 20_000_000, 5,
			useOf(15, 20_000, 2500), 25_000_001, 5_000_001, 15},
		{"reported above the slice", nil, []*chartergatev1.SliceUse{useOf(15, 20_000, 2500)}, 25_000_001, 15, useOf(15, 20_000, 2500), 25_000_001, 5_000_001, 15},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGate(t)
			g.apply(t, daily("acme", "", 1000e9), daily("support", "acme", 100e9, c.change...), allTiers("chat", "support"))
			l := g.leases(t)
			s := l.slice(t, aCall(1000, 500), 10)
			if s.ChargeOnExpiry != (c.change != nil) {
				t.Error(s)
			}
			for _, use := range c.reports {
				l.report(t, s.Token, use)
			}
			g.clock.advance(2 * time.Minute)
			eventually(t, "the slice is over", func() bool { return g.status(t, "budgets/acme").HeldNanos == 0 })
			if st := g.status(t, "budgets/support"); st.SettledNanos != c.settled {
				t.Errorf("settled %v, want %d", st, c.settled)
			}
			if c.settled > 0 {
				if e := g.journal(t); len(e) != 1 || e[0].Calls != c.calls || e[0].Kind != storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE {
					t.Errorf("journal %v", e)
				}
			}
			late := l.settle(t, s.Token, c.late)
			if again := l.settle(t, s.Token, c.late); !proto.Equal(late, again) {
				t.Errorf("repeated\n%v, first\n%v", again, late)
			}
			if late.CostNanos != c.total || late.ForcedNanos != c.forced || late.ReleasedNanos < 0 {
				t.Errorf("settled %v", late)
			}
			for _, name := range []string{"budgets/support", "budgets/acme"} {
				if st := g.status(t, name); st.SettledNanos != c.total || st.ForcedNanos != c.forced || st.HeldNanos != 0 {
					t.Errorf("%v, want %d of which forced %d", st, c.total, c.forced)
				}
			}
			calls := int64(0)
			for _, e := range g.journal(t) {
				calls += e.Calls
			}
			if calls != c.counted {
				t.Errorf("%d calls in the journal, want %d", calls, c.counted)
			}
		})
	}
}

func TestTokensOfSlicesAndOfCallsAreNotMixedUp(t *testing.T) {
	g := startGate(t)
	g.chat(t, 100e9)
	l := g.leases(t)
	s, h := l.slice(t, aCall(10, 10), 5), g.hold(t, aCall(10, 10))
	_, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: s.Token, Usage: used(1, 1)})
	wantReason(t, err, codes.NotFound, "HOLD_UNKNOWN")
	_, err = g.preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: s.Token})
	wantReason(t, err, codes.NotFound, "HOLD_UNKNOWN")
	_, err = l.service.SettleSlice(t.Context(), &chartergatev1.SettleSliceRequest{Slice: h, Use: useOf(2, 2, 2)})
	wantReason(t, err, codes.NotFound, "HOLD_UNKNOWN")
	x, err := g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: s.Token, Ttl: durationpb.New(5 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	g.clock.advance(4 * time.Minute)
	if done := l.settle(t, x.Hold.Token, useOf(2, 10, 10)); done.Late || done.ForcedNanos != 0 {
		t.Errorf("an extended slice settles as %v", done)
	}
}

// A slice whose answer was lost with its stream is the answer to the same request on another.
func TestASliceIsAskedForOnce(t *testing.T) {
	g := startGate(t)
	g.chat(t, 100e9)
	ask := func(calls int64) *chartergatev1.SliceAnswer {
		l := g.leases(t)
		if err := l.Send(&chartergatev1.LeaseRequest{Slices: []*chartergatev1.SliceRequest{{Id: 9, Call: aCall(10, 10), Calls: calls, RequestId: "once"}}}); err != nil {
			t.Fatal(err)
		}
		r, err := l.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r.Slices[0]
	}
	first := ask(5)
	if again := ask(5); first.Slice == nil || !proto.Equal(first, again) {
		t.Errorf("first\n%v, again\n%v", first, again)
	}
	if other := ask(6); other.GetError().GetReason() != "REQUEST_ID_CONFLICT" {
		t.Errorf("%v", other)
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 5*30_000 {
		t.Errorf("held %v", st)
	}
}

func TestRulesOfTheLeaseStream(t *testing.T) {
	g := startGate(t)
	g.chat(t, 100e9)
	s := g.leases(t).slice(t, aCall(10, 10), 5)
	ask := &chartergatev1.SliceRequest{Call: aCall(10, 10), Calls: 1}
	for name, c := range map[string]struct {
		request *chartergatev1.LeaseRequest
		reason  string
	}{
		"no calls":       {&chartergatev1.LeaseRequest{Slices: []*chartergatev1.SliceRequest{{Call: aCall(1, 1)}}}, "INVALID"},
		"no call":        {&chartergatev1.LeaseRequest{Slices: []*chartergatev1.SliceRequest{{Calls: 1}}}, "INVALID"},
		"a made-up hold": {&chartergatev1.LeaseRequest{Reports: []*chartergatev1.SliceReport{{Slice: "x", Use: useOf(1, 1, 1)}}}, "HOLD_UNKNOWN"},
		"more outcomes than calls": {&chartergatev1.LeaseRequest{Reports: []*chartergatev1.SliceReport{
			{Slice: s.Token, Use: &chartergatev1.SliceUse{Calls: 1, Successes: 1, Failures: 1}}}}, "INVALID"},
		"too much": {&chartergatev1.LeaseRequest{Reports: []*chartergatev1.SliceReport{
			{Slice: s.Token, Use: &chartergatev1.SliceUse{Calls: 1, CostNanos: 1 << 62}}}}, "AMOUNT_OVERFLOW"},
		"too many at once": {&chartergatev1.LeaseRequest{Slices: func() (all []*chartergatev1.SliceRequest) {
			for range maxSlicesInFlight + 1 {
				all = append(all, ask)
			}
			return all
		}()}, "INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			l := g.leases(t)
			if err := l.Send(c.request); err != nil {
				t.Fatal(err)
			}
			_, err := l.Recv()
			wantReason(t, err, status.Code(err), c.reason)
		})
	}
}

// A server that stops asks for the slices back and still takes them; the stream of a client that returns them ends in
// peace.
func TestAStoppingServerAsksForSlices(t *testing.T) {
	g := startGate(t)
	g.chat(t, 100e9)
	l := g.leases(t)
	s := l.slice(t, aCall(10, 10), 5)
	go g.leaseService.stop(soon(t))
	if r, err := l.Recv(); err != nil || !r.ReturnSlices {
		t.Fatalf("%v, %v", r, err)
	}
	l.settle(t, s.Token, useOf(1, 10, 0))
	if err := l.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Recv(); err == nil || err.Error() != "EOF" {
		t.Errorf("%v, %v", r, err)
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 0 {
		t.Errorf("still held: %v", st)
	}
}
