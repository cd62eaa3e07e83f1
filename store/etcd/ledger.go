package etcd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
)

// KV is what the ledger asks of etcd's keys: the part of clientv3.KV that it uses.
type KV interface {
	Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn
}

// Lease is what the ledger asks of etcd's leases: the part of clientv3.Lease that it uses.
type Lease interface {
	Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error)
	Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error)
	KeepAlive(ctx context.Context, id clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error)
}

// Ledger keeps the ledger's records in etcd. Its session is one lease.
type Ledger struct {
	LedgerConfig

	owner string
	lease clientv3.LeaseID
	fence clientv3.Cmp
	stop  context.CancelFunc
	beat  int64

	mu sync.Mutex
	// Create revisions of `tk/{owner}` of the owners taken over: the fences of their journals.
	takeovers map[string]int64

	collecting
}

var _ store.Ledger = (*Ledger)(nil)

// LedgerConfig is what a Ledger works with. KV and Lease are required; a *clientv3.Client is both, and Watcher too.
type LedgerConfig struct {
	KV      KV
	Lease   Lease
	Watcher clientv3.Watcher // nil: Watch waits and sees nothing
	// Exclusive says that no other process can reach this etcd, as is the case with an embedded one whose directory is
	// locked: a session that is left in it is dead for certain.
	Exclusive bool
	Now       func() time.Time    // nil: time.Now
	Random    io.Reader           // nil: crypto/rand
	Observe   func(time.Duration) // is told how long each commit took; may be nil
}

// NewLedger keeps the ledger in etcd.
func NewLedger(cfg LedgerConfig) *Ledger {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Observe == nil {
		cfg.Observe = func(time.Duration) {}
	}
	return &Ledger{LedgerConfig: cfg, takeovers: map[string]int64{}}
}

// commitTimeout bounds one transaction; after it the outcome is unknown.
const commitTimeout = 5 * time.Second

func (l *Ledger) txn(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	// gofail: var beforeSend struct{}
	// return nil, store.ErrUnavailable
	resp, err := l.KV.Txn(ctx).If(cmps...).Then(then...).Commit()
	// gofail: var afterReply struct{}
	// return nil, store.ErrUnavailable
	if err != nil {
		return nil, unavailable(err)
	}
	return resp, nil
}

func (l *Ledger) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	resp, err := l.KV.Get(ctx, key, opts...)
	if err != nil {
		return nil, unavailable(err)
	}
	return resp, nil
}

// fences are the comparisons that this process's session still is.
func (l *Ledger) fences() []clientv3.Cmp {
	if !guard.Fence {
		return nil
	}
	return []clientv3.Cmp{l.fence}
}

// fenced commits under the fence of this process's session. ErrFenced when that is gone, ErrConflict when another
// comparison failed.
func (l *Ledger) fenced(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (int64, error) {
	start := l.Now()
	resp, err := l.txn(ctx, append(l.fences(), cmps...), then...)
	if err != nil {
		return 0, err
	}
	l.Observe(l.Now().Sub(start))
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	return 0, l.whyNot(ctx)
}

func (l *Ledger) whyNot(ctx context.Context) error {
	resp, err := l.txn(ctx, l.fences())
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		return store.ErrFenced
	}
	return store.ErrConflict
}

func key(parts ...string) string { return Prefix + strings.Join(parts, "/") }

func unchanged(k string, rev int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(k), "=", rev)
}
func absent(k string) clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(k), "=", 0) }

func put(k string, m proto.Message, opts ...clientv3.OpOption) (clientv3.Op, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return clientv3.OpPut(k, string(data), opts...), err
}

// Adjust implements store.Ledger.
func (l *Ledger) Adjust(ctx context.Context, changes []ledger.AccountChange) (int64, error) {
	cmps, ops, err := l.changeOps(changes)
	if err != nil {
		return 0, err
	}
	return l.fenced(ctx, cmps, ops...)
}

// changeOps are the comparisons and writes of changes.
func (l *Ledger) changeOps(changes []ledger.AccountChange) (cmps []clientv3.Cmp, ops []clientv3.Op, err error) {
	for _, c := range changes {
		if !c.GrantFixed {
			k := key("gr", c.ID.String(), c.GrantOwner)
			if guard.GrantCAS {
				cmps = append(cmps, unchanged(k, c.Grant.Rev))
			}
			if c.DropGrant {
				ops = append(ops, clientv3.OpDelete(k))
			} else {
				op, err := put(k, grantRecord(c.ID, c.Grant))
				if err != nil {
					return nil, nil, err
				}
				ops = append(ops, op)
			}
		}
		if !c.BudgetFixed {
			k := key("bud", c.ID.String())
			op, err := put(k, budgetRecord(c.ID, c.Budget))
			if err != nil {
				return nil, nil, err
			}
			if guard.GrantCAS {
				cmps = append(cmps, unchanged(k, c.Budget.Rev))
			}
			ops = append(ops, op)
		}
	}
	return cmps, ops, nil
}

// Resolve implements store.Ledger: it rewrites a grant of the transaction as it was, which succeeds only where the
// transaction has not landed, and keeps it from landing later. A transaction without grants moves no money: should it land
// later, the budgets' revisions tell.
func (l *Ledger) Resolve(ctx context.Context, changes []ledger.AccountChange) ([]ledger.Opened, error) {
	ids := make([]ledger.AccountID, len(changes))
	for i, c := range changes {
		ids[i] = c.ID
	}
	i := slices.IndexFunc(changes, func(c ledger.AccountChange) bool { return !c.GrantFixed })
	if i < 0 || !guard.UnknownIsUnknown {
		return l.Open(ctx, ids)
	}
	first := changes[i]
	k := key("gr", first.ID.String(), first.GrantOwner)
	resp, err := l.get(ctx, k)
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 1 && resp.Kvs[0].ModRevision == first.Grant.Rev {
		if _, err := l.fenced(ctx, []clientv3.Cmp{unchanged(k, first.Grant.Rev)}, clientv3.OpPut(k, string(resp.Kvs[0].Value))); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	} else if len(resp.Kvs) == 0 && first.Grant.Rev == 0 {
		op, err := put(k, grantRecord(first.ID, ledger.Grant{}))
		if err != nil {
			return nil, err
		}
		cmps := []clientv3.Cmp{absent(k)}
		if !first.BudgetFixed { // so that this write, should it land late, does not bring back a grant that was dropped since
			cmps = append(cmps, unchanged(key("bud", first.ID.String()), first.Budget.Rev))
		}
		if _, err := l.fenced(ctx, cmps, op); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	}
	return l.Open(ctx, ids)
}

// Append implements store.Ledger. A batch of an owner that is gone is fenced by its takeover too, one of an owner that is
// closed by that.
func (l *Ledger) Append(ctx context.Context, b *ledger.Batch) (int64, []byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(batchRecord(b))
	if err != nil {
		return 0, nil, err
	}
	hash := sha256.Sum256(data)
	k := batchKey(b.Owner, b.N)
	cmps, ops, err := l.changeOps(b.Changes)
	if err != nil {
		return 0, nil, err
	}
	if guard.JournalCAS {
		cmps = append(cmps, absent(k))
	}
	if b.Owner != l.owner {
		// Others may collect the journal of a closed owner, so that its numbers would be free again.
		cmps = append(append(cmps, l.successor(b.Owner)...), unchanged(tailKey(b.Owner), l.tailRevision(b.Owner)))
	}
	ops = append(ops, clientv3.OpPut(k, string(data)))
	for i, e := range b.Entries {
		if e.RequestID != "" {
			op, err := put(requestKey(e.RequestID), requestRecord(k, i, e))
			if err != nil {
				return 0, nil, err
			}
			if guard.RequestOnce {
				cmps = append(cmps, absent(requestKey(e.RequestID)))
			}
			ops = append(ops, op)
		}
	}
	rev, err := l.fenced(ctx, cmps, ops...)
	if err == nil {
		l.appended(b, len(data))
	}
	if !errors.Is(err, store.ErrConflict) {
		return rev, hash[:], err
	}
	return l.appendConflict(ctx, b, data, hash[:])
}

// successor are the comparisons that this process still looks after an owner that is gone.
func (l *Ledger) successor(owner string) []clientv3.Cmp {
	l.mu.Lock()
	defer l.mu.Unlock()
	rev, ok := l.takeovers[owner]
	if ok {
		return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key("tk", owner)), "=", rev)}
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key("cl", owner)), ">", 0)}
}

// recorded makes a conflict ErrRecorded where a request of the batch was recorded by another process.
func (l *Ledger) recorded(ctx context.Context, b *ledger.Batch, conflict error) error {
	for _, e := range b.Entries {
		if e.RequestID == "" {
			continue
		}
		resp, err := l.get(ctx, requestKey(e.RequestID), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			return store.ErrRecorded
		}
	}
	return conflict
}

// Secret implements store.Ledger.
func (l *Ledger) Secret(ctx context.Context) ([]byte, error) {
	fresh := make([]byte, 32)
	if _, err := io.ReadFull(l.Random, fresh); err != nil {
		return nil, err
	}
	k := key("secret")
	if _, err := l.txn(ctx, []clientv3.Cmp{absent(k)}, clientv3.OpPut(k, string(fresh))); err != nil {
		return nil, err
	}
	resp, err := l.get(ctx, k)
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("%s was deleted just now: %w", k, store.ErrNotFound)
	}
	return resp.Kvs[0].Value, nil
}
