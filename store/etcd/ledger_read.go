package etcd

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/store"
)

func isLeaseGone(err error) bool { return errors.Is(err, rpctypes.ErrLeaseNotFound) }

func read(kv *mvccpb.KeyValue, into proto.Message) error {
	if err := proto.Unmarshal(kv.Value, into); err != nil {
		return fmt.Errorf("read %s: %w", kv.Key, err)
	}
	return nil
}

// getUnder reads all keys that begin with k and a slash.
func getUnder(k string) clientv3.Op {
	op := clientv3.OpGet(k + "/")
	op.WithRangeBytes([]byte(k + "0")) // '0' follows '/'
	return op
}

// openAtOnce keeps a read transaction within etcd's default limit of 128 operations.
const openAtOnce = 40

// Open implements store.Ledger.
func (l *Ledger) Open(ctx context.Context, ids []ledger.AccountID) ([]ledger.Opened, error) {
	opened := make([]ledger.Opened, 0, len(ids))
	for part := range slices.Chunk(ids, openAtOnce) {
		ops := make([]clientv3.Op, 0, 3*len(part))
		for _, id := range part {
			at := id.String()
			ops = append(ops, clientv3.OpGet(key("bud", at)), getUnder(key("gr", at)), getUnder(key("al", at)))
		}
		resp, err := l.txn(ctx, nil, ops...)
		if err != nil {
			return nil, err
		}
		for i, id := range part {
			r := resp.Responses[3*i:]
			o, err := l.opened(id, r[0].GetResponseRange().Kvs, r[1].GetResponseRange().Kvs, r[2].GetResponseRange().Kvs)
			if err != nil {
				return nil, err
			}
			o.Rev = resp.Header.Revision
			opened = append(opened, o)
		}
	}
	return opened, nil
}

func (l *Ledger) opened(id ledger.AccountID, buds, grants, alerts []*mvccpb.KeyValue) (ledger.Opened, error) {
	o := ledger.Opened{ID: id, Others: map[string]ledger.Grant{}}
	for _, kv := range buds {
		var r storev1.BudgetAccount
		if err := read(kv, &r); err != nil {
			return o, err
		}
		o.Budget = budget(&r, kv.ModRevision)
	}
	for _, kv := range grants {
		var r storev1.Grant
		if err := read(kv, &r); err != nil {
			return o, err
		}
		g := grant(&r, kv.ModRevision)
		if owner := lastPart(kv.Key); owner == l.owner {
			o.Own = g
		} else {
			o.Others[owner] = g
		}
	}
	for _, kv := range alerts {
		var r storev1.Alert
		if err := read(kv, &r); err != nil {
			return o, err
		}
		o.Alerted = append(o.Alerted, r.GetThresholdPermille())
	}
	return o, nil
}

func lastPart(k []byte) string { return string(k[bytes.LastIndexByte(k, '/')+1:]) }

// scan reads all keys with a prefix, a page at a time, in order.
func (l *Ledger) scan(ctx context.Context, prefix string, each func(*mvccpb.KeyValue) error, opts ...clientv3.OpOption) error {
	const page = 1000
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		resp, err := l.KV.Get(ctx, from, append(opts, clientv3.WithRange(end), clientv3.WithLimit(page))...)
		if err != nil {
			return unavailable(err)
		}
		for _, kv := range resp.Kvs {
			if err := each(kv); err != nil {
				return err
			}
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// Keys implements store.Ledger.
func (l *Ledger) Keys(ctx context.Context, budget string, start int64) ([]ledger.AccountID, error) {
	var ids []ledger.AccountID
	err := l.scan(ctx, key("bud", budget, strconv.FormatInt(start, 10))+"/", func(kv *mvccpb.KeyValue) error {
		var r storev1.BudgetAccount
		err := read(kv, &r)
		ids = append(ids, accountID(r.GetAccount()))
		return err
	})
	return ids, err
}

// batch reads a batch; nil when there is none.
func (l *Ledger) batch(ctx context.Context, k string) (*storev1.Batch, error) {
	resp, err := l.KV.Get(ctx, k)
	if err != nil {
		return nil, unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return nil, store.ErrNotFound
	}
	var b storev1.Batch
	return &b, read(resp.Kvs[0], &b)
}

// Entry implements store.Ledger.
func (l *Ledger) Entry(ctx context.Context, owner string, n, seq uint64) (*ledger.Entry, error) {
	b, err := l.batch(ctx, batchKey(owner, n))
	if err != nil {
		return nil, err
	}
	for _, r := range b.GetEntries() {
		if r.GetSeq() == seq {
			return entry(owner, n, b, r)
		}
	}
	return nil, store.ErrNotFound
}

// Usage implements store.Ledger.
func (l *Ledger) Usage(ctx context.Context, requestID string) (*ledger.Entry, error) {
	resp, err := l.KV.Get(ctx, requestKey(requestID))
	if err != nil {
		return nil, unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return nil, store.ErrNotFound
	}
	var r storev1.RequestIndex
	if err := read(resp.Kvs[0], &r); err != nil {
		return nil, err
	}
	return requestEntry(requestID, &r)
}

// Journal implements store.Ledger.
func (l *Ledger) Journal(ctx context.Context, owner string) (next uint64, hash []byte, settled []ledger.Settled, err error) {
	for {
		before, err := l.get(ctx, tailKey(owner))
		if err != nil {
			return 0, nil, nil, err
		}
		tail, rev, err := readTail(before.Kvs)
		if err != nil {
			return 0, nil, nil, err
		}
		next, hash, settled, err := l.journalFrom(ctx, owner, tail)
		if err != nil {
			return 0, nil, nil, err
		}
		after, err := l.get(ctx, tailKey(owner), clientv3.WithKeysOnly())
		if err != nil {
			return 0, nil, nil, err
		}
		if len(after.Kvs) == len(before.Kvs) && (rev == 0 || after.Kvs[0].ModRevision == rev) {
			l.tailIs(owner, rev)
			return next, hash, settled, nil
		} // else batches were collected meanwhile
	}
}

// Batches implements store.Ledger.
func (l *Ledger) Batches(ctx context.Context, owner string, each func(store.OutboxBatch)) error {
	return l.scan(ctx, key("jr", owner)+"/", func(kv *mvccpb.KeyValue) error {
		n, err := batchNumber(string(kv.Key))
		if err != nil {
			return fmt.Errorf("read %s: %w", kv.Key, err)
		}
		each(store.OutboxBatch{Owner: owner, N: n, Data: kv.Value})
		return nil
	})
}

// journalFrom reads what is in a journal after what was collected.
func (l *Ledger) journalFrom(ctx context.Context, owner string, tail *storev1.JournalTail) (next uint64, hash []byte, settled []ledger.Settled, err error) {
	next, hash = tail.GetNext(), tail.GetPreviousHash()
	err = l.scan(ctx, key("jr", owner)+"/", func(kv *mvccpb.KeyValue) error {
		var b storev1.Batch
		if err := read(kv, &b); err != nil {
			return err
		}
		n, err := batchNumber(string(kv.Key))
		if err != nil {
			return fmt.Errorf("read %s: %w", kv.Key, err)
		}
		for _, e := range b.GetEntries() {
			if e.GetSeq() != 0 {
				settled = append(settled, ledger.Settled{Seq: e.GetSeq(), Batch: n, Released: e.GetKind() == storev1.EntryKind_ENTRY_KIND_RELEASE})
			}
		}
		if n >= next {
			sum := sha256.Sum256(kv.Value)
			next, hash = n+1, sum[:]
		}
		return nil
	})
	return next, hash, settled, err
}

// RecordAlert implements store.Ledger.
func (l *Ledger) RecordAlert(ctx context.Context, a ledger.Alert) (bool, error) {
	k := key("al", a.ID.String(), strconv.Itoa(int(a.Permille)))
	op, err := put(k, alertRecord(a))
	if err != nil {
		return false, err
	}
	_, err = l.fenced(ctx, []clientv3.Cmp{absent(k)}, op)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// Alerts implements store.Ledger.
func (l *Ledger) Alerts(ctx context.Context, budget string, limit int) ([]ledger.Alert, error) {
	prefix := key("al") + "/"
	if budget != "" {
		prefix = key("al", budget) + "/"
	}
	alerts, err := l.alerts(ctx, prefix)
	return alerts[:min(limit, len(alerts))], err
}

// AccountAlerts implements store.Ledger.
func (l *Ledger) AccountAlerts(ctx context.Context, id ledger.AccountID) ([]ledger.Alert, error) {
	return l.alerts(ctx, key("al", id.String())+"/")
}

func (l *Ledger) alerts(ctx context.Context, prefix string) ([]ledger.Alert, error) {
	var alerts []ledger.Alert
	err := l.scan(ctx, prefix, func(kv *mvccpb.KeyValue) error {
		var r storev1.Alert
		err := read(kv, &r)
		alerts = append(alerts, alert(&r))
		return err
	})
	slices.SortFunc(alerts, func(a, b ledger.Alert) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID.String(), b.ID.String()), cmp.Compare(b.Permille, a.Permille))
	})
	return alerts, err
}

func ownerOf(k []byte) string {
	return strings.Split(strings.TrimPrefix(string(k), Prefix), "/")[1]
}

// Journals gives every batch that is in etcd, of all owners. One that is collected meanwhile may come or not: it is in the
// archive of its server by then. Error: store.ErrUnavailable.
func Journals(ctx context.Context, kv KV, each func(store.OutboxBatch) error) error {
	l := &Ledger{LedgerConfig: LedgerConfig{KV: kv}}
	return l.scan(ctx, key("jr")+"/", func(r *mvccpb.KeyValue) error {
		n, err := batchNumber(string(r.Key))
		if err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		return each(store.OutboxBatch{Owner: ownerOf(r.Key), N: n, Data: r.Value})
	})
}
