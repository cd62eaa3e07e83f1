package sim

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// How long a client waits for etcd: store/etcd bounds every call so.
const callTimeout = 5 * time.Second

// link is the way between a process and etcd.
type link struct {
	cut  bool // nothing gets to etcd
	deaf bool // nothing comes back
	// One in n calls is: delayed by up to a second, lost, answered by nobody, of unknown outcome and landing much later. 0: none.
	slow, lost, mute, late int
}

// client is a process's connection to etcd. It is a clientv3.Lease too.
type client struct {
	etcdserverpb.KVClient // panics for what the ledger does not use
	p                     *process
	e                     *etcd
	link                  *link
	count                 *counters
	leaseID               *int64
	r                     *replica
	behind                []func() // calls that land right after the next one
	alive                 []chan *clientv3.LeaseKeepAliveResponse
}

// close lets go of the goroutines that drain keep-alives.
func (c *client) close() {
	if c == nil {
		return
	}
	for _, ch := range c.alive {
		close(ch)
	}
	c.alive = nil
}

// call sends a request to etcd and waits for the answer, with all that can go wrong on the way.
func (c *client) call(ctx context.Context, name string, apply func() (any, error)) (any, error) {
	p := c.p
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	co, gen := p.begin()
	co.watch(ctx, nil)
	var result any
	give := func(got any, err error) {
		if co.end(gen, err) {
			result = got
		}
	}
	p.after(callTimeout, func() { give(nil, context.DeadlineExceeded) })

	out := p.between(200*time.Microsecond, 2*time.Millisecond)
	fails := time.Duration(-1) // when the caller hears that the connection broke
	arrives, overtaken := true, false
	l := c.link
	if p.pauses > 0 && p.chance(p.pauses) { // while the answer is on its way
		d := p.nap()
		p.logf("%s: pauses for %s while it waits for etcd", p.name, d.Round(time.Millisecond))
		p.after(p.between(0, 3*time.Millisecond), func() { p.pause(d) })
	}
	odds := func(n int) bool { return n > 0 && p.chance(n) }
	switch {
	case l.cut && p.chance(4) || odds(l.late):
		c.count.LateLanding++
		out = p.between(time.Second, 40*time.Second)
		if p.chance(2) {
			fails = p.between(time.Millisecond, time.Second)
			switch p.rng.IntN(3) {
			case 0:
				out = fails + p.between(time.Millisecond, time.Second)
			case 1:
				overtaken = true
			}
		}
	case l.cut || odds(l.lost):
		c.count.Lost++
		arrives = false
		if p.chance(2) {
			fails = p.between(time.Millisecond, time.Second)
		}
	case odds(l.slow):
		out = p.between(time.Millisecond, 1500*time.Millisecond)
	}
	if fails >= 0 {
		p.after(fails, func() { give(nil, status.Error(codes.Unavailable, "the connection broke")) })
	}
	land := func() {
		if _, err := apply(); err != nil {
			p.logf("%s: landed late: %v", p.name, err)
		}
	}
	switch {
	case overtaken:
		c.behind = append(c.behind, land)
	case arrives:
		p.after(out, func() {
			got, err := apply()
			for _, late := range c.behind {
				p.after(p.between(0, 3*time.Millisecond), late)
			}
			c.behind = nil
			back := p.between(200*time.Microsecond, 2*time.Millisecond)
			switch {
			case l.deaf || odds(l.mute):
				c.count.Unanswered++
				if p.chance(2) {
					p.after(back, func() { give(nil, status.Error(codes.Unavailable, "the connection broke")) })
				}
				return
			case odds(l.slow):
				back = p.between(time.Millisecond, 1500*time.Millisecond)
			}
			p.after(back, func() { give(got, err) })
		})
	}
	p.park()
	return result, co.err
}

// Range implements etcdserverpb.KVClient.
func (c *client) Range(ctx context.Context, r *etcdserverpb.RangeRequest, _ ...grpc.CallOption) (*etcdserverpb.RangeResponse, error) {
	got, err := c.call(ctx, "get", func() (any, error) { return c.e.get(r) })
	if err != nil {
		return nil, err
	}
	return got.(*etcdserverpb.RangeResponse), nil
}

// Txn implements etcdserverpb.KVClient.
func (c *client) Txn(ctx context.Context, r *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	name := ""
	if c.p.trace != nil {
		name = txnText(r)
	}
	got, err := c.call(ctx, name, func() (any, error) {
		if c.p.trace != nil {
			c.p.logf("%s: %s", c.p.name, name)
		}
		resp, err := c.e.txn(r)
		if resp != nil && !resp.Succeeded && len(r.Success) > 0 {
			c.count.Conflicts++
		}
		if c.p.trace != nil {
			c.p.logf("%s: -> %v at %d, %v", c.p.name, resp.GetSucceeded(), resp.GetHeader().GetRevision(), err)
		}
		return resp, err
	})
	if err != nil {
		return nil, err
	}
	return got.(*etcdserverpb.TxnResponse), nil
}

// Grant implements clientv3.Lease.
func (c *client) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	got, err := c.call(ctx, "grant a lease", func() (any, error) {
		*c.leaseID++
		id := *c.leaseID
		c.e.grant(id, ttl)
		c.expire(id, time.Duration(ttl)*time.Second)
		return &clientv3.LeaseGrantResponse{ID: clientv3.LeaseID(id), TTL: ttl}, nil
	})
	if err != nil {
		return nil, err
	}
	return got.(*clientv3.LeaseGrantResponse), nil
}

// expire ends a lease when its time is up; etcd is up to a second late.
func (c *client) expire(id int64, d time.Duration) {
	s := c.p.sched
	s.after(d+s.between(0, time.Second), func() {
		l := c.e.leases[id]
		switch {
		case l == nil:
		case l.expires > s.now:
			c.expire(id, l.expires-s.now)
		default:
			s.logf("etcd: lease %d of %s expires", id, c.p.name)
			c.count.LeaseExpired++
			c.e.revoke(id)
		}
	})
}

// Revoke implements clientv3.Lease.
func (c *client) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	_, err := c.call(ctx, "revoke a lease", func() (any, error) {
		if !c.e.revoke(int64(id)) {
			return nil, rpctypes.ErrLeaseNotFound
		}
		return nil, nil
	})
	return &clientv3.LeaseRevokeResponse{}, err
}

// KeepAlive implements clientv3.Lease. Its answers say nothing: a lost lease shows in fenced writes.
func (c *client) KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	ch := make(chan *clientv3.LeaseKeepAliveResponse)
	c.alive = append(c.alive, ch)
	var renew func()
	renew = func() {
		if c.p.dead || ctx.Err() != nil {
			return
		}
		if !c.p.paused && !c.link.cut {
			c.p.after(c.p.between(0, 5*time.Millisecond), func() { c.e.renew(int64(id)) })
		}
		if c.e.leases[int64(id)] != nil {
			c.p.after(c.p.between(3*time.Second, 3500*time.Millisecond), renew)
		}
	}
	c.p.after(time.Second, renew)
	return ch, nil
}
