package etcd_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

// Whatever a process writes after its session is gone is refused, and nothing of it is there.
func TestLedgerFence(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	a, before := account("acme"), account("before")
	first, gone := claimed(t, client)
	adjust(t, first, newAccount(before, gone, 100, 100))
	resign(t, first)

	l, owner := claimed(t, client)
	adjust(t, l, newAccount(a, owner, 500, 0))
	mustAppend(t, l, batch(owner, 0, settled(1, 60, a)))
	takeOver(t, l, gone, time.Hour)
	mustAppend(t, l, batch(gone, 0, settled(9, 0, before)))
	revoke(t, client, "qt/"+gone) // the quarantine is over
	o := opened(t, l, a, before)
	spend := ledger.AccountChange{ID: a, GrantOwner: owner, Grant: o[0].Own, BudgetFixed: true}
	spend.Grant.Spent += 40
	theirs := o[1].Others[gone]
	reclaim := []ledger.AccountChange{{ID: before, GrantOwner: gone, Grant: theirs, DropGrant: true, Budget: o[1].Budget}}

	endSession(t, client, owner)
	kept := dump(t, client)
	for _, w := range []struct {
		name  string
		write func(context.Context) error
	}{
		{"Heartbeat", func(ctx context.Context) error { _, err := l.Heartbeat(ctx); return err }},
		{"Adjust", func(ctx context.Context) error { _, err := l.Adjust(ctx, []ledger.AccountChange{spend}); return err }},
		{"Resolve", func(ctx context.Context) error { _, err := l.Resolve(ctx, []ledger.AccountChange{spend}); return err }},
		{"Append", func(ctx context.Context) error {
			_, _, err := l.Append(ctx, batch(owner, 1, settled(2, 40, a), spend))
			return err
		}},
		{"Append for the predecessor", func(ctx context.Context) error {
			_, _, err := l.Append(ctx, batch(gone, 1, settled(1, 40, before)))
			return err
		}},
		{"TakeOver", func(ctx context.Context) error { _, err := l.TakeOver(ctx, "another", time.Hour); return err }},
		{"TakeOver again", func(ctx context.Context) error { _, err := l.TakeOver(ctx, gone, time.Hour); return err }},
		{"Reclaim", func(ctx context.Context) error { _, err := l.Reclaim(ctx, gone, reclaim); return err }},
		{"CloseOwner", func(ctx context.Context) error { return l.CloseOwner(ctx, gone) }},
		{"RecordAlert", func(ctx context.Context) error {
			_, err := l.RecordAlert(ctx, ledger.Alert{ID: a, Permille: 800})
			return err
		}},
		{"Collect", func(ctx context.Context) error { _, err := l.Collect(ctx, &outbox{}, all(owner)); return err }},
		{"Collect for the predecessor", func(ctx context.Context) error { _, err := l.Collect(ctx, &outbox{}, all(gone)); return err }},
		{"Resign", func(ctx context.Context) error { return l.Resign(ctx, true) }},
	} {
		if err := w.write(t.Context()); !errors.Is(err, store.ErrFenced) {
			t.Errorf("%s: error %v, want ErrFenced", w.name, err)
		}
	}
	if now := dump(t, client); !maps.Equal(now, kept) {
		t.Errorf("after the fenced writes etcd holds\n%v\nwant\n%v", now, kept)
	}
}

// A session that is left in a data directory belongs to a process that is dead: nobody waits for its lease, nor for a
// successor of it that died too.
func TestLedgerExclusiveStart(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	start := func() (*etcd.Ledger, string) {
		t.Helper()
		l := etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Exclusive: true})
		owner, err := l.Claim(t.Context(), "127.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		return l, owner
	}
	killed, old := start()
	adjust(t, killed, newAccount(account("acme"), old, 100, 0))
	var ready time.Time
	before, gone := killed, []string{old}
	for range 3 {
		l, owner := start()
		if _, err := before.Heartbeat(t.Context()); !errors.Is(err, store.ErrFenced) {
			t.Errorf("the heartbeat of the owner before: error %v, want ErrFenced", err)
		}
		r := heartbeat(t, l)
		if len(r.Owners) != 1 || r.Owners[0].ID != owner || len(r.Successors) != 0 || len(r.Gone) != len(gone) || !containsAll(r.Gone, gone) {
			t.Fatalf("the roster is %+v; want %s alone, and %v gone", r, owner, gone)
		}
		// The quarantine goes on from when the first successor began it: it is one machine's clock.
		took := takeOver(t, l, old, time.Hour)
		if ready.IsZero() {
			ready = took.Ready
		} else if took.Ready.After(ready) || ready.Sub(took.Ready) > time.Second {
			t.Errorf("ready at %s with another successor, was %s", took.Ready, ready)
		}
		before, gone = l, append(gone, owner)
	}
}

// claimed begins a session, one of any number on an etcd.
func claimed(t *testing.T, client *clientv3.Client) (l *etcd.Ledger, owner string) {
	t.Helper()
	l = etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Watcher: client})
	owner, err := l.Claim(t.Context(), "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	return l, owner
}

func heartbeat(t *testing.T, l *etcd.Ledger) store.Roster {
	t.Helper()
	r, err := l.Heartbeat(t.Context())
	if err != nil {
		t.Fatalf("heartbeat: %v", err)
	}
	return r
}

func takeOver(t *testing.T, l *etcd.Ledger, owner string, quarantine time.Duration) store.Takeover {
	t.Helper()
	took, err := l.TakeOver(t.Context(), owner, quarantine)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// closeGone makes an owner one that is gone and closed.
func closeGone(t *testing.T, l *etcd.Ledger, owner string) {
	t.Helper()
	takeOver(t, l, owner, time.Second)
	if err := l.CloseOwner(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
}

func resign(t *testing.T, l *etcd.Ledger) {
	t.Helper()
	if err := l.Resign(t.Context(), false); err != nil {
		t.Errorf("resign: %v", err)
	}
}

// endSession does what etcd does when the lease of an owner's session runs out.
func endSession(t *testing.T, client *clientv3.Client, owner string) {
	t.Helper()
	revoke(t, client, "own/"+owner)
}

// revoke ends the lease of a key.
func revoke(t *testing.T, client *clientv3.Client, key string) {
	t.Helper()
	resp, err := client.Get(t.Context(), etcd.Prefix+key)
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 {
		t.Fatalf("%s: %v, error %v; want one key with a lease", key, resp, err)
	}
	if _, err := client.Revoke(t.Context(), clientv3.LeaseID(resp.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
}

// dump is all of Chartergate's keys with their revisions.
func dump(t *testing.T, client *clientv3.Client) map[string]int64 {
	t.Helper()
	resp, err := client.Get(t.Context(), etcd.Prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int64{}
	for _, kv := range resp.Kvs {
		keys[string(kv.Key)] = kv.ModRevision
	}
	return keys
}
