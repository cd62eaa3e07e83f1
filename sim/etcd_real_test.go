package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/chartergate/chartergate/store/embedded"
)

// direct serves the calls of a client from a simulated etcd at once.
type direct struct {
	etcdserverpb.KVClient
	e *etcd
}

func (d direct) Range(_ context.Context, r *etcdserverpb.RangeRequest, _ ...grpc.CallOption) (*etcdserverpb.RangeResponse, error) {
	return d.e.get(r)
}

func (d direct) Txn(_ context.Context, r *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	return d.e.txn(r)
}

// The simulated etcd answers random transactions, reads and leases exactly as a real one.
func TestEtcdAnswersAsARealOne(t *testing.T) {
	server, err := embedded.Start(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	for seed := range uint64(20) {
		compareWithReal(t, server.Client(), fmt.Sprintf("/%d/", seed), rand.New(rand.NewPCG(seed, 1)))
	}
}

func compareWithReal(t *testing.T, real *clientv3.Client, prefix string, rng *rand.Rand) {
	t.Helper()
	e := newEtcd(func() time.Duration { return 0 })
	fake := clientv3.NewKVFromKVClient(direct{e: e}, nil)
	var leases []clientv3.LeaseID
	resp, err := real.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	e.rev = resp.Header.Revision
	key := func() string { return prefix + string(rune('a'+rng.IntN(5))) + strings.Repeat("/x", rng.IntN(3)) }
	var revs []int64
	rev := func() int64 {
		if len(revs) == 0 || rng.IntN(4) == 0 {
			return 0
		}
		return revs[max(0, len(revs)-1-rng.IntN(6))]
	}
	op := func(read bool) clientv3.Op {
		switch k := rng.IntN(10); {
		case read && k < 2:
			return clientv3.OpGet(key())
		case read && k < 4:
			return clientv3.OpGet(key(), clientv3.WithPrefix())
		case read && k < 5:
			return clientv3.OpGet(key(), clientv3.WithRange(key()), clientv3.WithLimit(int64(rng.IntN(3))))
		case read && k < 6 && rev() > 0:
			return clientv3.OpGet(key(), clientv3.WithPrefix(), clientv3.WithRev(rev()))
		case read && k < 7:
			return clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		case read:
			return clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
		case k < 6:
			var opts []clientv3.OpOption
			if len(leases) > 0 && rng.IntN(3) == 0 {
				opts = append(opts, clientv3.WithLease(leases[rng.IntN(len(leases))]))
			}
			return clientv3.OpPut(key(), fmt.Sprint(rng.IntN(4)), opts...)
		case k < 8:
			return clientv3.OpDelete(key())
		}
		return clientv3.OpDelete(key(), clientv3.WithPrefix())
	}
	ops := func() (list []clientv3.Op) {
		for range rng.IntN(4) {
			list = append(list, op(rng.IntN(2) == 0))
		}
		return list
	}
	result := func() string { return []string{"=", "!=", "<", ">"}[rng.IntN(4)] }
	cmps := func() (list []clientv3.Cmp) {
		for range rng.IntN(3) {
			switch rng.IntN(4) {
			case 0:
				list = append(list, clientv3.Compare(clientv3.CreateRevision(key()), result(), rev()))
			case 1:
				list = append(list, clientv3.Compare(clientv3.ModRevision(key()), result(), rev()))
			case 2:
				list = append(list, clientv3.Compare(clientv3.Value(key()), result(), fmt.Sprint(rng.IntN(4))))
			default:
				list = append(list, clientv3.Compare(clientv3.Version(key()), result(), rng.IntN(3)))
			}
		}
		return list
	}
	for i := range 150 {
		switch {
		case rng.IntN(15) == 0:
			granted, err := real.Grant(t.Context(), 1000)
			if err != nil {
				t.Fatal(err)
			}
			leases = append(leases, granted.ID)
			e.grant(int64(granted.ID), 1000)
		case rng.IntN(15) == 0 && len(leases) > 0:
			id := leases[rng.IntN(len(leases))] // perhaps for the second time
			_, err := real.Revoke(t.Context(), id)
			if ok := e.revoke(int64(id)); ok != (err == nil) {
				t.Fatalf("step %d: revoke: %v, the real one says %v", i, ok, err)
			}
		default:
			c, then, other := cmps(), ops(), ops()
			want, wantErr := real.Txn(t.Context()).If(c...).Then(then...).Else(other...).Commit()
			got, gotErr := fake.Txn(t.Context()).If(c...).Then(then...).Else(other...).Commit()
			if !sameError(gotErr, wantErr) {
				t.Fatalf("step %d: error %v, the real one says %v", i, gotErr, wantErr)
			}
			if wantErr == nil {
				plain(want)
				plain(got)
				if fmt.Sprint((*etcdserverpb.TxnResponse)(got)) != fmt.Sprint((*etcdserverpb.TxnResponse)(want)) {
					t.Fatalf("step %d: If(%v) Then(%+v) Else(%+v)\n got %v\nwant %v", i, c, then, other, got, want)
				}
				revs = append(revs, want.Header.Revision)
			}
		}
		want, err := real.Get(t.Context(), prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		got, err := fake.Get(t.Context(), prefix, clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		want.Header, got.Header = nil, nil
		if fmt.Sprint((*etcdserverpb.RangeResponse)(got)) != fmt.Sprint((*etcdserverpb.RangeResponse)(want)) {
			t.Fatalf("step %d: holds %v, the real one %v", i, got, want)
		}
	}
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return errors.Is(rpctypes.Error(a), rpctypes.Error(b))
}

// plain leaves out what names the cluster, and the revision of the parts of a transaction, which nobody reads.
func plain(r *clientv3.TxnResponse) {
	r.Header = &etcdserverpb.ResponseHeader{Revision: r.Header.Revision}
	for _, part := range r.Responses {
		switch {
		case part.GetResponseRange() != nil:
			part.GetResponseRange().Header = nil
		case part.GetResponsePut() != nil:
			part.GetResponsePut().Header = nil
		case part.GetResponseDeleteRange() != nil:
			part.GetResponseDeleteRange().Header = nil
		}
	}
}
