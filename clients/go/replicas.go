package chartergate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	avoidFor = time.Second // after a failure, if there is another replica
	// maxStays is how often a retry goes back to the replica that may have the first answer.
	maxStays = 2
)

// replicas is the connections to the replicas of one service: calls and streams go to one that is connected and has not
// just failed, and of two such to the one with less in flight.
type replicas struct{ all []*replica }

var _ grpc.ClientConnInterface = (*replicas)(nil)

type replica struct {
	addr     string
	conn     *grpc.ClientConn
	inFlight atomic.Int64
	avoid    atomic.Int64 // until then, in Unix nanoseconds
}

func dialReplicas(addrs string, opts []grpc.DialOption) (*replicas, error) {
	p := &replicas{}
	for addr := range strings.SplitSeq(addrs, ",") {
		addr = strings.TrimSpace(addr)
		if addr == "" {
			return nil, errors.Join(fmt.Errorf("%q has an empty address: write host:port,host:port", addrs), p.Close())
		}
		conn, err := grpc.NewClient(addr, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", addr, err), p.Close())
		}
		p.all = append(p.all, &replica{addr: addr, conn: conn})
	}
	return p, nil
}

// Close closes every connection.
func (p *replicas) Close() (err error) {
	for _, r := range p.all {
		err = errors.Join(err, r.conn.Close())
	}
	return err
}

// affinity is the tries of one request: where it went, so that a retry can go there again.
type affinity struct {
	replica *replica
	stays   int
}

type affinityKey struct{}

// tries gives the calls of a context to one request.
func (p *replicas) tries(ctx context.Context) context.Context {
	if len(p.all) == 1 {
		return ctx
	}
	return context.WithValue(ctx, affinityKey{}, new(affinity))
}

// stays says of which calls a replica may have the first answer in its memory; all others are known everywhere.
func stays(method string) bool {
	return method == chartergatev1.PreflightService_Reserve_FullMethodName || method == chartergatev1.LeaseService_Lease_FullMethodName
}

// pick chooses a replica.
func (p *replicas) pick(ctx context.Context, method string) *replica {
	if len(p.all) == 1 {
		return p.all[0]
	}
	a, _ := ctx.Value(affinityKey{}).(*affinity)
	if a == nil {
		return p.best(ctx, nil)
	}
	if a.replica != nil && stays(method) && a.stays < maxStays && a.replica.conn.GetState() == connectivity.Ready {
		a.stays++
		return a.replica
	}
	a.replica, a.stays = p.best(ctx, a.replica), 0
	return a.replica
}

// best chooses among the replicas that look best, but for one where there is another.
func (p *replicas) best(ctx context.Context, but *replica) *replica {
	if !p.connected() {
		p.await(ctx)
	}
	now, least := time.Now().UnixNano(), 4
	var buf [8]*replica
	found := buf[:0]
	for _, r := range p.all {
		rank := r.rank(now)
		if r == but {
			rank = 4
		}
		if rank < least {
			least, found = rank, found[:0]
		}
		if rank == least {
			found = append(found, r)
		}
	}
	one, two := found[rand.IntN(len(found))], found[rand.IntN(len(found))]
	if two.inFlight.Load() < one.inFlight.Load() {
		return two
	}
	return one
}

// rank is 0 for a replica that should answer at once, and more the less that is to be expected.
func (r *replica) rank(now int64) int {
	avoid := now < r.avoid.Load()
	switch r.conn.GetState() {
	case connectivity.Ready:
		if avoid {
			return 2
		}
		return 0
	case connectivity.Idle:
		r.conn.Connect()
		fallthrough
	case connectivity.Connecting:
		if !avoid {
			return 1
		}
	}
	return 3
}

func (p *replicas) connected() bool {
	for _, r := range p.all {
		if r.conn.GetState() == connectivity.Ready {
			return true
		}
	}
	return false
}

// await waits until a replica is connected, none can be, or ctx ends. It says whether one is.
func (p *replicas) await(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan struct{})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	watch := func(r *replica, s connectivity.State) {
		waiting.Go(func() {
			if r.conn.WaitForStateChange(ctx, s) {
				select {
				case changed <- struct{}{}:
				case <-ctx.Done():
				}
			}
		})
	}
	last := make([]connectivity.State, len(p.all))
	for i := range last {
		last[i] = -1
	}
	for {
		hopeless := 0
		for i, r := range p.all {
			s := r.conn.GetState()
			switch s {
			case connectivity.Ready:
				return true
			case connectivity.TransientFailure, connectivity.Shutdown:
				hopeless++
			case connectivity.Idle:
				r.conn.Connect()
			}
			if s != last[i] {
				last[i] = s
				watch(r, s)
			}
		}
		if hopeless == len(p.all) {
			return false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// took notes how a call went and names the replica in the errors that are its own.
func (p *replicas) took(r *replica, err error) error {
	if err == nil || len(p.all) == 1 {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		r.avoid.Store(time.Now().Add(avoidFor).UnixNano())
	case codes.Unknown, codes.Internal, codes.DataLoss, codes.Unimplemented:
	default:
		return err
	}
	named := s.Proto()
	named.Message = r.addr + ": " + named.Message
	return status.ErrorProto(named)
}

// Invoke makes a unary call.
func (p *replicas) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	r := p.pick(ctx, method)
	r.inFlight.Add(1)
	defer r.inFlight.Add(-1)
	return p.took(r, r.conn.Invoke(ctx, method, args, reply, opts...))
}

// NewStream opens a stream.
func (p *replicas) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	r := p.pick(ctx, method)
	s, err := r.conn.NewStream(ctx, desc, method, opts...)
	if err != nil || len(p.all) == 1 {
		return s, p.took(r, err)
	}
	r.inFlight.Add(1)
	return &replicaStream{ClientStream: s, pool: p, replica: r, ended: sync.OnceFunc(func() { r.inFlight.Add(-1) })}, nil
}

// replicaStream knows whose it is. It ends when reading gives an error.
type replicaStream struct {
	grpc.ClientStream
	pool    *replicas
	replica *replica
	ended   func()
}

func (s *replicaStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		s.ended()
	}
	return s.pool.took(s.replica, err)
}

// Connect waits until a replica is connected. Error: UNAVAILABLE when none can be reached, which names all; ctx's.
func (c *Client) Connect(ctx context.Context) error {
	if c.conn.await(ctx) {
		return nil
	}
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	addrs := make([]string, len(c.conn.all))
	for i, r := range c.conn.all {
		addrs[i] = r.addr
	}
	return status.Error(codes.Unavailable, "no server answers at "+strings.Join(addrs, ", "))
}
