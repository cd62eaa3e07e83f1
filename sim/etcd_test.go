package sim

import (
	"bytes"
	"slices"
	"sort"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// etcd is a linearizable store with the semantics of etcd: revisions, transactions, ranges, leases, and reads of the past.
// Nothing is ever compacted.
type etcd struct {
	rev    int64
	newest *etcdserverpb.ResponseHeader
	keys   []string // sorted
	ever   []string // sorted: also those that are deleted
	past   map[string][]version
	recs   map[string]*mvccpb.KeyValue
	leases map[int64]*lease
	// now is the time that leases go by.
	now func() time.Duration
	// committed is told every change, in order, after the transaction of it; nil: nobody is.
	committed func(changes []change)
}

type lease struct {
	ttl     time.Duration
	expires time.Duration
	keys    map[string]bool
}

// version is what a key was from a revision on; nil where it was deleted.
type version struct {
	rev int64
	kv  *mvccpb.KeyValue
}

// change is one key that a transaction wrote; now is nil where it was deleted.
type change struct {
	key      string
	was, now *mvccpb.KeyValue
}

func newEtcd(now func() time.Duration) *etcd {
	return &etcd{rev: 1, recs: map[string]*mvccpb.KeyValue{}, leases: map[int64]*lease{}, past: map[string][]version{}, now: now}
}

// maxOps is etcd's default limit of a transaction.
const maxOps = 128

// txn is what a transaction has done so far.
type txn struct {
	e       *etcd
	rev     int64
	changes []change
}

// header is shared by answers of one revision.
func (e *etcd) header() *etcdserverpb.ResponseHeader { return e.headerAt(e.rev) }

func (e *etcd) headerAt(rev int64) *etcdserverpb.ResponseHeader {
	if e.newest == nil || e.newest.Revision != rev {
		e.newest = &etcdserverpb.ResponseHeader{ClusterId: 1, MemberId: 1, Revision: rev, RaftTerm: 2}
	}
	return e.newest
}

func (e *etcd) begin() *txn { return &txn{e: e, rev: e.rev + 1} }

func (t *txn) end() {
	if len(t.changes) == 0 {
		return
	}
	t.e.rev = t.rev
	for _, ch := range t.changes {
		if t.e.past[ch.key] == nil {
			t.e.ever = slices.Insert(t.e.ever, sort.SearchStrings(t.e.ever, ch.key), ch.key)
		}
		t.e.past[ch.key] = append(t.e.past[ch.key], version{t.rev, ch.now})
	}
	if t.e.committed != nil {
		t.e.committed(t.changes)
	}
}

// span gives the indexes of the keys in a range as requests name it.
func (e *etcd) span(key, end []byte) (from, to int) { return span(e.keys, key, end) }

func span(keys []string, key, end []byte) (from, to int) {
	k := string(key)
	from = sort.SearchStrings(keys, k)
	switch {
	case len(end) == 0:
		if from < len(keys) && keys[from] == k {
			return from, from + 1
		}
		return from, from
	case len(end) == 1 && end[0] == 0:
		return from, len(keys)
	}
	return from, max(from, sort.SearchStrings(keys, string(end)))
}

// at gives the records of a range as they were at a revision.
func (e *etcd) at(rev int64, key, end []byte) (list []*mvccpb.KeyValue) {
	from, to := span(e.ever, key, end)
	for _, k := range e.ever[from:to] {
		past := e.past[k]
		i := sort.Search(len(past), func(i int) bool { return past[i].rev > rev })
		if i > 0 && past[i-1].kv != nil {
			list = append(list, past[i-1].kv)
		}
	}
	return list
}

func (e *etcd) get(r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrEmptyKey
	}
	if r.SortOrder != 0 || r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		panic("the simulated etcd does not know this kind of read")
	}
	if r.Revision > e.rev {
		return nil, rpctypes.ErrFutureRev
	}
	var list []*mvccpb.KeyValue
	if r.Revision > 0 {
		list = e.at(r.Revision, r.Key, r.RangeEnd)
	} else {
		from, to := e.span(r.Key, r.RangeEnd)
		list = make([]*mvccpb.KeyValue, to-from)
		for i, k := range e.keys[from:to] {
			list[i] = e.recs[k] // which never changes
		}
	}
	resp := &etcdserverpb.RangeResponse{Header: e.header(), Count: int64(len(list))}
	if r.CountOnly {
		return resp, nil
	}
	if r.Limit > 0 && int64(len(list)) > r.Limit {
		list, resp.More = list[:r.Limit], true
	}
	if r.KeysOnly { // answered from the index
		for i, kv := range list {
			list[i] = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
	}
	resp.Kvs = list
	return resp, nil
}

func (t *txn) put(r *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	e, k := t.e, string(r.Key)
	was := e.recs[k]
	now := &mvccpb.KeyValue{Key: r.Key, Value: bytes.Clone(r.Value), CreateRevision: t.rev, ModRevision: t.rev, Version: 1, Lease: r.Lease}
	resp := &etcdserverpb.PutResponse{Header: e.headerAt(t.rev)}
	if was != nil {
		now.CreateRevision, now.Version = was.CreateRevision, was.Version+1
		e.detach(k, was.Lease)
		if r.PrevKv {
			resp.PrevKv = was
		}
	} else {
		i := sort.SearchStrings(e.keys, k)
		e.keys = slices.Insert(e.keys, i, k)
	}
	e.recs[k] = now
	if r.Lease != 0 {
		e.leases[r.Lease].keys[k] = true
	}
	t.changes = append(t.changes, change{k, was, now})
	return resp, nil
}

func (e *etcd) detach(k string, id int64) {
	if l := e.leases[id]; l != nil {
		delete(l.keys, k)
	}
}

func (t *txn) remove(r *etcdserverpb.DeleteRangeRequest) *etcdserverpb.DeleteRangeResponse {
	e := t.e
	from, to := e.span(r.Key, r.RangeEnd)
	resp := &etcdserverpb.DeleteRangeResponse{Deleted: int64(to - from)}
	for _, k := range e.keys[from:to] {
		was := e.recs[k]
		e.detach(k, was.Lease)
		delete(e.recs, k)
		t.changes = append(t.changes, change{k, was, nil})
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, was)
		}
	}
	e.keys = slices.Delete(e.keys, from, to)
	resp.Header = e.header()
	if len(t.changes) > 0 {
		resp.Header = e.headerAt(t.rev)
	}
	return resp
}

func (e *etcd) holds(c *etcdserverpb.Compare) bool {
	from, to := e.span(c.Key, c.RangeEnd)
	if len(c.RangeEnd) > 0 {
		for _, k := range e.keys[from:to] {
			if !compare(c, e.recs[k]) {
				return false
			}
		}
		return true
	}
	if from == to {
		if c.Target == etcdserverpb.Compare_VALUE {
			return false // a key that is not there has no value
		}
		return compare(c, new(mvccpb.KeyValue))
	}
	return compare(c, e.recs[e.keys[from]])
}

func compare(c *etcdserverpb.Compare, kv *mvccpb.KeyValue) bool {
	var n int
	number := func(a, b int64) {
		switch {
		case a < b:
			n = -1
		case a > b:
			n = 1
		}
	}
	switch c.Target {
	case etcdserverpb.Compare_VALUE:
		n = bytes.Compare(kv.Value, c.GetValue())
	case etcdserverpb.Compare_CREATE:
		number(kv.CreateRevision, c.GetCreateRevision())
	case etcdserverpb.Compare_MOD:
		number(kv.ModRevision, c.GetModRevision())
	case etcdserverpb.Compare_VERSION:
		number(kv.Version, c.GetVersion())
	case etcdserverpb.Compare_LEASE:
		number(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case etcdserverpb.Compare_EQUAL:
		return n == 0
	case etcdserverpb.Compare_NOT_EQUAL:
		return n != 0
	case etcdserverpb.Compare_GREATER:
		return n > 0
	}
	return n < 0
}

// check refuses what etcd refuses.
func (e *etcd) check(ops []*etcdserverpb.RequestOp) error {
	puts := map[string]bool{}
	for _, op := range ops {
		if r := op.GetRequestPut(); r != nil {
			switch {
			case len(r.Key) == 0:
				return rpctypes.ErrEmptyKey
			case puts[string(r.Key)]:
				return rpctypes.ErrDuplicateKey
			case r.IgnoreLease || r.IgnoreValue:
				panic("the simulated etcd does not know this kind of put")
			}
			puts[string(r.Key)] = true
		}
		if op.GetRequestTxn() != nil {
			panic("the simulated etcd does not know nested transactions")
		}
	}
	for _, op := range ops {
		if r := op.GetRequestDeleteRange(); r != nil {
			for k := range puts {
				if k == string(r.Key) || len(r.RangeEnd) > 0 && k >= string(r.Key) && (k < string(r.RangeEnd) || string(r.RangeEnd) == "\x00") {
					return rpctypes.ErrDuplicateKey
				}
			}
		}
	}
	return nil
}

func (e *etcd) txn(r *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if max(len(r.Compare), len(r.Success), len(r.Failure)) > maxOps {
		return nil, rpctypes.ErrTooManyOps
	}
	if err := e.check(r.Success); err != nil {
		return nil, err
	}
	if err := e.check(r.Failure); err != nil {
		return nil, err
	}
	resp := &etcdserverpb.TxnResponse{Succeeded: true}
	for _, c := range r.Compare {
		if !e.holds(c) {
			resp.Succeeded = false
			break
		}
	}
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
	for _, op := range ops { // nothing is done of a transaction that fails
		if p := op.GetRequestPut(); p != nil && p.Lease != 0 && e.leases[p.Lease] == nil {
			return nil, rpctypes.ErrLeaseNotFound
		}
	}
	t := e.begin()
	for _, op := range ops {
		switch {
		case op.GetRequestRange() != nil:
			got, err := e.get(op.GetRequestRange())
			if err != nil {
				return nil, err
			}
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: got}})
		case op.GetRequestPut() != nil:
			got, err := t.put(op.GetRequestPut())
			if err != nil {
				return nil, err
			}
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: got}})
		case op.GetRequestDeleteRange() != nil:
			got := t.remove(op.GetRequestDeleteRange())
			resp.Responses = append(resp.Responses, &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: got}})
		}
	}
	t.end()
	resp.Header = e.header()
	return resp, nil
}

// grant makes a lease. The id is the caller's.
func (e *etcd) grant(id, seconds int64) {
	ttl := time.Duration(seconds) * time.Second
	e.leases[id] = &lease{ttl: ttl, expires: e.now() + ttl, keys: map[string]bool{}}
}

// renew keeps a lease alive; false when it is gone.
func (e *etcd) renew(id int64) bool {
	l := e.leases[id]
	if l != nil {
		l.expires = e.now() + l.ttl
	}
	return l != nil
}

// revoke ends a lease and deletes its keys; false when there is none.
func (e *etcd) revoke(id int64) bool {
	l := e.leases[id]
	if l == nil {
		return false
	}
	t := e.begin()
	keys := make([]string, 0, len(l.keys))
	for k := range l.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		t.remove(&etcdserverpb.DeleteRangeRequest{Key: []byte(k)})
	}
	delete(e.leases, id)
	t.end()
	return true
}
