package etcd_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

// fate is what the network does to a transaction whose outcome stays unknown to its sender.
type fate int

const (
	replyLost   fate = iota // etcd has it, the answer is lost
	requestLate             // it is on its way, and comes after whatever is sent next
)

// network is a connection to etcd that can fail one transaction.
type network struct {
	mu     sync.Mutex
	armed  bool
	writes bool // only a transaction that writes is hit
	next   fate
	late   func() (landed bool, err error)
}

func (n *network) fail(f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed, n.writes, n.next = true, false, f
}

// failCommit fails the next transaction that writes.
func (n *network) failCommit(f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed, n.writes, n.next = true, true, f
}

func (n *network) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	n.mu.Lock()
	hit := n.armed && method == pb.KV_Txn_FullMethodName && (!n.writes || len(req.(*pb.TxnRequest).Compare) > 0)
	if hit {
		n.armed = false
		if n.next == requestLate {
			n.late = func() (bool, error) {
				var late pb.TxnResponse
				err := invoke(context.Background(), method, req, &late, cc)
				return late.GetSucceeded(), err
			}
		}
	}
	lose := hit && n.next == replyLost
	n.mu.Unlock()
	if !hit || lose {
		if err := invoke(ctx, method, req, reply, cc, opts...); err != nil || !lose {
			return err
		}
	}
	return status.Error(codes.Unavailable, "the connection broke")
}

// arrive delivers the late transaction, which must have no effect any more.
func (n *network) arrive(t *testing.T, client *clientv3.Client) {
	t.Helper()
	n.mu.Lock()
	late := n.late
	n.late = nil
	n.mu.Unlock()
	kept := dump(t, client)
	landed, err := late()
	if now := dump(t, client); err != nil || landed || !reflect.DeepEqual(now, kept) {
		t.Errorf("the late transaction landed: %v, error %v; etcd holds %v, was %v", landed, err, now, kept)
	}
}

// overNetwork claims the ledger of an etcd over a connection that can fail.
func overNetwork(t *testing.T) (n *network, client *clientv3.Client, l *etcd.Ledger, owner string) {
	t.Helper()
	n = &network{}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{"http://" + startListening(t)},
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(n.intercept)}, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	l, owner = claimed(t, client, false)
	return n, client, l, owner
}

// After Resolve it is known what became of an adjustment, and stays so.
func TestLedgerResolve(t *testing.T) {
	n, client, l, owner := overNetwork(t)
	for name, prepare := range map[string]func(id ledger.AccountID) ledger.AccountChange{
		"first grant": func(id ledger.AccountID) ledger.AccountChange { return newAccount(id, owner, 100, 0) },
		"next grant": func(id ledger.AccountID) ledger.AccountChange {
			adjust(t, l, newAccount(id, owner, 100, 60))
			return raised(t, l, id, owner)
		},
		"another's grant that is dropped": func(id ledger.AccountID) ledger.AccountChange {
			adjust(t, l, newAccount(id, "gone", 100, 60))
			o := opened(t, l, id)[0]
			c := ledger.AccountChange{ID: id, GrantOwner: "gone", Grant: o.Others["gone"], DropGrant: true, Budget: o.Budget}
			c.Budget.Alloc, c.Budget.Base = 60, 60
			return c
		},
		"a ceiling alone, then a grant": func(id ledger.AccountID) ledger.AccountChange {
			adjust(t, l, newAccount(id, owner, 100, 60))
			return raised(t, l, id, owner)
		},
	} {
		for _, f := range []fate{replyLost, requestLate} {
			a, b := account("a"), account("b")
			a.Key = name + string(rune('0'+f))
			b.Key = a.Key
			changes := []ledger.AccountChange{prepare(a), newAccount(b, owner, 5, 0)}
			if name == "a ceiling alone, then a grant" {
				changes[0].GrantFixed = true
			}
			before := opened(t, l, a, b)
			n.fail(f)
			if _, err := l.Adjust(t.Context(), changes); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s, fate %d: error %v, want ErrUnavailable", name, f, err)
			}
			after, err := l.Resolve(t.Context(), changes)
			if err != nil || len(after) != 2 {
				t.Fatalf("%s, fate %d: resolve: %+v, error %v", name, f, after, err)
			}
			if f == requestLate {
				n.arrive(t, client)
				for i := range after {
					if amounts(after[i]) != amounts(before[i]) {
						t.Errorf("%s: did not land, and is %+v, was %+v", name, after[i], before[i])
					}
				}
			} else if after[0].Budget.Alloc != changes[0].Budget.Alloc || after[1].Own.Alloc != 5 || after[1].Budget.Alloc != 5 {
				t.Errorf("%s: landed, and is %+v", name, after)
			}
			if now := opened(t, l, a, b); !reflect.DeepEqual(now, after) {
				t.Errorf("%s, fate %d: Resolve read %+v, Open reads %+v", name, f, after, now)
			}
			// What it read can be written on.
			next := raised(t, l, a, owner)
			next.Grant.Rev, next.Budget.Rev = after[0].Own.Rev, after[0].Budget.Rev
			adjust(t, l, next)
		}
	}
}

// Resolve leaves no grant of an owner that has none: such an owner is closed.
func TestLedgerResolveOfAClosedOwner(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client, true)
	a := account("a")
	adjust(t, l, newAccount(a, owner, 100, 60))
	o := opened(t, l, a)[0]
	stale := ledger.AccountChange{ID: a, GrantOwner: "closed", GrantFixed: true, Budget: o.Budget}
	stale.Budget.Rev--
	changes := []ledger.AccountChange{stale}
	if _, _, err := l.Append(t.Context(), batch("closed", 0, settled(1, 5, a), changes...)); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("error %v, want ErrConflict", err)
	}
	kept := dump(t, client)
	if got, err := l.Resolve(t.Context(), changes); err != nil || !reflect.DeepEqual(got, []ledger.Opened{o}) {
		t.Errorf("resolved to %+v, error %v; want %+v", got, err, o)
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v", now, kept)
	}
}

func raised(t *testing.T, l *etcd.Ledger, id ledger.AccountID, owner string) ledger.AccountChange {
	t.Helper()
	o := opened(t, l, id)[0]
	c := ledger.AccountChange{ID: id, GrantOwner: owner, Grant: o.Own, Budget: o.Budget}
	c.Grant.Alloc += 50
	c.Budget.Alloc += 50
	return c
}

// amounts of an account, whatever their revisions.
func amounts(o ledger.Opened) (sum [6]money.Nanos) {
	sum = [6]money.Nanos{o.Budget.Ceil, o.Budget.Alloc, o.Budget.Base, o.Budget.Forced, o.Own.Alloc, o.Own.Spent}
	for _, g := range o.Others {
		sum[4] += g.Alloc
		sum[5] += g.Spent
	}
	return sum
}

// A batch whose outcome is unknown counts once when it is appended again, and its first try changes nothing any more.
func TestLedgerAppendAgain(t *testing.T) {
	n, client, l, owner := overNetwork(t)
	a := account("a")
	adjust(t, l, newAccount(a, owner, 500, 0))
	for i, f := range []fate{replyLost, requestLate} {
		o := opened(t, l, a)[0]
		spend := ledger.AccountChange{ID: a, GrantOwner: owner, Grant: o.Own, BudgetFixed: true}
		spend.Grant.Spent += 40
		b := batch(owner, uint64(i), settled(uint64(i+1), 40, a), spend)
		n.fail(f)
		if _, _, err := l.Append(t.Context(), b); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("fate %d: error %v, want ErrUnavailable", f, err)
		}
		rev, _ := mustAppend(t, l, b)
		if f == requestLate {
			n.arrive(t, client)
		}
		if o := opened(t, l, a)[0]; o.Own.Spent != money.Nanos(40*(i+1)) || o.Own.Rev != rev {
			t.Errorf("fate %d: the grant is %+v, want %d spent at revision %d", f, o.Own, 40*(i+1), rev)
		}
	}
	if next, _, list, err := l.Journal(t.Context(), owner); err != nil || next != 2 || len(list) != 2 {
		t.Errorf("the journal has %v up to %d, error %v", list, next, err)
	}
	// A context that ends leaves the outcome unknown too.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Append(ended, batch(owner, 2, settled(3, 0, a))); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("with a cancelled context: error %v, want ErrUnavailable", err)
	}
	mustAppend(t, l, batch(owner, 2, settled(3, 0, a)))
}

// An owner that is gone: its journal is read and written on, its grants stay put for the quarantine, then it is closed.
func TestLedgerPredecessor(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	first, gone := claimed(t, client, false)
	a, b := account("a"), account("b")
	adjust(t, first, newAccount(a, gone, 100, 0), newAccount(b, gone, 100, 100))
	_, hash := mustAppend(t, first, batch(gone, 0, settled(1, 0, a)))
	if known, closed, err := first.Known(t.Context(), gone); err != nil || known || closed {
		t.Errorf("an owner that lives: known as gone %v, closed %v, error %v", known, closed, err)
	}
	endSession(t, client, gone)

	const quarantine = 10 * time.Minute
	takeOver := func(l *etcd.Ledger) {
		t.Helper()
		p, err := l.Predecessors(t.Context(), quarantine)
		if err != nil || len(p) != 1 || p[0].Owner != gone || idle(p[0]) || len(p[0].Accounts) != 2 {
			t.Fatalf("predecessors %+v, error %v", p, err)
		}
		if known, closed, err := l.Known(t.Context(), gone); err != nil || !known || closed {
			t.Errorf("taken over: known %v, closed %v, error %v", known, closed, err)
		}
	}
	lease := func() int64 {
		t.Helper()
		resp, err := client.Get(t.Context(), etcd.Prefix+"qt/"+gone)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("the quarantine: %v, error %v", resp, err)
		}
		return resp.Kvs[0].Lease
	}
	second, _ := claimed(t, client, false)
	takeOver(second)
	started := lease()
	if ttl, err := client.TimeToLive(t.Context(), clientv3.LeaseID(started)); err != nil || ttl.GrantedTTL != int64(quarantine/time.Second) {
		t.Errorf("the quarantine lasts %+v, error %v; want %s", ttl, err, quarantine)
	}
	resign(t, second)
	l, _ := claimed(t, client, false) // the successor of the successor
	takeOver(l)
	if lease() != started {
		t.Error("the quarantine began anew with another successor")
	}

	// Its holds can be settled, by whoever has taken it over.
	if next, prev, list, err := l.Journal(t.Context(), gone); err != nil || next != 1 || !reflect.DeepEqual(prev, hash) || len(list) != 1 {
		t.Errorf("its journal ends at %d with %v, error %v", next, list, err)
	}
	spend := func(o ledger.Opened, amount money.Nanos) ledger.AccountChange {
		c := ledger.AccountChange{ID: o.ID, GrantOwner: gone, Grant: o.Others[gone], BudgetFixed: true}
		c.Grant.Spent += amount
		return c
	}
	mustAppend(t, l, batch(gone, 1, settled(2, 40, a), spend(opened(t, l, a)[0], 40)))

	// Reclaimed is what is settled in full, and the rest only after the quarantine.
	reclaim := func(o ledger.Opened) ledger.AccountChange {
		c := ledger.AccountChange{ID: o.ID, GrantOwner: gone, Grant: o.Others[gone], DropGrant: true, Budget: o.Budget}
		c.Budget.Base += c.Grant.Spent
		c.Budget.Alloc -= c.Grant.Alloc - c.Grant.Spent
		return c
	}
	o := opened(t, l, a, b)
	both := []ledger.AccountChange{reclaim(o[1]), reclaim(o[0])}
	kept := dump(t, client)
	if _, err := l.Reclaim(t.Context(), gone, both); !errors.Is(err, store.ErrQuarantined) {
		t.Errorf("in quarantine: error %v, want ErrQuarantined", err)
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("in quarantine: etcd holds %v, want %v", now, kept)
	}
	if _, err := l.Reclaim(t.Context(), gone, both[:1]); err != nil {
		t.Errorf("a grant that is settled in full: %v", err)
	}
	revoke(t, client, "qt/"+gone)
	if _, err := l.Reclaim(t.Context(), gone, both[1:]); err != nil {
		t.Errorf("after the quarantine: %v", err)
	}
	for i, want := range []ledger.Budget{{Ceil: 1000, Alloc: 40, Base: 40}, {Ceil: 1000, Alloc: 100, Base: 100}} {
		got := opened(t, l, a, b)[i]
		got.Budget.Rev = 0
		if got.Budget != want || len(got.Others) != 0 {
			t.Errorf("reclaimed, %s is %+v, want %+v and no grants", got.ID, got, want)
		}
	}
	if err := l.CloseOwner(t.Context(), gone); err != nil {
		t.Errorf("close: %v", err)
	}
	if known, closed, err := l.Known(t.Context(), gone); err != nil || !known || !closed {
		t.Errorf("closed: known %v, closed %v, error %v", known, closed, err)
	}
	c := account("c") // of an owner that is closed before its quarantine is over
	adjust(t, l, newAccount(c, "idle", 7, 7))
	if p, err := l.Predecessors(t.Context(), quarantine); err != nil || len(p) != 1 || !idle(p[0]) {
		t.Errorf("predecessors %+v, error %v", p, err)
	}
	idle := opened(t, l, c)[0]
	drop := ledger.AccountChange{ID: c, GrantOwner: "idle", Grant: idle.Others["idle"], DropGrant: true, Budget: idle.Budget}
	if _, err := l.Reclaim(t.Context(), "idle", []ledger.AccountChange{drop}); err != nil {
		t.Errorf("reclaim of what is settled in full: %v", err)
	}
	if err := l.CloseOwner(t.Context(), "idle"); err != nil {
		t.Errorf("close: %v", err)
	}
	for _, k := range []string{"tk/" + gone, "qt/" + gone, "tk/idle", "qt/idle"} {
		if _, left := dump(t, client)[etcd.Prefix+k]; left {
			t.Errorf("%s is left of an owner that is closed", k)
		}
	}
	if p, err := l.Predecessors(t.Context(), quarantine); err != nil || len(p) != 0 {
		t.Errorf("predecessors %+v, error %v, after both are closed", p, err)
	}
	// What comes later is still written down.
	late := ledger.AccountChange{ID: a, GrantOwner: gone, GrantFixed: true, Budget: opened(t, l, a)[0].Budget}
	late.Budget.Base, late.Budget.Alloc, late.Budget.Forced = 45, 45, 5
	mustAppend(t, l, batch(gone, 2, settled(3, 5, a), late))
}

// Nobody takes over an owner that lives, and nobody writes for one that another has taken over.
func TestLedgerTakeoverIsFenced(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client, false)
	a, b := account("a"), account("b")
	adjust(t, l, newAccount(a, "gone", 100, 0))
	if _, err := l.Predecessors(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	put := func(key string) {
		t.Helper()
		if _, err := client.Put(t.Context(), etcd.Prefix+key, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Delete(t.Context(), etcd.Prefix+"tk/gone"); err != nil {
		t.Fatal(err)
	}
	put("tk/gone")
	adjust(t, l, newAccount(b, "alive", 100, 0))
	put("own/alive")
	kept := dump(t, client)
	o := opened(t, l, a)[0]
	full := ledger.AccountChange{ID: a, GrantOwner: "gone", Grant: o.Others["gone"], DropGrant: true, Budget: o.Budget}
	full.Grant.Spent = full.Grant.Alloc
	for name, write := range map[string]func() error{
		"Append":       func() error { _, _, err := l.Append(t.Context(), batch("gone", 0, settled(1, 5, a))); return err },
		"Reclaim":      func() error { _, err := l.Reclaim(t.Context(), "gone", []ledger.AccountChange{full}); return err },
		"CloseOwner":   func() error { return l.CloseOwner(t.Context(), "gone") },
		"Predecessors": func() error { _, err := l.Predecessors(t.Context(), time.Hour); return err },
	} {
		if err := write(); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: error %v, want ErrConflict", name, err)
		}
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v (owner %s)", now, kept, owner)
	}
}
