package server

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/etcd"
)

// gateAt is one of several servers on one etcd.
type gateAt struct {
	*gateRig
	peers *Peers
}

// startPeers runs two servers. addr gives the address under which each can be reached from the other, by the one that it
// listens on; nil is that one.
func startPeers(t *testing.T, addr func(own string) string) (a, b *gateAt) {
	t.Helper()
	emptyLedger(t)
	clock := &testClock{}
	clock.nanos.Store(noon.UnixNano())
	both := [2]*gateAt{}
	for i := range both {
		listeners, err := Listen("127.0.0.1:0", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := &gateAt{&gateRig{clock: clock}, NewPeers()}
		t.Cleanup(func() { _ = p.peers.Close() })
		if p.decider, err = policy.NewDecider(); err != nil {
			t.Fatal(err)
		}
		reached := listeners.GRPC.Addr().String()
		if addr != nil {
			reached = addr(reached)
		}
		registry, quiet := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
		client := etcdServer.Client()
		p.gate, err = preflight.Start(t.Context(), preflight.Config{
			Control: control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Watcher: client, Now: clock.Now}), Decider: p.decider,
			Clock: clock, Metrics: NewMetrics(registry), Log: quiet, MaxTTL: maxHold, Addr: reached,
		})
		if err != nil {
			t.Fatal(err)
		}
		writing, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.gate.Run(writing) }()
		p.stopWriter = sync.OnceFunc(func() {
			stop()
			<-ended
		})
		t.Cleanup(p.stopWriter)
		requests := NewIdempotency(clock.Now)
		p.rig = start(t, func(c *Config) {
			c.Listeners = listeners
			c.Preflight = NewPreflightService(p.gate, validator(t), requests, p.peers, quiet)
			c.Usage, c.Statuses = NewUsageService(p.gate, nil), NewBudgetStatusService(p.gate)
			c.Requests, c.Now, c.Registry, c.BuiltinPolicy = requests, clock.Now, registry, p.decider.Builtin()
		})
		p.preflight, p.usage = chartergatev1.NewPreflightServiceClient(p.conn), chartergatev1.NewUsageServiceClient(p.conn)
		both[i] = p
	}
	return both[0], both[1]
}

// calls says whether a gateAt has called another.
func (p *gateAt) calls() bool {
	p.peers.mu.Lock()
	defer p.peers.mu.Unlock()
	return len(p.peers.conns) > 0
}

// closedPort is an address that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A hold is settled, released and extended through another server than its owner, with the answers and errors that its
// owner would give.
func TestPeersForward(t *testing.T) {
	a, b := startPeers(t, nil)
	a.chat(t, 1000e9)
	for _, pair := range [][2]*gateAt{{a, b}, {b, a}} {
		owner, other := pair[0], pair[1]
		settled, released := owner.hold(t, aCall(1000, 500)), owner.hold(t, aCall(1000, 500))
		first := other.settle(t, settled, used(1000, 100))
		if first.GetCostNanos() != 1_200_000 || first.GetReleasedNanos() != 800_000 || !proto.Equal(first, owner.settle(t, settled, used(1000, 100))) {
			t.Errorf("settled through the other: %v", first)
		}
		longer, err := other.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: released, Ttl: durationpb.New(5 * time.Minute)})
		if err != nil || !longer.GetHold().GetExpireTime().AsTime().Equal(noon.Add(5*time.Minute)) {
			t.Errorf("extended through the other: %v, error %v", longer, err)
		}
		if r, err := other.preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: released}); err != nil || r.GetReleasedNanos() != 2_000_000 {
			t.Errorf("released through the other: %v, error %v", r, err)
		}
		if !other.calls() {
			t.Error("nothing was sent on")
		}
		for name, ask := range map[string]func(chartergatev1.PreflightServiceClient) error{
			"another amount": func(c chartergatev1.PreflightServiceClient) error {
				_, err := c.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: settled, Usage: used(1, 1)})
				return err
			},
			"settle after release": func(c chartergatev1.PreflightServiceClient) error {
				_, err := c.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: released, Usage: used(1, 1)})
				return err
			},
			"release after settle": func(c chartergatev1.PreflightServiceClient) error {
				_, err := c.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: settled})
				return err
			},
			"extend after settle": func(c chartergatev1.PreflightServiceClient) error {
				_, err := c.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: settled, Ttl: durationpb.New(time.Minute)})
				return err
			},
		} {
			want, got := status.Convert(ask(owner.preflight)), status.Convert(ask(other.preflight))
			if want.Code() != codes.FailedPrecondition || len(want.Details()) == 0 || !proto.Equal(want.Proto(), got.Proto()) {
				t.Errorf("%s: through the other %v, from the owner %v", name, got.Proto(), want.Proto())
			}
		}
	}
}

// A session sends the operations of other servers' holds on, each for itself.
func TestPeersForwardInSessions(t *testing.T) {
	a, b := startPeers(t, nil)
	a.chat(t, 1000e9)
	theirs, mine, released := a.hold(t, aCall(1000, 500)), b.hold(t, aCall(1000, 500)), a.hold(t, aCall(1000, 500))
	s := b.session(t)
	results := s.doAll(t,
		op(1, &chartergatev1.SettleRequest{Hold: theirs, Usage: used(1000, 100), RequestId: "s-1"}),
		op(2, &chartergatev1.SettleRequest{Hold: mine, Usage: used(1000, 100)}),
		op(3, &chartergatev1.ReleaseRequest{Hold: released}),
		op(4, &chartergatev1.ReserveRequest{Call: aCall(1000, 500)}),
	)
	if results[1].GetSettle().GetSettlement().GetCostNanos() != 1_200_000 || results[2].GetSettle().GetSettlement().GetCostNanos() != 1_200_000 ||
		results[3].GetRelease().GetReleasedNanos() != 2_000_000 || results[4].GetReserve().GetHold() == nil {
		t.Errorf("the results are %v", results)
	}
	again := s.do(t, op(5, &chartergatev1.SettleRequest{Hold: theirs, Usage: used(1000, 100), RequestId: "s-1"}))
	if !proto.Equal(again.GetSettle(), results[1].GetSettle()) {
		t.Errorf("again: %v", again)
	}
	if e := s.do(t, op(6, &chartergatev1.SettleRequest{Hold: released, Usage: used(1, 1)})).GetError(); e.GetReason() != "HOLD_RELEASED" || e.GetCode() != int32(codes.FailedPrecondition) {
		t.Errorf("settle after release: %v", e)
	}
}

// Near a ceiling calls go to the server that holds what is left; should that be out of reach, to whichever they came.
func TestPeersNearACeiling(t *testing.T) {
	closed := closedPort(t)
	for name, addr := range map[string]func(string) string{"home answers": nil, "home is out of reach": func(string) string { return closed }} {
		t.Run(name, func(t *testing.T) {
			a, b := startPeers(t, addr)
			const calls = 20
			a.chat(t, calls*2_000_000)
			held := 0
			for i := 0; i < 3*calls && held < calls; i++ {
				p := []*gateAt{a, b}[i%2]
				if p.reserve(t, aCall(1000, 500)).GetHold() != nil {
					held++
				}
				if d, err := p.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: aCall(1, 0)}); err != nil {
					t.Errorf("check: %v, error %v", d, err)
				}
			}
			eventually(t, "the last call is held", func() bool {
				if held < calls && (a.reserve(t, aCall(1000, 500)).GetHold() != nil || b.reserve(t, aCall(1000, 500)).GetHold() != nil) {
					held++
				}
				return held == calls
			})
			for _, p := range []*gateAt{a, b} {
				if r := p.reserve(t, aCall(1000, 500)); r.GetHold() != nil {
					t.Error("a call is held beyond the ceiling")
				}
			}
			if !a.calls() && !b.calls() {
				t.Error("nothing was sent to the home replica")
			}
		})
	}
}

// A hold whose server lives and cannot be reached from here is not settled by anybody else, and the client is told to
// try again.
func TestPeersOutOfReach(t *testing.T) {
	closed := closedPort(t)
	a, b := startPeers(t, func(string) string { return closed })
	a.chat(t, 1000e9)
	token := a.hold(t, aCall(1000, 500))
	for name, ask := range map[string]func() error{
		"settle": func() error {
			_, err := b.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: token, Usage: used(1, 1)})
			return err
		},
		"release": func() error {
			_, err := b.preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: token})
			return err
		},
		"extend": func() error {
			_, err := b.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token, Ttl: durationpb.New(time.Minute)})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, ask(), codes.Unavailable, chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, nil, "retry")
		})
	}
	if s := a.settle(t, token, used(1000, 100)); s.GetCostNanos() != 1_200_000 {
		t.Errorf("its own server settles it as %v", s)
	}
}

// A call is sent on once. Where servers disagree on who has to answer it ends, it does not go round.
func TestPeersDoNotLoop(t *testing.T) {
	var addrs []string
	crossed := func(own string) string { // the second gives the first's address as its own
		addrs = append(addrs, own)
		return addrs[0]
	}
	a, b := startPeers(t, crossed)
	a.chat(t, 1000e9)
	token := b.hold(t, aCall(1000, 500))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err := a.preflight.Settle(ctx, &chartergatev1.SettleRequest{Hold: token, Usage: used(1, 1)})
	refused(t, err, codes.Unavailable, chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, nil)

	sentOn := metadata.AppendToOutgoingContext(t.Context(), forwardedKey, "somebody")
	mine := a.hold(t, aCall(1000, 500))
	_, err = b.preflight.Settle(sentOn, &chartergatev1.SettleRequest{Hold: mine, Usage: used(1, 1)})
	refused(t, err, codes.Unavailable, chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, nil)
	if b.calls() {
		t.Error("a call that was sent on is sent on again")
	}
	if s := a.settle(t, mine, used(1000, 100)); s.GetCostNanos() != 1_200_000 {
		t.Errorf("settled as %v", s)
	}
}
