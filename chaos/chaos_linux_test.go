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
	began := now()
	c := startCluster(t, replicas)
	limits := []oracle.Limit(nil)
	for name, nanos := range fixedLimits {
		limits = append(limits, oracle.Limit{Account: name, Nanos: nanos, Start: 1, End: 2})
	}
	for name, l := range movedLimits {
		limits = append(limits, oracle.Limit{Account: name, Nanos: l.first, Start: 1, End: 2})
	}

	o := &observer{etcd: c.etcd, pids: map[string]int{}, closed: map[string]int64{}}
	moves := &treasurer{clients: c.conns, random: rand.New(rand.NewPCG(seed, 3))}
	over, watched := make(chan struct{}), make(chan struct{})
	var moving, watching sync.WaitGroup
	moving.Go(func() { moves.run(over) })
	watching.Go(func() { o.run(watched) })
	following, unfollow := context.WithCancel(t.Context())
	var followed sync.WaitGroup
	followed.Go(func() { o.follow(following) })
	late := &pulse{}
	watching.Go(func() { late.run(watched) })
	c.startClients(t, 4, calls, seed)
	b := &breaker{cluster: c, random: rand.New(rand.NewPCG(seed, 5)), busy: map[string]bool{}, freed: make(chan struct{})}
	b.run(schedule(seed, faults), func(format string, args ...any) {
		t.Logf("%6.1fs "+format, append([]any{time.Duration(now() - began).Seconds()}, args...)...)
	})
	if b.errs != nil {
		t.Error(b.errs)
	}
	healed := now()
	if err := c.allServe(t.Context()); err != nil {
		t.Error(err)
	}
	// One more, with everything else in order: how long is a replica missed?
	last := happened{fault: fault{kind: killReplica, target: int(seed % uint64(replicas)), lasts: time.Second}, start: now()}
	if err := b.happen(&last); err != nil {
		t.Error(err)
	}
	close(over)
	moving.Wait()
	if err := c.stopClients(); err != nil {
		t.Errorf("clients: %v", err)
	}
	c.repeat(t, seed)
	c.awaitReclaim(t, o, watched, &watching)
	for i, r := range c.replicas {
		if err := r.end(30 * time.Second); err != nil {
			t.Errorf("replica %d does not end in order: %v\n%s", i, err, r.current().tail())
		}
	}

	unfollow()
	followed.Wait()
	attempts, err := c.history()
	if err != nil {
		t.Fatal(err)
	}
	run := &result{
		cluster: c, breaker: b, observer: o, treasurer: moves, began: began, healed: healed, last: last, late: late,
		history: &oracle.History{Attempts: attempts, Limits: append(limits, moves.limits...)},
		clock:   oracle.Clock{Zero: monotonicZero(), Grace: grace, Skew: skew},
	}
	run.judge(t)
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
