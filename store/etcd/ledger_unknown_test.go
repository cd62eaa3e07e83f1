package etcd_test

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"testing"

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
	before func()
}

func (n *network) fail(f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed, n.writes, n.next = true, false, f
}

// beforeCommit does something before the next transaction that writes.
func (n *network) beforeCommit(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.before = f
}

// failCommit fails the next transaction that writes.
func (n *network) failCommit(f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed, n.writes, n.next = true, true, f
}

func (n *network) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	writes := method == pb.KV_Txn_FullMethodName && len(req.(*pb.TxnRequest).Compare) > 0
	n.mu.Lock()
	if before := n.before; writes && before != nil {
		n.before = nil
		n.mu.Unlock()
		before()
		n.mu.Lock()
	}
	hit := n.armed && method == pb.KV_Txn_FullMethodName && (!n.writes || writes)
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
	l, owner = claimed(t, client)
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
	l, owner := claimed(t, client)
	a := account("a")
	adjust(t, l, newAccount(a, owner, 100, 60))
	closeGone(t, l, "closed")
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

// A write of Resolve that lands late does not bring back a grant that was dropped since.
func TestLedgerResolveLandsLate(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client)
	a := account("a")
	first := newAccount(a, owner, 100, 60)
	adjust(t, l, first)
	o := opened(t, l, a)[0]
	drop := ledger.AccountChange{ID: a, GrantOwner: owner, Grant: o.Own, DropGrant: true, Budget: o.Budget}
	drop.Budget.Alloc = 0
	adjust(t, l, drop)
	kept := dump(t, client)
	if _, err := l.Resolve(t.Context(), []ledger.AccountChange{first}); err != nil {
		t.Fatal(err)
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v", now, kept)
	}
}
