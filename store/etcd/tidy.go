package etcd

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// tidying is where Tidy goes on.
type tidying struct {
	kind int
	from string
}

// temporary is one kind of records that are kept for a time.
type temporary struct {
	prefix string
	page   int64 // how many are read at once
	after  time.Duration
	// written gives the time of a record, and keys that go with it when it does.
	written func(kv *mvccpb.KeyValue) (at time.Time, more []string, err error)
}

var temporaries = []temporary{
	{"rq/", 100, ledger.RetryFor, func(kv *mvccpb.KeyValue) (time.Time, []string, error) {
		var r storev1.RequestIndex
		err := read(kv, &r)
		return time.UnixMilli(r.GetTimeMs()), nil, err
	}},
	{"bm/", 16, ledger.KeepFor, func(kv *mvccpb.KeyValue) (time.Time, []string, error) {
		r, err := readChunk(kv)
		return time.UnixMilli(r.GetTimeMs()), nil, err
	}},
	{"cl/", 30, ledger.KeepFor, func(kv *mvccpb.KeyValue) (time.Time, []string, error) {
		var r storev1.Closed
		err := read(kv, &r)
		owner := lastPart(kv.Key)
		return time.UnixMilli(r.GetTimeMs()), []string{key("dead", owner), tailKey(owner)}, err
	}},
}

// Tidy implements store.Ledger. What was written again since it was read stays.
func (l *Ledger) Tidy(ctx context.Context) (done bool, err error) {
	k := temporaries[l.kind]
	prefix := Prefix + k.prefix
	if l.from == "" {
		l.from = prefix
	}
	resp, err := l.get(ctx, l.from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(k.page))
	if err != nil {
		return false, err
	}
	before := l.Now().Add(-k.after)
	var cmps []clientv3.Cmp
	var ops []clientv3.Op
	for _, kv := range resp.Kvs {
		at, more, err := k.written(kv)
		if err != nil {
			return false, err
		}
		if !at.Before(before) {
			continue
		}
		if k.prefix == "cl/" {
			if busy, err := l.remembered(ctx, lastPart(kv.Key)); err != nil {
				return false, err
			} else if busy {
				continue
			}
		}
		cmps = append(cmps, unchanged(string(kv.Key), kv.ModRevision))
		ops = append(ops, clientv3.OpDelete(string(kv.Key)))
		for _, m := range more {
			ops = append(ops, clientv3.OpDelete(m))
		}
	}
	if len(ops) > 0 {
		if _, err := l.fenced(ctx, cmps, ops...); err != nil {
			return false, err
		}
	}
	if resp.More {
		l.from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		return false, nil
	}
	l.from = ""
	l.kind = (l.kind + 1) % len(temporaries)
	return l.kind == 0, nil
}

// remembered says whether there is a journal or marks of an owner.
func (l *Ledger) remembered(ctx context.Context, owner string) (bool, error) {
	for _, kind := range []string{"jr", "bm"} {
		resp, err := l.get(ctx, key(kind, owner)+"/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return false, err
		}
		if len(resp.Kvs) > 0 {
			return true, nil
		}
	}
	return false, nil
}
