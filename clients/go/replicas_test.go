package chartergate

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// fleet is replicas that can die and come back, each on its own port.
type fleet struct {
	t       *testing.T
	addrs   []string
	gates   []*gate
	servers []*grpc.Server
	mu      sync.Mutex
	calls   []int // by replica, and the request ids
	ids     []string
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{t: t, calls: make([]int, n), servers: make([]*grpc.Server, n)}
	for i := range n {
		f.addrs = append(f.addrs, freeAddr(t))
		f.gates = append(f.gates, &gate{
			reserve: func(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
				f.count(i, r.GetRequestId())
				return echo(ctx, r)
			},
			session: func(s grpc.BidiStreamingServer[chartergatev1.SessionRequest, chartergatev1.SessionResponse]) error {
				for {
					r, err := s.Recv()
					if err != nil {
						return nil
					}
					answer := &chartergatev1.SessionResponse{}
					for _, o := range r.GetOperations() {
						f.count(i, o.GetReserve().GetRequestId())
						resp, _ := echo(s.Context(), o.GetReserve())
						answer.Results = append(answer.Results, &chartergatev1.SessionResult{Id: o.GetId(), Result: &chartergatev1.SessionResult_Reserve{Reserve: resp}})
					}
					if err := s.Send(answer); err != nil {
						return err
					}
				}
			},
		})
		f.start(i)
	}
	t.Cleanup(func() {
		for i := range f.servers {
			f.kill(i)
		}
	})
	return f
}

func (f *fleet) count(i int, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[i]++
	f.ids = append(f.ids, id)
}

func (f *fleet) counts() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := slices.Clone(f.calls)
	clear(f.calls)
	f.ids = nil
	return counts
}

func (f *fleet) start(i int) {
	f.t.Helper()
	l, err := net.Listen("tcp", f.addrs[i])
	if err != nil {
		f.t.Fatal(err)
	}
	f.servers[i] = grpc.NewServer()
	chartergatev1.RegisterPreflightServiceServer(f.servers[i], f.gates[i])
	go f.servers[i].Serve(l)
}

func (f *fleet) kill(i int) { f.servers[i].Stop() }

func (f *fleet) dial(opts ...Option) *Client {
	f.t.Helper()
	c, err := Dial(strings.Join(f.addrs, ", "), opts...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	return c
}

func (f *fleet) reserve(c *Client, times int) {
	f.t.Helper()
	for range times {
		if _, err := c.Reserve(f.t.Context(), call("chat")); err != nil {
			f.t.Fatal(err)
		}
	}
}

func TestCallsAreSpreadOverTheReplicasThatAnswer(t *testing.T) {
	f := newFleet(t, 3)
	c := f.dial()
	all := func() bool { f.reserve(c, 30); return !slices.Contains(f.counts(), 0) }
	eventually(t, "every replica gets calls", all)
	f.kill(1)
	f.reserve(c, 60)
	if n := f.counts(); n[0] == 0 || n[1] != 0 || n[2] == 0 {
		t.Errorf("with one down: %v", n)
	}
	for range 60 { // calls without retries do not go where nobody is
		if _, err := c.Preflight.Reserve(t.Context(), call("chat")); err != nil {
			t.Fatal(err)
		}
	}
	f.start(1)
	eventually(t, "the replica that is back gets calls", all)
}

// With every replica down the error names one, and Connect all.
func TestErrorsNameTheReplica(t *testing.T) {
	f := newFleet(t, 2)
	c := f.dial()
	f.reserve(c, 1)
	f.kill(0)
	f.kill(1)
	_, err := c.Preflight.Reserve(t.Context(), call("chat"))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), f.addrs[0]+": ") && !strings.Contains(err.Error(), f.addrs[1]+": ") {
		t.Errorf("%v", err)
	}
	eventually(t, "both are known to be down", func() bool { return c.Connect(t.Context()) != nil })
	if err := c.Connect(t.Context()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), f.addrs[0]+", "+f.addrs[1]) {
		t.Errorf("%v", err)
	}
	for i := range f.gates {
		f.gates[i].reserve = func(context.Context, *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
			return nil, status.Error(codes.NotFound, "no charter")
		}
		f.start(i)
	}
	if _, err := c.Reserve(t.Context(), call("chat")); status.Convert(err).Message() != "no charter" {
		t.Errorf("an answer of the service: %v", err)
	}
}

// A retry goes back to the replica that may have the first answer, then to another, under the same request id.
func TestARetryStaysThenMovesOn(t *testing.T) {
	f := newFleet(t, 2)
	c := f.dial(WithTryTimeout(100 * time.Millisecond))
	f.reserve(c, 20)
	f.counts()
	var broken sync.Once
	bad := -1
	for i := range f.gates {
		f.gates[i].reserve = func(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
			broken.Do(func() { bad = i })
			f.count(i, r.GetRequestId())
			if i == bad {
				<-ctx.Done() // as if it were paused
				return nil, ctx.Err()
			}
			return echo(ctx, r)
		}
	}
	f.reserve(c, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls[bad] != 1+maxStays || f.calls[1-bad] != 1 || f.ids[0] == "" || len(slices.Compact(f.ids)) != 1 {
		t.Errorf("tries %v, the first replica is %d, ids %v", f.calls, bad, f.ids)
	}
}

// A session whose replica dies goes on with another.
func TestASessionMovesToAnotherReplica(t *testing.T) {
	f := newFleet(t, 3)
	c := f.dial()
	s, err := c.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seen := map[int]bool{}
	for range 2 {
		answer, err := s.Reserve(t.Context(), call("chat"))
		if err != nil || answer.Hold == nil {
			t.Fatal(answer, err)
		}
		at := slices.IndexFunc(f.counts(), func(n int) bool { return n > 0 })
		seen[at] = true
		f.kill(at)
	}
	if len(seen) != 2 {
		t.Errorf("replicas %v answered", seen)
	}
}

func TestDialRefusesAnEmptyAddress(t *testing.T) {
	if _, err := Dial("127.0.0.1:1,,127.0.0.1:2"); err == nil || !strings.Contains(err.Error(), "empty address") {
		t.Error(err)
	}
}
