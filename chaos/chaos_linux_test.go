package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/chaos/oracle"
)

const (
	// stale is how long after a change of a ceiling was acknowledged a replica may still admit by the one before: it
	// revalidates every 5 s, or may not reserve from 7.84 s after its last heartbeat on.
	stale = 8 * time.Second
	// skew is how far the wall clock may drift from the monotonic one in a run.
	skew = 250 * time.Millisecond
)

// number reads a setting.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Faults of every kind, at random moments, while clients call: whatever they were told is kept, and no ceiling is passed.
// CHARTERGATE_FAULTS is how many, CHARTERGATE_CHAOS_SEED repeats the schedule, CHARTERGATE_REPLICAS and
// CHARTERGATE_CALLS (a second) change the size.
func TestChaos(t *testing.T) {
	faults := int(number(t, "CHARTERGATE_FAULTS", 0))
	if faults == 0 {
		t.Skip("set CHARTERGATE_FAULTS, or run make chaos")
	}
	seed := number(t, "CHARTERGATE_CHAOS_SEED", uint64(time.Now().UnixNano()))
	replicas, calls := int(number(t, "CHARTERGATE_REPLICAS", 3)), float64(number(t, "CHARTERGATE_CALLS", 60))
	t.Logf("%d faults, %d replicas; repeat with SEED=%d", faults, replicas, seed)
	l := startLoad(t, replicas, 4, calls, seed)
	b := &breaker{cluster: l.cluster, random: rand.New(rand.NewPCG(seed, 5)), busy: map[string]bool{}, freed: make(chan struct{})}
	l.breaker = b
	b.run(schedule(seed, faults), func(format string, args ...any) {
		t.Logf("%6.1fs "+format, append([]any{time.Duration(now() - l.began).Seconds()}, args...)...)
	})
	if b.errs != nil {
		t.Error(b.errs)
	}
	l.healed = now()
	if err := l.allServe(t.Context()); err != nil {
		t.Error(err)
	}
	// One more, with everything else in order: how long is a replica missed?
	l.last = happened{fault: fault{kind: killReplica, target: int(seed % uint64(replicas)), lasts: time.Second}, start: now()}
	if err := b.happen(&l.last); err != nil {
		t.Error(err)
	}
	l.finish(t, seed)
}

// underLoad is a cluster that clients call, and that is watched.
type underLoad struct {
	result
	over, watched              chan struct{}
	moving, watching, followed sync.WaitGroup
	unfollow                   context.CancelFunc
}

// startLoad starts a cluster, clients that make so many calls a second together, and who watches and moves ceilings.
func startLoad(t *testing.T, replicas, clients int, calls float64, seed uint64) *underLoad {
	t.Helper()
	l := &underLoad{over: make(chan struct{}), watched: make(chan struct{})}
	l.began = now()
	c := startCluster(t, replicas)
	l.cluster, l.breaker, l.history = c, &breaker{cluster: c}, &oracle.History{}
	for name, nanos := range fixedLimits {
		l.history.Limits = append(l.history.Limits, oracle.Limit{Account: name, Nanos: nanos, Start: 1, End: 2})
	}
	for name, m := range movedLimits {
		l.history.Limits = append(l.history.Limits, oracle.Limit{Account: name, Nanos: m.first, Start: 1, End: 2})
	}
	l.observer = &observer{etcd: c.etcd, pids: map[string]int{}, closed: map[string]int64{}}
	l.treasurer = &treasurer{clients: c.conns, random: rand.New(rand.NewPCG(seed, 3))}
	l.moving.Go(func() { l.treasurer.run(l.over) })
	l.watching.Go(func() { l.observer.run(l.watched) })
	l.late = &pulse{}
	l.watching.Go(func() { l.late.run(l.watched) })
	following, unfollow := context.WithCancel(t.Context())
	l.unfollow = unfollow
	l.followed.Go(func() { l.observer.follow(following) })
	c.startClients(t, clients, calls, seed)
	return l
}

// finish lets clients and replicas end in order, and judges.
func (l *underLoad) finish(t *testing.T, seed uint64) {
	t.Helper()
	close(l.over)
	l.moving.Wait()
	if err := l.stopClients(); err != nil {
		t.Errorf("clients: %v", err)
	}
	l.repeat(t, seed)
	l.awaitReclaim(t, l.observer, l.watched, &l.watching)
	for i, r := range l.replicas {
		if err := r.end(30 * time.Second); err != nil {
			t.Errorf("replica %d does not end in order: %v\n%s", i, err, r.current().tail())
		}
	}
	l.unfollow()
	l.followed.Wait()
	attempts, err := l.cluster.history()
	if err != nil {
		t.Fatal(err)
	}
	l.result.history.Attempts, l.result.history.Limits = attempts, append(l.result.history.Limits, l.limits...)
	l.clock = oracle.Clock{Zero: monotonicZero(), Grace: grace, Skew: skew}
	l.judge(t)
}

// pulse measures how late this process, which does little, gets to run: on a machine that stalls, waits that end in time
// elsewhere do not, and a failure may be the machine's.
type pulse struct {
	worst, total time.Duration
}

func (p *pulse) run(over <-chan struct{}) {
	const every = 100 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := now(); ; {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		at := now()
		if late := time.Duration(at-last) - every; late > time.Second {
			p.worst, p.total = max(p.worst, late), p.total+late
		}
		last = at
	}
}

// repeat settles holds of every owner again: each answer must be the first.
func (c *cluster) repeat(t *testing.T, seed uint64) {
	t.Helper()
	attempts, err := c.history()
	if err != nil {
		t.Fatal(err)
	}
	again, err := newCaller("repeat", c.addrs, c.dir+"/history-repeat.jsonl", seed)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	tokens, owners, n := map[string]*oracle.Attempt{}, map[string]int{}, 0
	for _, a := range attempts {
		if a.Op == oracle.Reserve && a.Outcome == oracle.OK {
			tokens[a.Hold] = a
		}
		if a.Op != oracle.Settle || a.Outcome != oracle.OK || tokens[a.Hold] == nil {
			continue
		}
		if owners[owner(a.Hold)]++; owners[owner(a.Hold)] > 5 {
			continue
		}
		n++
		x := tokens[a.Hold]
		if again.settle(&held{Attempt: x, token: x.Token}, n, a.Usage) == nil {
			t.Errorf("no answer to a repeated settlement of hold %s", a.Hold)
		}
	}
	t.Logf("%d settlements of %d owners repeated", n, len(owners))
}

// awaitReclaim waits until every owner that is gone is closed, and stops the observer.
func (c *cluster) awaitReclaim(t *testing.T, o *observer, watched chan struct{}, watching *sync.WaitGroup) {
	t.Helper()
	began := time.Now()
	close(watched)
	watching.Wait()
	err := eventually(2*quarantine+patience, func() error {
		o.look()
		if left := o.unclosed(); len(left) > 0 {
			return fmt.Errorf("%d owners that are gone are not closed: %s", len(left), strings.Join(left, ", "))
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s after the last fault: %v", time.Since(began), err)
	}
}

// records reads everything at the end.
func (r *result) records(ctx context.Context) (*oracle.Records, error) {
	return oracle.ReadRecords(ctx, r.cluster.etcd.client, true)
}
