package chartergate

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// told is what a client was told.
type told struct {
	settled, forced, leased, calls atomic.Int64
}

func (x *told) add(s *chartergatev1.Settlement) {
	x.calls.Add(1)
	x.settled.Add(s.CostNanos)
	x.forced.Add(s.ForcedNanos)
	if s.Journal == "" {
		x.leased.Add(1)
	}
}

// one makes a call and ends it in one of the ways there are.
func (x *told) one(ctx context.Context, c *Client, random *rand.Rand) error {
	r := chat(1+random.Int64N(2000), 1+random.Int64N(500))
	answer, err := c.Reserve(ctx, r)
	if err != nil {
		return err
	}
	if answer.Hold == nil {
		return errors.New("refused: " + answer.Decision.String())
	}
	settle := &chartergatev1.SettleRequest{
		Hold: answer.Hold.Token, Outcome: chartergatev1.Outcome(random.IntN(3)),
		Usage: &chartergatev1.Usage{
			InputTokens: random.Int64N(r.Call.Estimate.InputTokens + 1), CacheReadTokens: r.Call.Estimate.CachedInputTokens,
			OutputTokens: random.Int64N(r.Call.Estimate.MaxOutputTokens + 1), ReasoningTokens: random.Int64N(9), ToolCalls: map[string]int64{"search": random.Int64N(4)},
		},
	}
	switch random.IntN(40) {
	case 0:
		_, err := c.Release(ctx, &chartergatev1.ReleaseRequest{Hold: answer.Hold.Token})
		return err
	case 1:
		settle.Model = "other"
	case 2:
		_, err := c.Extend(ctx, &chartergatev1.ExtendRequest{Hold: answer.Hold.Token, Ttl: durationpb.New(50 * time.Second)})
		if err != nil && Reason(err) != "HOLD_EXPIRED" { // as it is once its server was restarted
			return err
		}
	}
	done, err := c.Settle(ctx, settle)
	if err != nil {
		return err
	}
	x.add(done.Settlement)
	if random.IntN(4) == 0 { // it counts once
		again, err := c.Settle(ctx, settle)
		if err != nil {
			return err
		}
		if again.Settlement.CostNanos != done.Settlement.CostNanos {
			return errors.New("repeated, a settlement costs " + again.String() + ", first " + done.String())
		}
	}
	return nil
}

// load makes calls from several goroutines.
func (x *told) load(t *testing.T, c *Client, workers, calls int) {
	t.Helper()
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(worker)))
			for range calls {
				if err := x.one(t.Context(), c, random); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// What clients were told is what the server has settled, to the nano, whatever way each call took.
func TestLeasedCallsAddUp(t *testing.T) {
	h := newHouse(t)
	c, _ := h.lease(chat(2000, 500))
	var x told
	x.load(t, c, 8, 500)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if x.calls.Load() < 3800 || x.leased.Load() < x.calls.Load()/2 {
		t.Errorf("%d of %d calls were leased", x.leased.Load(), x.calls.Load())
	}
	t.Logf("%d of %d calls were leased", x.leased.Load(), x.calls.Load())
	h.sums("after Close", x.settled.Load(), x.forced.Load())
}

// The server is restarted under load: in-process calls go on, what is settled meanwhile arrives after it.
func TestLeasesOutliveTheServer(t *testing.T) {
	h := newHouse(t)
	c, _ := h.lease(chat(2000, 500))
	var x told
	var wg sync.WaitGroup
	wg.Go(func() { x.load(t, c, 4, 1500) })
	eventually(t, "some calls are made", func() bool { return x.calls.Load() > 500 })
	// A call that is in flight over the restart.
	during, err := c.Reserve(t.Context(), chat(100, 100))
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	wg.Wait()
	done, err := c.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: during.Hold.Token, Usage: &chartergatev1.Usage{InputTokens: 77}})
	if err != nil {
		t.Fatal(err)
	}
	x.add(done.Settlement)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d calls were leased", x.leased.Load(), x.calls.Load())
	st := h.status("acme")
	if st.SettledNanos != x.settled.Load() {
		t.Errorf("settled %d, clients were told %d", st.SettledNanos, x.settled.Load())
	}
}

// A client that is gone without Close.
func TestACrashedClient(t *testing.T) {
	for _, charge := range []bool{false, true} {
		t.Run(map[bool]string{false: "release", true: "charge"}[charge], func(t *testing.T) {
			h := newHouse(t, func(b *chartergatev1.Budget) {
				if charge {
					b.OnExpiry = chartergatev1.OnExpiry_ON_EXPIRY_CHARGE
				}
			})
			c, l := h.lease(chat(2000, 500))
			var cost int64
			for range 3 {
				hold, ok := l.Reserve(chat(1000, 100).Call.Estimate)
				if !ok {
					t.Fatal("no hold")
				}
				nanos, err := l.Settle(hold, &chartergatev1.Usage{InputTokens: 999, OutputTokens: 99}, chartergatev1.Outcome_OUTCOME_SUCCESS)
				if err != nil {
					t.Fatal(err)
				}
				cost += nanos
			}
			if _, ok := l.Reserve(chat(1000, 100).Call.Estimate); !ok {
				t.Fatal("no hold")
			}
			s := l.current.Load()
			eventually(t, "the calls are reported", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.reported == 3
			})
			behind := chat(1, 1) // what is answered on the same stream later
			behind.Call.User = "u-2"
			if other, err := c.Lease(behind); err != nil || other.Ready(t.Context()) != nil {
				t.Fatal(err)
			}
			c.leases.cancel()
			c.conn.Close()
			slices := h.status("chat").HeldNanos
			if slices < int64(s.amount)-cost {
				t.Errorf("%d is held, the slice in use has %d", slices, s.amount)
			}
			h.skip(5 * time.Minute)
			eventually(t, "the slices have expired", func() bool { return h.status("chat").HeldNanos == 0 })
			if charge {
				h.sums("charged", slices, 0)
			} else {
				h.sums("released", cost, 0)
			}
		})
	}
}

func (l *Lease) spareSlice() *slice {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spare
}

// A leased answer is the one that the server would give, and holds the same amount.
func TestALeasedDecisionIsTheServers(t *testing.T) {
	h := newHouse(t)
	c, _ := h.lease(chat(5000, 1000))
	random := rand.New(rand.NewPCG(1, 1))
	leased := 0
	for range 200 {
		r := chat(random.Int64N(5001), 1+random.Int64N(1000))
		mine, err := c.Reserve(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := h.admin.Check(t.Context(), &chartergatev1.CheckRequest{Call: r.Call})
		if err != nil {
			t.Fatal(err)
		}
		theirs.Decision.Alternates = nil
		mine.Decision.MaxInputTokens, theirs.Decision.MaxInputTokens = 0, 0 // what the output leaves: here for the largest call
		if !proto.Equal(mine.Decision, theirs.Decision) || mine.Hold.AmountNanos != theirs.Decision.EstimatedCostNanos {
			t.Fatalf("leased\n%v\nthe server's\n%v", mine, theirs)
		}
		if _, ok, _ := c.leases.hold(mine.Hold.Token); ok {
			leased++
		}
	}
	if leased < 50 {
		t.Errorf("%d leased", leased)
	}
}

// What does not fit a lease goes to the server.
func TestCallsThatAreNotLeased(t *testing.T) {
	h := newHouse(t)
	c, _ := h.lease(chat(2000, 500))
	for name, change := range map[string]func(*chartergatev1.ReserveRequest){
		"larger input":     func(r *chartergatev1.ReserveRequest) { r.Call.Estimate.InputTokens = 2001 },
		"larger output":    func(r *chartergatev1.ReserveRequest) { r.Call.Estimate.MaxOutputTokens = 501 },
		"any output":       func(r *chartergatev1.ReserveRequest) { r.Call.Estimate.MaxOutputTokens = 0 },
		"more tool calls":  func(r *chartergatev1.ReserveRequest) { r.Call.Estimate.ToolCalls["search"] = 4 },
		"longer":           func(r *chartergatev1.ReserveRequest) { r.Ttl = durationpb.New(2 * time.Minute) },
		"with its own id":  func(r *chartergatev1.ReserveRequest) { r.RequestId = "mine" },
		"another user":     func(r *chartergatev1.ReserveRequest) { r.Call.User = "u-2" },
		"another class":    func(r *chartergatev1.ReserveRequest) { r.Call.TaskClass = "code" },
		"another label":    func(r *chartergatev1.ReserveRequest) { r.Call.Labels["a"] = "c" },
		"another model":    func(r *chartergatev1.ReserveRequest) { r.Call.Model = "small" },
		"with capability":  func(r *chartergatev1.ReserveRequest) { r.Call.RequiredCapabilities = []string{"chat"} },
		"other complexity": func(r *chartergatev1.ReserveRequest) { r.Call.Complexity = 21 },
		"another prompt": func(r *chartergatev1.ReserveRequest) {
			r.Call.Complexity, r.Call.PromptFeatures = 0, PromptFeatures("Prove that the sequence converges.")
		},
	} {
		r := chat(2000, 500)
		if c.leases.reserve(r) == nil {
			t.Errorf("%s: not even the call itself is leased", name)
		}
		if change(r); c.leases.reserve(r) != nil {
			t.Errorf("%s: leased", name)
		}
	}
}

func TestEndsOfALeasedCall(t *testing.T) {
	h := newHouse(t)
	c, l := h.lease(chat(2000, 500))
	ctx := t.Context()
	usage := &chartergatev1.Usage{InputTokens: 10}
	settle := func(token string, used *chartergatev1.Usage) error {
		_, err := c.Settle(ctx, &chartergatev1.SettleRequest{Hold: token, Usage: used})
		return err
	}
	release := func(token string) error {
		_, err := c.Release(ctx, &chartergatev1.ReleaseRequest{Hold: token})
		return err
	}
	extend := func(token string) error {
		_, err := c.Extend(ctx, &chartergatev1.ExtendRequest{Hold: token, Ttl: durationpb.New(5 * time.Minute)})
		return err
	}
	hold := func() string {
		h, ok := l.Reserve(chat(100, 100).Call.Estimate)
		if !ok {
			t.Fatal("no hold")
		}
		return h.Token()
	}
	settled, released, fresh := hold(), hold(), hold()
	for _, c := range []struct {
		what string
		err  error
		code codes.Code
		why  string
	}{
		{"settle", settle(settled, usage), codes.OK, ""},
		{"settle again", settle(settled, usage), codes.OK, ""},
		{"settle otherwise", settle(settled, &chartergatev1.Usage{InputTokens: 11}), codes.FailedPrecondition, "HOLD_SETTLED"},
		{"release what is settled", release(settled), codes.FailedPrecondition, "HOLD_SETTLED"},
		{"extend what is settled", extend(settled), codes.FailedPrecondition, "HOLD_SETTLED"},
		{"release", release(released), codes.OK, ""},
		{"release again", release(released), codes.OK, ""},
		{"settle what is released", settle(released, usage), codes.FailedPrecondition, "HOLD_RELEASED"},
		{"extend what is released", extend(released), codes.FailedPrecondition, "HOLD_RELEASED"},
		{"a unit without a price", settle(fresh, &chartergatev1.Usage{ToolCalls: map[string]int64{"fax": 1}}), codes.FailedPrecondition, "NO_PRICE"},
		{"nothing", settle(fresh, nil), codes.InvalidArgument, "INVALID"},
		{"less than nothing", settle(fresh, &chartergatev1.Usage{InputTokens: -1}), codes.InvalidArgument, "INVALID"},
		{"extend", extend(fresh), codes.OK, ""},
		{"settle what was extended", settle(fresh, usage), codes.OK, ""},
		{"a token that never was", settle(fresh+"0", usage), codes.NotFound, "HOLD_UNKNOWN"},
	} {
		if status.Code(c.err) != c.code || Reason(c.err) != c.why {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	one, ok := l.Reserve(chat(100, 100).Call.Estimate)
	if !ok || one.Nanos() <= 0 || one.Decision().GetModel() != "small" {
		t.Fatal(one)
	}
	if err := l.Release(one); err != nil {
		t.Error(err)
	}
	if _, err := l.Settle(one, usage, 0); !errors.Is(err, ErrOver) {
		t.Error(err)
	}
	tools := &chartergatev1.Usage{ToolCalls: map[string]int64{}}
	for i := range 33 {
		tools.ToolCalls[string(rune('a'+i))] = 0
	}
	full, _ := l.Reserve(chat(100, 100).Call.Estimate)
	if _, err := l.Settle(full, tools, 0); !errors.Is(err, ErrTooMuch) {
		t.Error(err)
	}
}

// A hold outlives its slice: it is charged or released with it, and what comes later is recorded as forced spend, once.
func TestALeasedCallThatExpires(t *testing.T) {
	for _, charge := range []bool{false, true} {
		h := newHouse(t, func(b *chartergatev1.Budget) {
			if charge {
				b.OnExpiry = chartergatev1.OnExpiry_ON_EXPIRY_CHARGE
			}
		})
		c, l := h.lease(chat(2000, 500))
		hold, ok := l.Reserve(chat(1000, 100).Call.Estimate)
		if !ok {
			t.Fatal("no hold")
		}
		held := hold.Nanos()
		c.leases.mu.Lock() // as the keeper does when the time has come
		l.returnAll(false)
		done, _ := l.keep(time.Now().Add(time.Hour))
		for _, s := range done {
			c.leases.settle(s)
		}
		c.leases.mu.Unlock()
		c.leases.settling.Wait()
		settle := &chartergatev1.SettleRequest{Hold: hold.Token(), Usage: &chartergatev1.Usage{InputTokens: 100}}
		if charge {
			h.sums("charged", held, 0)
			if _, err := c.Settle(t.Context(), settle); Reason(err) != "HOLD_SETTLED" {
				t.Error(err)
			}
			continue
		}
		h.sums("released", 0, 0)
		if _, err := l.Settle(hold, settle.Usage, 0); !errors.Is(err, ErrExpired) {
			t.Error(err)
		}
		late, err := c.Settle(t.Context(), settle)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := c.Settle(t.Context(), settle); err != nil || !proto.Equal(late, again) {
			t.Errorf("%v, %v", again, err)
		}
		if _, err := c.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: settle.Hold}); Reason(err) != "HOLD_EXPIRED" {
			t.Error(err)
		}
		h.sums("late", late.Settlement.CostNanos, late.Settlement.CostNanos)
	}
}

// A server that stops gets its money back, but for the calls in flight.
func TestAStoppingServerGetsItsSlicesBack(t *testing.T) {
	h := newHouse(t)
	c, l := h.lease(chat(2000, 500))
	hold, ok := l.Reserve(chat(100, 100).Call.Estimate)
	if !ok {
		t.Fatal("no hold")
	}
	nanos, err := l.Settle(hold, &chartergatev1.Usage{InputTokens: 10}, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.sums("after the restart", nanos, 0)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	h.sums("after Close", nanos, 0)
}

// A lease that is not used holds nothing.
func TestAnIdleLeaseHoldsNothing(t *testing.T) {
	h := newHouse(t)
	_, l := h.lease(chat(2000, 500))
	eventually(t, "it has lapsed", func() bool { return l.current.Load() == nil && l.spareSlice() == nil })
	eventually(t, "nothing is held", func() bool { return h.status("chat").HeldNanos == 0 })
	if l.Check(chat(1, 1).Call.Estimate) {
		t.Error("it still answers")
	}
	h.sums("idle", 0, 0)
}
