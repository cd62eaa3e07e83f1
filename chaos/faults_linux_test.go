package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// happened is a fault as it went.
type happened struct {
	fault
	replica    int // -1: none
	pid        int // of the replica that was hit
	start, end int64
}

// breaker makes faults happen. Faults of different parts may overlap, at most two at a time.
type breaker struct {
	*cluster
	random *rand.Rand

	mu    sync.Mutex
	busy  map[string]bool
	freed chan struct{}
	done  []happened
	errs  error
}

// parts are what a fault needs for itself.
func (b *breaker) parts(f fault) []string {
	switch f.kind {
	case killReplica, pauseReplica, freezeReplica, cutWhole, cutToEtcd, cutFromEtcd:
		return []string{fmt.Sprintf("replica %d", f.target%len(b.replicas))}
	case killLeader, pauseLeader, loseTwo, compaction:
		return []string{"etcd"}
	case killClient:
		return []string{fmt.Sprintf("client %d", f.target%len(b.clients))}
	}
	all := []string{"etcd"}
	for i := range b.replicas {
		all = append(all, fmt.Sprintf("replica %d", i))
	}
	return all
}

// most is how many faults there are at a time.
const most = 2

// take waits until the parts are free.
func (b *breaker) take(parts []string) {
	for {
		b.mu.Lock()
		free := len(b.busy) < most || len(b.busy) == 0
		for _, p := range parts {
			free = free && !b.busy[p]
		}
		if free {
			for _, p := range parts {
				b.busy[p] = true
			}
			b.mu.Unlock()
			return
		}
		freed := b.freed
		b.mu.Unlock()
		<-freed
	}
}

func (b *breaker) give(parts []string, h happened, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range parts {
		delete(b.busy, p)
	}
	close(b.freed)
	b.freed = make(chan struct{})
	b.done = append(b.done, h)
	if err != nil {
		b.errs = errors.Join(b.errs, fmt.Errorf("%s: %w", h.kind, err))
	}
}

// run makes all the faults happen, in order, and gives back when the last is healed.
func (b *breaker) run(faults []fault, say func(string, ...any)) {
	var under sync.WaitGroup
	for i, f := range faults {
		parts := b.parts(f)
		b.take(parts)
		under.Go(func() {
			h := happened{fault: f, replica: -1, start: now()}
			err := b.happen(&h)
			h.end = now()
			say("fault %d: %s (%d) for %.1fs", i+1, f.kind, f.target, time.Duration(h.end-h.start).Seconds())
			b.give(parts, h, err)
		})
		<-time.After(f.then)
	}
	under.Wait()
}

// happen breaks, waits, and heals.
func (b *breaker) happen(h *happened) error {
	wait := func() { <-time.After(h.lasts) }
	switch h.kind {
	case killReplica:
		r := b.hit(h)
		if err := r.hold(); err != nil {
			return err
		}
		wait()
		r.letGo()
	case pauseReplica, freezeReplica:
		b.hit(h)
		p := b.replicas[h.replica].current()
		if err := p.pause(); err != nil {
			return gone(p, err)
		}
		wait()
		return p.resume()
	case cutWhole, cutToEtcd, cutFromEtcd:
		b.hit(h)
		d := map[kind]direction{cutWhole: whole, cutToEtcd: toEtcd, cutFromEtcd: fromEtcd}[h.kind]
		err := b.net.cut(h.replica, d)
		wait()
		return errors.Join(err, b.net.heal(h.replica))
	case killLeader, pauseLeader:
		return b.hitLeader(h)
	case loseTwo:
		one, two := h.target%members, (h.target+1)%members
		err := errors.Join(b.etcd.kill(one), b.etcd.kill(two))
		wait()
		return errors.Join(err, b.etcd.start(one), b.etcd.start(two), b.etcdIsBack())
	case compaction:
		return eventually(patience, func() error { return b.etcd.compact(context.Background(), b.random) })
	case restartAll:
		return b.restartAll(wait)
	case killClient:
		c := b.clients[h.target%len(b.clients)]
		if err := c.hold(); err != nil {
			return err
		}
		wait()
		c.letGo()
	}
	return nil
}

func (b *breaker) hit(h *happened) *supervised {
	h.replica = h.target % len(b.replicas)
	r := b.replicas[h.replica]
	if p := r.current(); p != nil {
		h.pid = p.pid()
	}
	return r
}

// gone forgives what cannot be done to a process that has ended by itself just now.
func gone(p *process, err error) error {
	select {
	case <-p.exited:
		return nil
	default:
		return err
	}
}

func (b *breaker) hitLeader(h *happened) error {
	var leader int
	if err := eventually(patience, func() (err error) {
		leader, err = b.etcd.leader(context.Background())
		return err
	}); err != nil {
		return err
	}
	h.target, h.start = leader, now()
	if h.kind == pauseLeader {
		p := b.etcd.proc(leader)
		err := p.pause()
		<-time.After(h.lasts)
		return errors.Join(err, p.resume())
	}
	err := b.etcd.kill(leader)
	<-time.After(h.lasts)
	return errors.Join(err, b.etcd.start(leader), b.etcdIsBack())
}

func (b *breaker) etcdIsBack() error {
	return eventually(patience, func() error { return b.etcd.works(context.Background()) })
}

func (b *breaker) restartAll(wait func()) error {
	var errs error
	for _, r := range b.replicas {
		errs = errors.Join(errs, r.hold())
	}
	for m := range members {
		errs = errors.Join(errs, b.etcd.kill(m))
	}
	wait()
	for m := range members {
		errs = errors.Join(errs, b.etcd.start(m))
	}
	for _, r := range b.replicas {
		r.letGo()
	}
	return errors.Join(errs, b.etcdIsBack())
}
