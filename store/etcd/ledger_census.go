package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

// mostGone bounds the owners that Census looks at one by one.
const mostGone = 100

// Census implements store.Ledger.
func (l *Ledger) Census(ctx context.Context, closed int) (store.Census, error) {
	all, newest := clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend)
	resp, err := l.txn(ctx, nil, clientv3.OpGet(key("own")+"/", all), clientv3.OpGet(key("id")+"/", all),
		clientv3.OpGet(key("tk")+"/", all), clientv3.OpGet(key("qt")+"/", all), clientv3.OpGet(epochKey, clientv3.WithKeysOnly()),
		clientv3.OpGet(key("jr")+"/", all, clientv3.WithCountOnly()), clientv3.OpGet(key("cl")+"/", all, newest, clientv3.WithLimit(int64(closed))))
	if err != nil {
		return store.Census{}, err
	}
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	r, err := roster(kvs(0), kvs(1), kvs(2), kvs(4))
	if err != nil {
		return store.Census{}, err
	}
	c := store.Census{Epoch: r.Epoch, Batches: resp.Responses[5].GetResponseRange().Count}
	live := map[string]bool{}
	for _, o := range r.Owners {
		live[o.ID] = true
		c.Members = append(c.Members, store.Member{Owner: o, Live: true})
	}
	gone, err := l.gone(ctx, kvs(1), kvs(3), live, r.Successors)
	if err != nil {
		return c, err
	}
	c.Members = append(c.Members, gone...)
	for _, kv := range kvs(6) {
		var end storev1.Closed
		if err := read(kv, &end); err != nil {
			return c, err
		}
		c.Members = append(c.Members, store.Member{Owner: store.Owner{ID: lastPart(kv.Key)}, Closed: time.UnixMilli(end.GetTimeMs())})
	}
	return c, nil
}

// gone reads what has become of the owners that do not live and are not closed.
func (l *Ledger) gone(ctx context.Context, known, quarantines []*mvccpb.KeyValue, live map[string]bool, successors map[string]string) ([]store.Member, error) {
	leases := map[string]clientv3.LeaseID{}
	for _, kv := range quarantines {
		leases[lastPart(kv.Key)] = clientv3.LeaseID(kv.Lease)
	}
	var members []store.Member
	var ops []clientv3.Op
	for _, kv := range known {
		id := lastPart(kv.Key)
		if live[id] || len(members) == mostGone {
			continue
		}
		var o storev1.Owner
		if err := read(kv, &o); err != nil {
			return nil, err
		}
		members = append(members, store.Member{Owner: ownerOfRecord(id, &o), Successor: successors[id]})
		ops = append(ops, clientv3.OpGet(key("dead", id)))
	}
	if len(ops) == 0 {
		return nil, nil
	}
	resp, err := l.txn(ctx, nil, ops...)
	if err != nil {
		return nil, err
	}
	for i := range members {
		m := &members[i]
		for _, kv := range resp.Responses[i].GetResponseRange().Kvs {
			var d storev1.Dead
			if err := read(kv, &d); err != nil {
				return nil, err
			}
			m.Dead = time.UnixMilli(d.GetTimeMs())
			m.QuarantineLeft = max(0, time.UnixMilli(d.GetReadyMs()).Sub(l.Now()))
		}
		if lease, ok := leases[m.ID]; ok && !l.Exclusive {
			m.QuarantineLeft = max(m.QuarantineLeft, l.timeLeft(ctx, lease))
		}
	}
	return members, nil
}

// timeLeft is how long a lease lasts: etcd begins leases anew when its leader changes. At least 1 s for one that is there.
func (l *Ledger) timeLeft(ctx context.Context, lease clientv3.LeaseID) time.Duration {
	left := time.Second
	if leases, ok := l.Lease.(interface {
		TimeToLive(context.Context, clientv3.LeaseID, ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error)
	}); ok {
		if resp, err := leases.TimeToLive(ctx, lease); err == nil {
			left = max(left, time.Duration(resp.TTL)*time.Second)
		}
	}
	return left
}

func ownerOfRecord(id string, o *storev1.Owner) store.Owner {
	return store.Owner{ID: id, Addr: o.GetAddr(), Host: o.GetHost(), PID: o.GetPid(), Start: time.UnixMilli(o.GetStartMs())}
}
