package preflight_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// cluster is replicas on one real etcd, which send calls on to each other as the servers do.
type cluster struct {
	*world   // its gate is the first replica
	log      *slog.Logger
	decider  *policy.Decider
	replicas map[string]*replica
	forwards atomic.Int64
}

// replica is one of a cluster. Its name is its address.
type replica struct {
	name    string
	gate    *preflight.Service
	link    *link
	view    *view
	clock   *clock
	metrics *metrics
	owner   string
	gone    atomic.Bool
	stop    func() // in order
	abandon func() // without a last word
}

// newCluster starts replicas a, b, … with a ceiling of limit for chat, far below that of org above it.
func newCluster(t *testing.T, count int, limit money.Nanos, change ...func(*preflight.Config)) *cluster {
	t.Helper()
	t.Parallel() // they mostly wait for heartbeats
	c := &cluster{world: &world{t: t, clock: newClock(noon), metrics: &metrics{}}, log: slog.New(slog.NewTextHandler(io.Discard, nil)), replicas: map[string]*replica{}}
	var err error
	if c.etcd, err = embedded.Start(context.Background(), t.TempDir(), c.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range slices.Sorted(maps.Keys(c.replicas)) {
			c.replicas[name].stop()
		}
		if err := c.etcd.Close(); err != nil {
			t.Error(err)
		}
	})
	if c.decider, err = policy.NewDecider(); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		c.join(string(rune('a'+i)), change...)
	}
	c.gate, c.control = c.replicas["a"].gate, c.replicas["a"].view.Control.(*etcd.Control)
	c.company(limit)
	for _, r := range c.replicas {
		c.eventually(r.name+" knows the company and the roster", func() bool {
			return r.view.Snapshot().Charter("chat") != nil && len(r.gate.Owners()) == count
		})
	}
	return c
}

// join starts a replica.
func (c *cluster) join(name string, change ...func(*preflight.Config)) *replica {
	c.t.Helper()
	control, err := etcd.OpenControl(context.Background(), c.etcd.Client(), c.log, c.clock.Now)
	if err != nil {
		c.t.Fatal(err)
	}
	r := &replica{name: name, link: &link{client: c.etcd.Client()}, view: &view{Control: control}, clock: c.clock, metrics: &metrics{}}
	cfg := preflight.Config{
		Control: r.view, Decider: c.decider, Clock: r.clock, Metrics: r.metrics, Log: c.log, MaxTTL: 10 * time.Minute, Addr: name,
		Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: r.link, Lease: r.link, Watcher: c.etcd.Client(), Now: r.clock.Now}),
	}
	for _, f := range change {
		f(&cfg)
	}
	if r.gate, err = preflight.Start(context.Background(), cfg); err != nil {
		c.t.Fatal(err)
	}
	r.owner = r.gate.Owner()
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.gate.Run(running) }()
	over := sync.OnceValue(func() error {
		r.gone.Store(true)
		cancel()
		defer control.Close()
		return <-ended
	})
	r.stop = func() {
		if err := over(); err != nil && !r.link.down.Load() {
			c.t.Errorf("Run of %s: %v", name, err)
		}
	}
	r.abandon = func() { _ = over() }
	c.replicas[name] = r
	return r
}

// crash ends a replica as a kill does, once its lease has run out.
func (c *cluster) crash(name string) {
	c.t.Helper()
	r := c.replicas[name]
	r.link.down.Store(true)
	r.gone.Store(true)
	c.revoke("own/" + r.owner)
	go r.abandon()
}

// revoke ends the lease of a key.
func (c *cluster) revoke(key string) {
	c.t.Helper()
	resp, err := c.etcd.Client().Get(context.Background(), etcd.Prefix+key)
	if err != nil || len(resp.Kvs) != 1 {
		c.t.Fatalf("%s: %v, %v", key, resp, err)
	}
	if _, err := c.etcd.Client().Revoke(context.Background(), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		c.t.Fatal(err)
	}
}

var errGone = errors.New("the replica does not answer")

// at asks a replica, and the one that it names instead.
func at[T any](c *cluster, name string, ask func(context.Context, *preflight.Service) (T, error)) (T, error) {
	x, err := ask(context.Background(), c.replicas[name].gate)
	to, ok := errors.AsType[*preflight.ForwardError](err)
	if !ok {
		return x, err
	}
	c.forwards.Add(1)
	r := c.replicas[to.Addr]
	if r == nil || r.owner != to.Owner {
		c.t.Errorf("%s sends a call to %s at %s", name, to.Owner, to.Addr)
		return x, errGone
	}
	if r.gone.Load() {
		return x, errGone
	}
	x, err = ask(preflight.Here(context.Background()), r.gate)
	if _, ok := errors.AsType[*preflight.ForwardError](err); ok {
		c.t.Errorf("%s sends a call on that was forwarded to it", to.Addr)
	}
	return x, err
}

type reserved struct {
	*preflight.Decision
	*preflight.Hold
}

func (c *cluster) tryReserve(name string, call *routing.Call) (reserved, error) {
	return at(c, name, func(ctx context.Context, s *preflight.Service) (reserved, error) {
		d, h, err := s.Reserve(ctx, call, 0)
		return reserved{d, h}, err
	})
}

func (c *cluster) reserveAt(name string, call *routing.Call) reserved {
	c.t.Helper()
	r, err := c.tryReserve(name, call)
	if err != nil {
		c.t.Fatalf("reserve at %s: %v", name, err)
	}
	return r
}

// holdAt reserves what must be granted.
func (c *cluster) holdAt(name string, call *routing.Call) *preflight.Hold {
	c.t.Helper()
	r := c.reserveAt(name, call)
	if r.Hold == nil {
		c.t.Fatalf("reserve at %s: %+v", name, r.Decision)
	}
	return r.Hold
}

func (c *cluster) trySettle(name, token string, in, out int64) (*preflight.Settlement, error) {
	return at(c, name, func(ctx context.Context, s *preflight.Service) (*preflight.Settlement, error) {
		return s.Settle(ctx, token, &usage.Usage{InputTokens: in, OutputTokens: out}, "", usage.OutcomeUnknown)
	})
}

func (c *cluster) settleAt(name, token string, in, out int64) *preflight.Settlement {
	c.t.Helper()
	s, err := c.trySettle(name, token, in, out)
	if err != nil {
		c.t.Fatalf("settle at %s: %v", name, err)
	}
	return s
}

func (c *cluster) statusAt(name, budget string) *preflight.Status {
	c.t.Helper()
	s, err := c.replicas[name].gate.Status(context.Background(), budget)
	if err != nil {
		c.t.Fatalf("status at %s: %v", name, err)
	}
	if s.Drain == 0 && s.Settled+s.Held > s.Ceil+s.Forced {
		c.t.Errorf("%s at %s: settled %s + held %s > ceiling %s + forced %s", budget, name, s.Settled, s.Held, s.Ceil, s.Forced)
	}
	return s
}

// record is what etcd has of an account, in which the sums must fit.
func (c *cluster) record(id ledger.AccountID) ledger.Opened {
	c.t.Helper()
	opened, err := c.reader().Open(context.Background(), []ledger.AccountID{id})
	if err != nil {
		c.t.Fatal(err)
	}
	o := opened[0]
	sum := o.Budget.Base
	for owner, g := range o.Others {
		sum += g.Alloc
		if g.Spent > g.Alloc || g.Spent < 0 {
			c.t.Errorf("I3: %s has spent %d of %d of %s", owner, g.Spent, g.Alloc, id)
		}
	}
	if o.Budget.Alloc != sum {
		c.t.Errorf("I1: %s: alloc %d, base and grants %d", id, o.Budget.Alloc, sum)
	}
	return o
}

// reader reads the records without a session.
func (c *cluster) reader() *etcd.Ledger {
	return etcd.NewLedger(etcd.LedgerConfig{KV: c.etcd.Client(), Lease: c.etcd.Client()})
}

// count counts keys of etcd by their prefix and a part of their name.
func (c *cluster) count(prefix, part string) (n int) {
	c.t.Helper()
	resp, err := c.etcd.Client().Get(context.Background(), etcd.Prefix+prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if strings.Contains(string(kv.Key), part) {
			n++
		}
	}
	return n
}

func today(budget string) ledger.AccountID {
	start := noon.Truncate(24 * time.Hour)
	return ledger.AccountID{Budget: budget, Start: start.Unix(), End: start.AddDate(0, 0, 1).Unix()}
}

// limit sets the ceiling of chat.
func (c *cluster) limit(x money.Nanos) {
	c.t.Helper()
	b := *c.control.Snapshot().Budget("chat")
	b.Limit = x
	c.apply(&b)
}

// link is a replica's connection to etcd, which can break.
type link struct {
	client *clientv3.Client
	down   atomic.Bool
	// lose is a prefix of keys: the next transaction that writes one is committed, but its answer is lost.
	lose atomic.Pointer[string]
}

var errBroken = status.Error(codes.Unavailable, "the connection broke")

func (l *link) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if l.down.Load() {
		return nil, errBroken
	}
	return l.client.Get(ctx, key, opts...)
}

func (l *link) Txn(ctx context.Context) clientv3.Txn {
	return &linkTxn{Txn: l.client.Txn(ctx), link: l}
}

func (l *link) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	if l.down.Load() {
		return nil, errBroken
	}
	return l.client.Grant(ctx, ttl)
}

func (l *link) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	if l.down.Load() {
		return nil, errBroken
	}
	return l.client.Revoke(ctx, id)
}

func (l *link) KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	return l.client.KeepAlive(ctx, id)
}

type linkTxn struct {
	clientv3.Txn
	link *link
	then []clientv3.Op
}

func (t *linkTxn) If(c ...clientv3.Cmp) clientv3.Txn { t.Txn = t.Txn.If(c...); return t }
func (t *linkTxn) Then(o ...clientv3.Op) clientv3.Txn {
	t.then = o
	t.Txn = t.Txn.Then(o...)
	return t
}
func (t *linkTxn) Else(o ...clientv3.Op) clientv3.Txn { t.Txn = t.Txn.Else(o...); return t }

func (t *linkTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.link.down.Load() {
		return nil, errBroken
	}
	resp, err := t.Txn.Commit()
	if lose := t.link.lose.Load(); lose != nil && slices.ContainsFunc(t.then, func(o clientv3.Op) bool {
		return o.IsPut() && strings.HasPrefix(string(o.KeyBytes()), etcd.Prefix+*lose)
	}) {
		t.link.lose.Store(nil)
		return nil, errBroken
	}
	return resp, err
}

// view is a replica's view of the control records, which can stand still.
type view struct {
	store.Control
	mu     sync.Mutex
	frozen *charter.Snapshot
	hear   []func(*charter.Snapshot)
}

func (v *view) Snapshot() *charter.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frozen != nil {
		return v.frozen
	}
	return v.Control.Snapshot()
}

func (v *view) OnChange(f func(*charter.Snapshot)) {
	v.mu.Lock()
	v.hear = append(v.hear, f)
	v.mu.Unlock()
	v.Control.OnChange(func(s *charter.Snapshot) {
		v.mu.Lock()
		frozen := v.frozen != nil
		v.mu.Unlock()
		if !frozen {
			f(s)
		}
	})
}

func (v *view) freeze() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.frozen = v.Control.Snapshot()
}

func (v *view) thaw() {
	v.mu.Lock()
	v.frozen = nil
	hear := v.hear
	v.mu.Unlock()
	for _, f := range hear {
		f(v.Control.Snapshot())
	}
}
