package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/chaos/oracle"
	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// clientEnv is what a process of roleClient is told, as JSON.
const clientEnv = "CHARTERGATE_CHAOS_CLIENT"

// load is what one client process does.
type load struct {
	ID        string   // of its calls; another in every process
	Replicas  []string // gRPC addresses
	History   string   // file
	Seed      uint64
	PerSecond float64 // calls
}

const (
	// tryTime bounds one RPC.
	tryTime = 3 * time.Second
	// reserveTime, settleTime: how long a client goes on trying.
	reserveTime, settleTime = 8 * time.Second, 40 * time.Second
	// maxHold is the longest hold; short, so that a quarantine is over in some seconds.
	maxHold = 2 * time.Second
	// inFlight bounds the calls that a client process makes at a time.
	inFlight = 300
)

// runClient makes calls until SIGTERM, then finishes those under way.
func runClient() error {
	var l load
	if err := json.Unmarshal([]byte(os.Getenv(clientEnv)), &l); err != nil {
		return err
	}
	c, err := newCaller(l.ID, l.Replicas, l.History, l.Seed)
	if err != nil {
		return err
	}
	defer c.close()
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.PerSecond))
	defer tick.Stop()
	slots := make(chan struct{}, inFlight)
	var calls sync.WaitGroup
	for n := 0; ; n++ {
		select {
		case <-stopped:
			calls.Wait()
			return nil
		case <-tick.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		seed := c.random.Uint64()
		calls.Go(func() {
			c.call(fmt.Sprintf("%s-%d", l.ID, n), rand.New(rand.NewPCG(seed, uint64(n))))
			<-slots
		})
	}
}

// caller makes calls on all replicas and keeps what it is told.
type caller struct {
	id      string
	clients []*chartergate.Client
	history *oracle.Writer
	random  *rand.Rand // of the one who starts calls

	attempts, settles atomic.Int64
}

func newCaller(id string, replicas []string, history string, seed uint64) (*caller, error) {
	c := &caller{id: id, random: rand.New(rand.NewPCG(seed, 7))}
	for _, addr := range replicas {
		client, err := chartergate.Dial(addr)
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, client)
	}
	var err error
	c.history, err = oracle.NewWriter(history)
	return c, err
}

func (c *caller) close() {
	for _, client := range c.clients {
		_ = client.Close()
	}
	_ = c.history.Close()
}

// write keeps an attempt. A history that cannot be written proves nothing: the process ends.
func (c *caller) write(a *oracle.Attempt) {
	if err := c.history.Write(a); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// persist tries one operation on one replica after the other, from first on, until there is an answer or the time is over.
// The answer is nil when there is none.
func (c *caller) persist(first int, patience time.Duration, template oracle.Attempt, do func(context.Context, *chartergate.Client, *oracle.Attempt) error) *oracle.Attempt {
	end := time.Now().Add(patience)
	for try := 0; ; try++ {
		a := template
		a.Replica = (first + try) % len(c.clients)
		a.ID = fmt.Sprintf("%s/%d", c.id, c.attempts.Add(1))
		a.Start = now()
		c.write(&a)
		ctx, cancel := context.WithTimeout(context.Background(), tryTime)
		err := do(ctx, c.clients[a.Replica], &a)
		cancel()
		a.End = now()
		if err == nil {
			c.write(&a)
			return &a
		}
		if a.Outcome = outcome(err); a.Outcome == oracle.Unknown {
			a.End = 0
		}
		a.Error = err.Error()
		if a.Outcome == "HOLD_SETTLED" {
			a.First = settledAt(err)
		}
		c.write(&a)
		if a.Outcome != oracle.Unknown && a.Outcome != oracle.Refused {
			return &a
		}
		if time.Now().After(end) {
			return nil
		}
		<-time.After(min(50*time.Millisecond<<min(try, 4), 500*time.Millisecond))
	}
}

// outcome is the reason of an error that is an answer.
func outcome(err error) string {
	switch code := status.Code(err); code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return oracle.Unknown
	case codes.ResourceExhausted:
		return oracle.Refused
	default:
		if reason := chartergate.Reason(err); reason != "" {
			return reason
		}
		return code.String()
	}
}

// settledAt is what HOLD_SETTLED says that the hold was settled at.
func settledAt(err error) int64 {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if n, err := strconv.ParseInt(info.GetMetadata()["settled_nanos"], 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}

// held is a hold as its client knows it.
type held struct {
	*oracle.Attempt // of its Reserve
	token           string
	expires         int64
	estimate        oracle.Tokens
}

// reserve asks for a call; nil when there is no hold.
func (c *caller) reserve(call string, r *rand.Rand) *held {
	n := r.IntN(100)
	f := &features[0]
	for i := range features {
		if n -= features[i].share; n < 0 {
			f = &features[i]
			break
		}
	}
	user := fmt.Sprintf("u/%d", r.IntN(6))
	estimate := oracle.Tokens{Input: 500 + r.Int64N(2000), Output: 100 + r.Int64N(1000)}
	q := &pb.ReserveRequest{
		Call: &pb.Call{
			Feature: f.name, User: user, PromptPattern: call,
			Estimate: &pb.Estimate{InputTokens: estimate.Input, MaxOutputTokens: estimate.Output},
		},
		Ttl: durationpb.New(time.Second + time.Duration(r.Int64N(int64(maxHold-time.Second)))), RequestId: call,
	}
	template := oracle.Attempt{
		Op: oracle.Reserve, Call: call, Ask: rates["small"].Cost(estimate), Feature: f.name, Charge: f.charge, Accounts: f.accounts(user, nil),
	}
	a := c.persist(r.IntN(len(c.clients)), reserveTime, template, func(ctx context.Context, client *chartergate.Client, a *oracle.Attempt) error {
		resp, err := client.Preflight.Reserve(ctx, q)
		if err != nil {
			return err
		}
		d := resp.GetDecision()
		if resp.GetHold() == nil {
			a.Outcome = oracle.Denied
			if d.GetEffect() == pb.Effect_EFFECT_THROTTLE {
				a.Outcome = oracle.Throttled
			}
			for _, reason := range d.GetReasons() {
				if code := reason.GetCode(); code == pb.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED || code == pb.ReasonCode_REASON_CODE_BUDGET_HELD {
					a.Bound = reason.GetBudget()
				}
			}
			return nil
		}
		a.Outcome, a.Model, a.Accounts = oracle.OK, d.GetModel(), f.accounts(user, d)
		return keepHold(a, resp.GetHold())
	})
	if a == nil || a.Outcome != oracle.OK {
		return nil
	}
	return &held{a, a.Token, a.Expires, estimate}
}

// settle settles at a usage, asking one replica first.
func (c *caller) settle(h *held, first int, used oracle.Tokens) *oracle.Attempt {
	id := fmt.Sprintf("%s-s%d", h.Call, c.settles.Add(1))
	q := &pb.SettleRequest{
		Hold: h.token, Usage: &pb.Usage{InputTokens: used.Input - used.Cached, CacheReadTokens: used.Cached, OutputTokens: used.Output}, RequestId: id,
	}
	priced := used
	priced.Input -= used.Cached
	template := oracle.Attempt{Op: oracle.Settle, Call: h.Call, Hold: h.Hold, Usage: used, Model: h.Model, Ask: rates[h.Model].Cost(priced)}
	return c.persist(first, settleTime, template, func(ctx context.Context, client *chartergate.Client, a *oracle.Attempt) error {
		resp, err := client.Preflight.Settle(ctx, q)
		if err != nil {
			return err
		}
		s := resp.GetSettlement()
		a.Outcome, a.Cost, a.Forced, a.Late = oracle.OK, s.GetCostNanos(), s.GetForcedNanos(), s.GetLate()
		a.Journal, a.Time = s.GetJournal(), s.GetSettleTime().AsTime().UnixMilli()
		return nil
	})
}

func (c *caller) release(h *held, first int) {
	template := oracle.Attempt{Op: oracle.Release, Call: h.Call, Hold: h.Hold}
	c.persist(first, settleTime, template, func(ctx context.Context, client *chartergate.Client, a *oracle.Attempt) error {
		_, err := client.Preflight.Release(ctx, &pb.ReleaseRequest{Hold: h.token})
		if err == nil {
			a.Outcome = oracle.OK
		}
		return err
	})
}

// extend makes the hold last longer, if it can.
func (c *caller) extend(h *held, first int) {
	template := oracle.Attempt{Op: oracle.Extend, Call: h.Call, Hold: h.Hold}
	a := c.persist(first, maxHold, template, func(ctx context.Context, client *chartergate.Client, a *oracle.Attempt) error {
		resp, err := client.Preflight.Extend(ctx, &pb.ExtendRequest{Hold: h.token, Ttl: durationpb.New(maxHold)})
		if err != nil {
			return err
		}
		a.Outcome = oracle.OK
		return keepHold(a, resp.GetHold())
	})
	if a != nil && a.Outcome == oracle.OK {
		h.token, h.expires = a.Token, a.Expires
	}
}

// keepHold writes a hold into an attempt, with its expiry by the clock of the history.
func keepHold(a *oracle.Attempt, h *pb.Hold) error {
	id, err := oracle.HoldOf(h.GetToken())
	if a.Hold != "" && err == nil && a.Hold != id {
		err = fmt.Errorf("the token of hold %s became one of %s", a.Hold, id)
	}
	a.Hold, a.Token, a.Held = id, h.GetToken(), h.GetAmountNanos()
	a.Expires = now() + int64(time.Until(h.GetExpireTime().AsTime()))
	return err
}
