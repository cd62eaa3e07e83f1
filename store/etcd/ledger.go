package etcd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// Ledger keeps the ledger's records in etcd. Its session is one lease.
type Ledger struct {
	client    *clientv3.Client
	now       func() time.Time
	exclusive bool
	observe   func(time.Duration)

	owner string
	lease clientv3.LeaseID
	fence clientv3.Cmp
	stop  context.CancelFunc
	beat  int64
	// Create revisions of `tk/{owner}` of the owners taken over: the fences of their journals.
	takeovers map[string]int64

	collecting
}

var _ store.Ledger = (*Ledger)(nil)

// NewLedger keeps the ledger behind client. exclusive says that no other process can reach this etcd, as is the case
// with an embedded one whose directory is locked: a session that is left in it is dead for certain. observe is told how
// long each commit took; nil is allowed.
func NewLedger(client *clientv3.Client, exclusive bool, now func() time.Time, observe func(time.Duration)) *Ledger {
	if observe == nil {
		observe = func(time.Duration) {}
	}
	return &Ledger{client: client, now: now, exclusive: exclusive, observe: observe, takeovers: map[string]int64{}}
}

// commitTimeout bounds one transaction; after it the outcome is unknown.
const commitTimeout = 5 * time.Second

func (l *Ledger) txn(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (*clientv3.TxnResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	resp, err := l.client.Txn(ctx).If(cmps...).Then(then...).Commit()
	if err != nil {
		return nil, unavailable(err)
	}
	return resp, nil
}

// fenced commits under the fence of this process's session. ErrFenced when that is gone, ErrConflict when another
// comparison failed.
func (l *Ledger) fenced(ctx context.Context, cmps []clientv3.Cmp, then ...clientv3.Op) (int64, error) {
	start := l.now()
	resp, err := l.txn(ctx, append([]clientv3.Cmp{l.fence}, cmps...), then...)
	if err != nil {
		return 0, err
	}
	l.observe(l.now().Sub(start))
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	return 0, l.whyNot(ctx)
}

func (l *Ledger) whyNot(ctx context.Context) error {
	resp, err := l.txn(ctx, []clientv3.Cmp{l.fence})
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

// Claim implements store.Ledger. With an external etcd it waits for the lease of an owner that is gone to end, up to
// ledger.SessionLease and 2 s.
func (l *Ledger) Claim(ctx context.Context) (string, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return "", err
	}
	l.owner = hex.EncodeToString(id)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	record := &storev1.Owner{Host: host, Pid: int64(os.Getpid()), StartMs: l.now().UnixMilli()}
	if l.exclusive {
		if _, err := l.txn(ctx, nil, clientv3.OpDelete(key("sole")), clientv3.OpDelete(key("own")+"/", clientv3.WithPrefix())); err != nil {
			return "", err
		}
	}
	lease, err := l.client.Grant(ctx, int64(ledger.SessionLease/time.Second))
	if err != nil {
		return "", unavailable(err)
	}
	l.lease = lease.ID
	sole, err := put(key("sole"), record, clientv3.WithLease(lease.ID))
	if err != nil {
		return "", err
	}
	own, err := put(key("own", l.owner), record, clientv3.WithLease(lease.ID))
	if err != nil {
		return "", err
	}
	keep, stop := context.WithCancel(context.Background())
	alive, err := l.client.KeepAlive(keep, lease.ID)
	if err != nil {
		stop()
		return "", unavailable(err)
	}
	l.stop = stop
	go func() {
		for range alive { // drained; a lost lease shows in the next fenced write
		}
	}()
	wait, cancel := context.WithTimeout(ctx, ledger.SessionLease+2*time.Second)
	defer cancel()
	for {
		resp, err := l.client.Txn(wait).If(absent(key("sole"))).Then(sole, own).Else(clientv3.OpGet(key("sole"))).Commit()
		switch {
		case err != nil:
			stop()
			return "", unavailable(err)
		case resp.Succeeded:
			l.fence = clientv3.Compare(clientv3.CreateRevision(key("own", l.owner)), "=", resp.Header.Revision)
			return l.owner, nil
		}
		held := resp.Responses[0].GetResponseRange()
		if err := l.waitGone(wait, resp.Header.Revision); err != nil {
			stop()
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			var other storev1.Owner
			if len(held.Kvs) == 1 {
				if err := proto.Unmarshal(held.Kvs[0].Value, &other); err != nil {
					return "", fmt.Errorf("read %s: %w", key("sole"), err)
				}
			}
			return "", &store.OwnedError{Host: other.Host, PID: other.Pid, Since: time.UnixMilli(other.StartMs)}
		}
	}
}

// waitGone waits until `sole` is deleted. It gives up at ctx's end, and as soon as the other owner's heartbeat shows that
// it lives.
func (l *Ledger) waitGone(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	gone := l.client.Watch(ctx, key("sole"), clientv3.WithRev(rev+1), clientv3.WithFilterPut())
	beats := l.client.Watch(ctx, key("hb")+"/", clientv3.WithPrefix(), clientv3.WithRev(rev+1), clientv3.WithFilterDelete())
	for {
		select {
		case resp, ok := <-gone:
			if !ok || resp.Err() != nil {
				return errors.Join(errAlive, ctx.Err())
			}
			if len(resp.Events) > 0 {
				return nil
			}
		case resp, ok := <-beats:
			if !ok || resp.Err() != nil || len(resp.Events) > 0 {
				return errAlive
			}
		}
	}
}

var errAlive = errors.New("the other owner lives")

// Heartbeat implements store.Ledger.
func (l *Ledger) Heartbeat(ctx context.Context) error {
	l.beat++
	hb, err := put(key("hb", l.owner), &storev1.Heartbeat{Beat: l.beat}, clientv3.WithLease(l.lease))
	if err != nil {
		return err
	}
	resp, err := l.txn(ctx, []clientv3.Cmp{l.fence}, hb)
	if err != nil {
		if isLeaseGone(err) {
			return store.ErrFenced
		}
		return err
	}
	if !resp.Succeeded {
		return store.ErrFenced
	}
	return nil
}

// Resign implements store.Ledger.
func (l *Ledger) Resign(ctx context.Context) error {
	if l.stop == nil {
		return nil
	}
	l.stop()
	_, err := l.client.Revoke(ctx, l.lease)
	return err
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
			cmps = append(cmps, unchanged(k, c.Grant.Rev))
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
			cmps, ops = append(cmps, unchanged(k, c.Budget.Rev)), append(ops, op)
		}
	}
	return cmps, ops, nil
}

// Resolve implements store.Ledger: it rewrites a grant of the transaction as it was, which succeeds only where the
// transaction has not landed, and keeps it from landing later. A transaction without grants is a batch of an owner that
// is closed, which Append has resolved.
func (l *Ledger) Resolve(ctx context.Context, changes []ledger.AccountChange) ([]ledger.Opened, error) {
	ids := make([]ledger.AccountID, len(changes))
	for i, c := range changes {
		ids[i] = c.ID
	}
	i := slices.IndexFunc(changes, func(c ledger.AccountChange) bool { return !c.GrantFixed })
	if i < 0 {
		return l.Open(ctx, ids)
	}
	first := changes[i]
	k := key("gr", first.ID.String(), first.GrantOwner)
	resp, err := l.client.Get(ctx, k)
	if err != nil {
		return nil, unavailable(err)
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
		if _, err := l.fenced(ctx, []clientv3.Cmp{absent(k)}, op); err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, err
		}
	}
	return l.Open(ctx, ids)
}

// Append implements store.Ledger. A batch of an owner that is gone is fenced by its takeover too.
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
	cmps = append(cmps, absent(k))
	if rev, ok := l.takeovers[b.Owner]; ok {
		cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(key("tk", b.Owner)), "=", rev))
	}
	if b.Owner != l.owner { // others may collect this journal, so that its numbers would be free again
		cmps = append(cmps, unchanged(tailKey(b.Owner), l.tailRevision(b.Owner)))
	}
	ops = append(ops, clientv3.OpPut(k, string(data)))
	for _, e := range b.Entries {
		if e.RequestID != "" {
			op, err := put(requestKey(e.RequestID), requestRecord(k, e))
			if err != nil {
				return 0, nil, err
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

// Secret implements store.Ledger.
func (l *Ledger) Secret(ctx context.Context) ([]byte, error) {
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, err
	}
	k := key("secret")
	resp, err := l.client.Txn(ctx).If(absent(k)).Then(clientv3.OpPut(k, string(fresh))).Else(clientv3.OpGet(k)).Commit()
	switch {
	case err != nil:
		return nil, unavailable(err)
	case resp.Succeeded:
		return fresh, nil
	}
	return resp.Responses[0].GetResponseRange().Kvs[0].Value, nil
}
