package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store"
	storeetcd "github.com/chartergate/chartergate/store/etcd"
)

// world is one run: a cluster, its clients and the faults.
type world struct {
	*sched
	etcd    *etcd
	control *control
	oracle  *oracle
	count   counters
	faults  faults
	healed  bool // the faults are over
	calm    bool // no client begins anything any more
	closed  bool // no replica is started any more
	hosts   []*replica
	all     []*replica
	clients *process
	leaseID int64
	maxTTL  time.Duration
	begins  time.Duration // of the virtual time of day
	busy    int           // clients under way
	names   int
	eager   bool // settlements are collected as soon as they are committed

	limits  map[string][]limited // by budget, or o: and the feature
	charges map[string]bool      // budgets that charge at expiry
}

type limited struct {
	rev   int64
	limit money.Nanos
}

// faults are how bad it gets: one in n, 0 for never.
type faults struct {
	net                    int
	slow, lost, mute, late int
	pauses                 int
	every                  time.Duration // between two big ones
	skew                   time.Duration // of wall clocks, at most
	rate                   float64       // of clocks, at most
}

// replica is one server process.
type replica struct {
	w       *world
	p       *process
	host    int
	link    link
	client  *client
	svc     *preflight.Service
	cancel  context.CancelFunc
	owner   string
	closing bool
	watches []*watch
}

func newWorld(seed uint64, coros *pool) *world {
	w := &world{sched: newSched(seed, coros), hosts: make([]*replica, 3), limits: map[string][]limited{}, charges: map[string]bool{}}
	w.etcd = newEtcd(func() time.Duration { return w.now })
	w.oracle = newOracle(w)
	w.control = &control{w: w, snap: new(charter.Snapshot)}
	w.etcd.committed = func(changes []change) {
		w.oracle.committed(changes)
		for _, r := range w.hosts {
			if r != nil && !r.p.dead {
				r.changed(changes)
			}
		}
	}
	w.panicked = func(name string, reason any, stack []byte) {
		w.oracle.fail("panic", "in %s: %v\n%s", name, reason, stack)
	}
	w.clients = &process{sched: w.sched, name: "clients", rate: 1}
	w.weather()
	w.company()
	return w
}

// weather chooses how bad this run gets.
func (w *world) weather() {
	pick := func(odds ...int) int { return odds[w.rng.IntN(len(odds))] }
	w.faults = faults{
		net: pick(0, 100, 30, 12), slow: pick(0, 60, 15), lost: pick(0, 200, 60, 20), mute: pick(0, 200, 60, 20), late: pick(0, 150, 40),
		pauses: pick(0, 0, 2000, 400, 100), every: time.Duration(pick(5, 15, 40, 1000)) * time.Second,
		skew: time.Duration(pick(0, 300, 2000)) * time.Millisecond, rate: float64(pick(0, 5, 20)) / 1000,
	}
	w.maxTTL = time.Duration(pick(15, 30, 60)) * time.Second
	w.eager = w.chance(2)
}

// traceLog keeps the log of a replica in the trace.
type traceLog struct{ p *process }

func (t traceLog) Enabled(context.Context, slog.Level) bool { return t.p.trace != nil }
func (t traceLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	t.p.logf("%s: log: %s%s", t.p.name, r.Message, b.String())
	return nil
}
func (t traceLog) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t traceLog) WithGroup(string) slog.Handler      { return t }

// chance is an io.Reader of the run's randomness.
type chance struct{ rng *rand.Rand }

func (c chance) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(c.rng.Uint32())
	}
	return len(b), nil
}

var _ io.Reader = chance{}

// plans are what the policy answers.
var (
	dear  = &routing.Plan{Effect: routing.Allow, Models: []string{"large", "small"}}
	cheap = &routing.Plan{Effect: routing.Allow, Models: []string{"small"}}
)

type decider struct{}

func (decider) Decide(_ context.Context, in *routing.Input) (*routing.Plan, error) {
	if in.Call.Model == "large" {
		return dear, nil
	}
	return cheap, nil
}

// Metrics.
func (r *replica) Decision(routing.Effect)            {}
func (r *replica) ReserveSeconds(float64)             {}
func (r *replica) SettleSeconds(float64)              {}
func (r *replica) Alert()                             { r.w.oracle.alerted++ }
func (r *replica) Batch(int, float64)                 {}
func (r *replica) RefusedElsewhere(money.Nanos)       {}
func (r *replica) PolicyFailed(routing.PolicyFailure) {}
func (r *replica) Event(preflight.Event)              {}

// replicaClock is the process's clock, and its waits.
type replicaClock struct{ *process }

// Wait implements preflight.Clock.
func (c replicaClock) Wait(ctx context.Context, ch <-chan struct{}, d time.Duration) error {
	return c.wait(ctx, ch, d, preflight.ErrWaited)
}

// start starts a replica on a host, as a new process.
func (w *world) start(host int) *replica {
	w.names++
	w.count.Starts++
	p := &process{sched: w.sched, name: fmt.Sprintf("r%d@%d", w.names, host), rate: 1, booted: w.now}
	f := w.faults
	if f.rate > 0 {
		p.rate = 1 + (w.rng.Float64()*2-1)*f.rate
	}
	// The wall clock is right at the start but for the skew.
	p.offset = w.begins + w.now
	if f.skew > 0 {
		p.offset += w.between(0, 2*f.skew) - f.skew
	}
	if !w.healed {
		p.pauses = f.pauses
	}
	r := &replica{w: w, p: p, host: host}
	if !w.healed {
		r.link = link{slow: f.slow, lost: f.lost, mute: f.mute, late: f.late}
	}
	r.client = &client{p: p, e: w.etcd, link: &r.link, count: &w.count, leaseID: &w.leaseID, r: r}
	p.kv = r.client
	w.hosts[host] = r
	w.all = append(w.all, r)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	random := chance{rand.New(rand.NewPCG(w.rng.Uint64(), 1))}
	if !guard.FreshIdentity {
		random = chance{rand.New(rand.NewPCG(uint64(host), 1))}
	}
	w.logf("%s: starts: clock rate %.4f, wall clock off by %s", p.name, p.rate, p.offset-w.begins-w.now)
	p.spawn("start", func() {
		svc, err := preflight.Start(ctx, preflight.Config{
			Control: w.control.view(p, &r.link), Decider: decider{}, Clock: replicaClock{p}, Metrics: r, Log: slog.New(traceLog{p: p}),
			MaxTTL: w.maxTTL, Addr: addr(host), Outbox: outbox{r},
			Ledger: &watched{storeetcd.NewLedger(storeetcd.LedgerConfig{
				KV: clientv3.NewKVFromKVClient(r.client, nil), Lease: r.client, Now: p.Now, Random: random,
			}), r},
		})
		if err != nil {
			w.logf("%s: did not start: %v", p.name, err)
			w.exit(r)
			return
		}
		r.svc, r.owner = svc, svc.Owner()
		w.logf("%s: is owner %s", p.name, r.owner[:6])
		p.spawn("beat", func() { svc.Beat(ctx) })
		p.spawn("watch", func() { svc.Watch(ctx) })
		p.spawn("collect", func() { svc.Collect(ctx) })
		p.spawn("write", func() {
			err := svc.Write(ctx)
			if errors.Is(err, store.ErrFenced) {
				w.count.Fenced++
			}
			w.logf("%s: ends: %v", p.name, err)
			w.exit(r)
		})
	})
	return r
}

func addr(host int) string { return fmt.Sprintf("host-%d", host) }

func hostOf(addr string) int {
	var host int
	if _, err := fmt.Sscanf(addr, "host-%d", &host); err != nil {
		panic(err)
	}
	return host
}

// exit ends a replica's process; another one is started on its host after a while.
func (w *world) exit(r *replica) {
	w.after(0, func() {
		r.p.crash()
		w.control.views = slices.DeleteFunc(w.control.views, func(v *view) bool { return v.p == r.p })
	})
	if w.closed {
		return
	}
	d := w.between(100*time.Millisecond, 4*time.Second)
	if !w.healed && w.chance(4) {
		d = w.between(4*time.Second, 60*time.Second)
	}
	w.after(d, func() {
		if w.hosts[r.host] == r && !w.closed {
			w.start(r.host)
		}
	})
}

// watched is the ledger's store, with a watch that the scheduler knows of.
type watched struct {
	*storeetcd.Ledger
	r *replica
}

type watch struct {
	events []change
	ready  chan struct{}
	last   time.Duration // when the newest event arrives
	broken bool
}

// Watch implements store.Ledger.
func (l *watched) Watch(ctx context.Context, each func(ledger.AccountID, ledger.Budget)) error {
	r := l.r
	w := &watch{ready: make(chan struct{}, 1)}
	r.watches = append(r.watches, w)
	defer func() { r.watches = slices.DeleteFunc(r.watches, func(x *watch) bool { return x == w }) }()
	for {
		if err := r.p.wait(ctx, w.ready, -1, nil); err != nil {
			return err
		}
		for len(w.events) > 0 {
			ch := w.events[0]
			w.events = w.events[1:]
			b := decode(ch.now.Value, new(storev1.BudgetAccount))
			each(idOf(b.GetAccount()), ledger.Budget{
				Ceil: money.Nanos(b.GetCeil()), Rollover: money.Nanos(b.GetRollover()), Alloc: money.Nanos(b.GetAlloc()),
				Base: money.Nanos(b.GetBase()), Forced: money.Nanos(b.GetForced()), Gen: b.GetGen(), Rev: ch.now.ModRevision,
				TermsRev: b.GetTermsRev(), Tight: b.GetTight(), Sealed: b.GetSealed(),
			})
		}
		if w.broken {
			return fmt.Errorf("%w: %w", store.ErrUnavailable, status.Error(codes.Unavailable, "the watch broke"))
		}
	}
}

// changed sends the budgets that changed to the replica's watches.
func (r *replica) changed(changes []change) {
	for _, w := range r.watches {
		if w.broken {
			continue
		}
		var news []change
		for _, ch := range changes {
			if ch.now != nil && strings.HasPrefix(ch.key, storeetcd.Prefix+"bud/") {
				news = append(news, ch)
			}
		}
		if len(news) == 0 {
			continue
		}
		breaks := r.link.cut || r.link.deaf || !r.w.healed && r.link.lost > 0 && r.w.chance(5*r.link.lost)
		at := max(w.last, r.w.now+r.w.between(200*time.Microsecond, 3*time.Millisecond))
		if r.link.slow > 0 && r.w.chance(r.link.slow) {
			at += r.w.between(0, 3*time.Second)
		}
		w.last = at
		w.broken = breaks
		r.w.after(at-r.w.now, func() {
			if r.p.dead {
				return
			}
			if !breaks {
				w.events = append(w.events, news...)
			}
			select {
			case w.ready <- struct{}{}:
			default:
			}
			if !r.p.paused {
				r.p.poll()
			}
		})
	}
}

// limitAt is what the control records of a revision say of an account's ceiling, without rollover.
func (w *world) limitAt(id ledger.AccountID, rev int64) (money.Nanos, bool) {
	name := id.Budget
	if id.Overflow != "" {
		name = "o:" + id.Overflow
	}
	for _, l := range w.limits[name] {
		if l.rev == rev {
			return l.limit, true
		}
	}
	return 0, false
}

// set commits control records, and remembers the ceilings that they give.
func (w *world) set(records ...charter.Record) {
	w.control.commit(records...)
	rev := w.control.snap.Epoch
	for _, r := range records {
		switch r := r.(type) {
		case *charter.Budget:
			w.limits[r.ID] = append(w.limits[r.ID], limited{rev, r.Limit})
			w.charges[r.ID] = w.charges[r.ID] || r.OnExpiry == charter.OnExpiryCharge
		case *charter.Charter:
			w.limits["o:"+r.ID] = append(w.limits["o:"+r.ID], limited{rev, r.Exhausted.OverflowAllowance})
		}
	}
}

// txnText is a transaction for the trace.
func txnText(r *etcdserverpb.TxnRequest) string {
	var b strings.Builder
	short := func(k []byte) string {
		s := strings.TrimPrefix(string(k), storeetcd.Prefix)
		for _, part := range strings.Split(s, "/") {
			if len(part) == 32 {
				s = strings.Replace(s, part, part[:6], 1)
			}
		}
		return s
	}
	b.WriteString("txn")
	for _, c := range r.Compare {
		fmt.Fprintf(&b, " %s?%s%s%v", short(c.Key), map[bool]string{true: "c", false: "m"}[c.Target == etcdserverpb.Compare_CREATE], "=", max(c.GetCreateRevision(), c.GetModRevision()))
	}
	for _, op := range r.Success {
		switch {
		case op.GetRequestPut() != nil:
			fmt.Fprintf(&b, " put %s%s", short(op.GetRequestPut().Key), valueText(op.GetRequestPut()))
		case op.GetRequestDeleteRange() != nil:
			fmt.Fprintf(&b, " del %s", short(op.GetRequestDeleteRange().Key))
		case op.GetRequestRange() != nil:
			fmt.Fprintf(&b, " get %s", short(op.GetRequestRange().Key))
		}
	}
	return b.String()
}

func valueText(p *etcdserverpb.PutRequest) string {
	kind, _, _ := strings.Cut(strings.TrimPrefix(string(p.Key), storeetcd.Prefix), "/")
	switch kind {
	case "bud":
		r := decode(p.Value, new(storev1.BudgetAccount))
		return fmt.Sprintf("{ceil %d+%d alloc %d base %d forced %d gen %d terms %d tight %v sealed %v}", r.GetCeil()-r.GetRollover(), r.GetRollover(), r.GetAlloc(), r.GetBase(), r.GetForced(), r.GetGen(), r.GetTermsRev(), r.GetTight(), r.GetSealed())
	case "gr":
		r := decode(p.Value, new(storev1.Grant))
		return fmt.Sprintf("{alloc %d spent %d gen %d}", r.GetAlloc(), r.GetSpent(), r.GetGen())
	case "jr":
		r := decode(p.Value, new(storev1.Batch))
		var b strings.Builder
		for _, e := range r.GetEntries() {
			fmt.Fprintf(&b, "{%d %s %d/%d late %v}", e.GetSeq(), strings.TrimPrefix(e.GetKind().String(), "ENTRY_KIND_"), e.GetAmount(), e.GetHeld(), e.GetLate())
		}
		return b.String()
	}
	return ""
}
