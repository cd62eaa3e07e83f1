package etcd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/guard"
	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// Claim implements store.Ledger.
func (l *Ledger) Claim(ctx context.Context, addr string) (string, error) {
	id := make([]byte, 16)
	if _, err := io.ReadFull(l.Random, id); err != nil {
		return "", err
	}
	l.owner = hex.EncodeToString(id)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	record := &storev1.Owner{Host: host, Pid: int64(os.Getpid()), StartMs: l.Now().UnixMilli(), Addr: addr}
	if l.Exclusive {
		if _, err := l.txn(ctx, nil, clientv3.OpDelete(key("own")+"/", clientv3.WithPrefix()), clientv3.OpDelete(key("tk")+"/", clientv3.WithPrefix())); err != nil {
			return "", err
		}
	}
	lease, err := l.Lease.Grant(ctx, int64(ledger.SessionLease/time.Second))
	if err != nil {
		return "", unavailable(err)
	}
	l.lease = lease.ID
	own, err := put(key("own", l.owner), record, clientv3.WithLease(lease.ID))
	if err != nil {
		return "", err
	}
	known, err := put(key("id", l.owner), record)
	if err != nil {
		return "", err
	}
	fresh := []clientv3.Cmp{absent(key("own", l.owner)), absent(key("dead", l.owner))}
	if !guard.FreshIdentity {
		fresh = nil
	}
	resp, err := l.txn(ctx, fresh, own, known)
	if err != nil {
		return "", err
	}
	if !resp.Succeeded {
		return "", fmt.Errorf("owner %s: %w", l.owner, store.ErrConflict)
	}
	keep, stop := context.WithCancel(context.Background())
	alive, err := l.Lease.KeepAlive(keep, lease.ID)
	if err != nil {
		stop()
		return "", unavailable(err)
	}
	l.stop = stop
	go func() {
		for range alive { // drained; a lost lease shows in the next fenced write
		}
	}()
	created := resp.Header.Revision
	if !guard.FreshIdentity {
		if again, err := l.get(ctx, key("own", l.owner)); err == nil && len(again.Kvs) == 1 {
			created = again.Kvs[0].CreateRevision
		}
	}
	l.fence = clientv3.Compare(clientv3.CreateRevision(key("own", l.owner)), "=", created)
	return l.owner, nil
}

// Heartbeat implements store.Ledger.
func (l *Ledger) Heartbeat(ctx context.Context) (store.Roster, error) {
	l.beat++
	hb, err := put(key("hb", l.owner), &storev1.Heartbeat{Beat: l.beat}, clientv3.WithLease(l.lease))
	if err != nil {
		return store.Roster{}, err
	}
	resp, err := l.txn(ctx, l.fences(), append([]clientv3.Op{hb}, rosterReads...)...)
	switch {
	case err != nil && isLeaseGone(err):
		return store.Roster{}, store.ErrFenced
	case err != nil:
		return store.Roster{}, err
	case !resp.Succeeded:
		return store.Roster{}, store.ErrFenced
	}
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	return roster(kvs(1), kvs(2), kvs(3), kvs(4))
}

// rosterReads are what roster reads from.
var rosterReads = []clientv3.Op{
	getUnder(key("own")), clientv3.OpGet(key("id")+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly()),
	getUnder(key("tk")), clientv3.OpGet(epochKey, clientv3.WithKeysOnly()),
}

func roster(own, known, takeovers, epoch []*mvccpb.KeyValue) (store.Roster, error) {
	r := store.Roster{Successors: map[string]string{}}
	live := map[string]bool{}
	for _, kv := range own {
		var o storev1.Owner
		if err := read(kv, &o); err != nil {
			return r, err
		}
		id := lastPart(kv.Key)
		live[id] = true
		r.Owners = append(r.Owners, ownerOfRecord(id, &o))
	}
	for _, kv := range takeovers {
		var t storev1.Takeover
		if err := read(kv, &t); err != nil {
			return r, err
		}
		r.Successors[lastPart(kv.Key)] = t.GetSuccessor()
	}
	for _, kv := range known {
		if id := lastPart(kv.Key); !live[id] && r.Successors[id] == "" {
			r.Gone = append(r.Gone, id)
		}
	}
	if len(epoch) == 1 {
		r.Epoch = epoch[0].ModRevision
	}
	return r, nil
}

// Resign implements store.Ledger.
func (l *Ledger) Resign(ctx context.Context, clean bool) error {
	if l.stop == nil {
		return nil
	}
	l.stop()
	var err error
	if clean {
		err = l.close(ctx, l.owner, l.fences(), clientv3.OpDelete(key("own", l.owner)))
	}
	_, revokeErr := l.Lease.Revoke(ctx, l.lease)
	return errors.Join(err, revokeErr)
}

// close writes that nothing of an owner is left to reclaim.
func (l *Ledger) close(ctx context.Context, owner string, cmps []clientv3.Cmp, ops ...clientv3.Op) error {
	now := l.Now().UnixMilli()
	closed, err := put(key("cl", owner), &storev1.Closed{TimeMs: now})
	if err != nil {
		return err
	}
	dead, err := put(key("dead", owner), &storev1.Dead{TimeMs: now, ReadyMs: now})
	if err != nil {
		return err
	}
	_, err = l.fenced(ctx, cmps, append(ops, closed, dead, clientv3.OpDelete(key("id", owner)))...)
	return err
}

// Find implements store.Ledger.
func (l *Ledger) Find(ctx context.Context, owner string) (store.Whereabouts, error) {
	ops := make([]clientv3.Op, 0, 5)
	for _, kind := range []string{"own", "tk", "cl", "dead", "id"} {
		ops = append(ops, clientv3.OpGet(key(kind, owner)))
	}
	resp, err := l.txn(ctx, nil, ops...)
	if err != nil {
		return store.Whereabouts{}, err
	}
	kv := func(i int) *mvccpb.KeyValue {
		if kvs := resp.Responses[i].GetResponseRange().Kvs; len(kvs) == 1 {
			return kvs[0]
		}
		return nil
	}
	w := store.Whereabouts{Closed: kv(2) != nil}
	w.Known = w.Closed || kv(0) != nil || kv(3) != nil || kv(4) != nil
	if kv := kv(0); kv != nil {
		var o storev1.Owner
		if err := read(kv, &o); err != nil {
			return w, err
		}
		w.Addr = o.GetAddr()
	}
	if kv := kv(1); kv != nil {
		var t storev1.Takeover
		if err := read(kv, &t); err != nil {
			return w, err
		}
		w.Successor = t.GetSuccessor()
	}
	return w, nil
}

// TakeOver implements store.Ledger.
func (l *Ledger) TakeOver(ctx context.Context, owner string, quarantine time.Duration) (store.Takeover, error) {
	tk, dead, qt := key("tk", owner), key("dead", owner), key("qt", owner)
	var t store.Takeover
	putTakeover, err := put(tk, &storev1.Takeover{Successor: l.owner}, clientv3.WithLease(l.lease))
	if err != nil {
		return t, err
	}
	free := []clientv3.Cmp{absent(key("cl", owner))}
	if guard.TakeoverOnce {
		free = append(free, absent(tk))
	}
	if guard.OwnerGone {
		free = append(free, absent(key("own", owner)))
	}
	first, err := l.get(ctx, dead)
	if err != nil {
		return t, err
	}
	if len(first.Kvs) == 1 { // another successor has begun the quarantine
		t.Rev, err = l.fenced(ctx, free, putTakeover)
	} else {
		now := l.Now()
		gone := &storev1.Dead{TimeMs: now.UnixMilli(), ReadyMs: now.Add(quarantine).UnixMilli()}
		putDead, putErr := put(dead, gone)
		if putErr != nil {
			return t, putErr
		}
		lease, leaseErr := l.Lease.Grant(ctx, int64((quarantine+time.Second-1)/time.Second))
		if leaseErr != nil {
			return t, unavailable(leaseErr)
		}
		putQuarantine, putErr := put(qt, gone, clientv3.WithLease(lease.ID))
		if putErr != nil {
			return t, putErr
		}
		t.Rev, err = l.fenced(ctx, append(free, absent(dead)), putTakeover, putDead, putQuarantine)
	}
	if errors.Is(err, store.ErrConflict) {
		t.Rev, err = l.taken(ctx, owner, err) // an earlier attempt of ours may have landed
	}
	if err != nil {
		return t, fmt.Errorf("take over owner %s: %w", owner, err)
	}
	t.Ready = l.Now().Add(quarantine)
	if !guard.OwnQuarantine {
		t.Ready = l.Now()
	}
	if l.Exclusive && len(first.Kvs) == 1 {
		// The dead owner had ended before any successor started, and this machine's clock is the one that its holds expire
		// by. Between machines each successor counts the whole quarantine by its own clock.
		var r storev1.Dead
		if err := read(first.Kvs[0], &r); err != nil {
			return t, err
		}
		t.Ready = time.UnixMilli(r.GetReadyMs())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeovers[owner] = t.Rev
	return t, nil
}

// taken gives the revision of a takeover that is ours already; else the error.
func (l *Ledger) taken(ctx context.Context, owner string, conflict error) (int64, error) {
	resp, err := l.get(ctx, key("tk", owner))
	if err != nil {
		return 0, err
	}
	if len(resp.Kvs) == 0 {
		return 0, conflict
	}
	var r storev1.Takeover
	if err := read(resp.Kvs[0], &r); err != nil {
		return 0, err
	}
	if r.GetSuccessor() != l.owner {
		return 0, conflict
	}
	return resp.Kvs[0].CreateRevision, nil
}

// Grants implements store.Ledger.
func (l *Ledger) Grants(ctx context.Context, owner string) ([]ledger.AccountID, error) {
	var ids []ledger.AccountID
	err := l.scan(ctx, key("gr")+"/", func(kv *mvccpb.KeyValue) error {
		if !strings.HasSuffix(string(kv.Key), "/"+owner) {
			return nil
		}
		var r storev1.Grant
		err := read(kv, &r)
		ids = append(ids, accountID(r.GetAccount()))
		return err
	})
	return ids, err
}

// Reclaim implements store.Ledger.
func (l *Ledger) Reclaim(ctx context.Context, owner string, changes []ledger.AccountChange) (int64, error) {
	cmps, ops, err := l.changeOps(changes)
	if err != nil {
		return 0, err
	}
	if !l.Exclusive && guard.Quarantine {
		qt := key("qt", owner)
		resp, err := l.get(ctx, qt, clientv3.WithKeysOnly())
		if err != nil {
			return 0, err
		}
		if len(resp.Kvs) > 0 {
			return 0, store.ErrQuarantined
		}
		cmps = append(cmps, absent(qt))
	}
	return l.fenced(ctx, append(cmps, l.successor(owner)...), ops...)
}

// CloseOwner implements store.Ledger.
func (l *Ledger) CloseOwner(ctx context.Context, owner string) error {
	err := l.close(ctx, owner, l.successor(owner), clientv3.OpDelete(key("tk", owner)), clientv3.OpDelete(key("qt", owner)))
	if errors.Is(err, store.ErrConflict) { // an earlier attempt of ours may have landed
		resp, getErr := l.get(ctx, key("cl", owner), clientv3.WithKeysOnly())
		if getErr != nil {
			return getErr
		}
		if len(resp.Kvs) == 1 {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.takeovers, owner)
	return nil
}

// Watch implements store.Ledger.
func (l *Ledger) Watch(ctx context.Context, each func(ledger.AccountID, ledger.Budget)) error {
	if l.Watcher == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range l.Watcher.Watch(ctx, key("bud")+"/", clientv3.WithPrefix(), clientv3.WithFilterDelete()) {
		if err := resp.Err(); err != nil {
			return unavailable(err)
		}
		for _, ev := range resp.Events {
			var r storev1.BudgetAccount
			if err := proto.Unmarshal(ev.Kv.Value, &r); err != nil {
				return fmt.Errorf("read %s: %w", ev.Kv.Key, err)
			}
			each(accountID(r.GetAccount()), budget(&r, ev.Kv.ModRevision))
		}
	}
	return ctx.Err()
}
