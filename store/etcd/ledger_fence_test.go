package etcd_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
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
	first, gone := claimed(t, client, false)
	adjust(t, first, newAccount(before, gone, 100, 100))
	resign(t, first)

	l, owner := claimed(t, client, false)
	adjust(t, l, newAccount(a, owner, 500, 0))
	mustAppend(t, l, batch(owner, 0, settled(1, 60, a)))
	mustAppend(t, l, batch(gone, 0, settled(9, 0, before)))
	if p, err := l.Predecessors(t.Context(), time.Hour); err != nil || len(p) != 1 || p[0].Owner != gone || !idle(p[0]) {
		t.Fatalf("predecessors %+v, error %v", p, err)
	}
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
		{"Heartbeat", l.Heartbeat},
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
		{"Predecessors", func(ctx context.Context) error { _, err := l.Predecessors(ctx, time.Hour); return err }},
		{"Reclaim", func(ctx context.Context) error { _, err := l.Reclaim(ctx, gone, reclaim); return err }},
		{"CloseOwner", func(ctx context.Context) error { return l.CloseOwner(ctx, gone) }},
		{"RecordAlert", func(ctx context.Context) error {
			_, err := l.RecordAlert(ctx, ledger.Alert{ID: a, Permille: 800})
			return err
		}},
		{"Collect", func(ctx context.Context) error { _, err := l.Collect(ctx, &outbox{}, all(owner)); return err }},
		{"Collect for the predecessor", func(ctx context.Context) error { _, err := l.Collect(ctx, &outbox{}, all(gone)); return err }},
	} {
		if err := w.write(t.Context()); !errors.Is(err, store.ErrFenced) {
			t.Errorf("%s: error %v, want ErrFenced", w.name, err)
		}
	}
	if now := dump(t, client); !maps.Equal(now, kept) {
		t.Errorf("after the fenced writes etcd holds\n%v\nwant\n%v", now, kept)
	}
}

// One process owns the ledger: another is refused while that one lives, and takes over when it is gone.
func TestLedgerOneOwner(t *testing.T) {
	address := startListening(t)
	client, other := dial(t, address), dial(t, address)
	first, owner := claimed(t, client, false)

	beating, stop := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-beating.Done():
				stopped <- nil
				return
			case <-tick.C:
				if err := first.Heartbeat(t.Context()); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	began := time.Now()
	_, err := etcd.NewLedger(other, false, time.Now, nil).Claim(t.Context())
	if waited := time.Since(began); waited > ledger.SessionLease/2 {
		t.Errorf("a second claim was refused after %s, while the owner shows that it lives", waited)
	}
	owned, host := (*store.OwnedError)(nil), hostname(t)
	if !errors.As(err, &owned) || owned.PID != int64(os.Getpid()) || owned.Host != host || time.Since(owned.Since) > time.Minute {
		t.Errorf("a second claim: error %#v, want an OwnedError of process %d on %s", err, os.Getpid(), host)
	}
	stop()
	if err := <-stopped; err != nil {
		t.Fatalf("the first owner's heartbeat: %v", err)
	}

	// It waits for an owner that is silent, and has the ledger as soon as that one's session ends.
	for _, end := range []struct {
		name string
		how  func()
	}{
		{"resigns", func() { resign(t, first) }},
		{"loses its lease", func() { endSession(t, client, owner) }},
	} {
		next := etcd.NewLedger(other, false, time.Now, nil)
		type answer struct {
			owner string
			err   error
		}
		came := make(chan answer, 1)
		leases := leaseCount(t, client)
		go func() {
			id, err := next.Claim(t.Context())
			came <- answer{id, err}
		}()
		poll(t, "the second process is at its claim", func() bool { return leaseCount(t, client) > leases })
		select {
		case a := <-came:
			t.Fatalf("%s: claimed as %q, error %v, while another owns the ledger", end.name, a.owner, a.err)
		default:
		}
		end.how()
		select {
		case a := <-came:
			if a.err != nil || a.owner == owner {
				t.Fatalf("%s: the next owner is %q, error %v", end.name, a.owner, a.err)
			}
			if err := first.Heartbeat(t.Context()); !errors.Is(err, store.ErrFenced) {
				t.Errorf("%s: the first owner's heartbeat: error %v, want ErrFenced", end.name, err)
			}
			if err := next.Heartbeat(t.Context()); err != nil {
				t.Errorf("%s: the next owner's heartbeat: %v", end.name, err)
			}
			first, owner = next, a.owner
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nobody owns the ledger after 10 seconds", end.name)
		}
	}
	resign(t, first)
}

// A session that is left in a data directory belongs to a process that is dead: nobody waits for its lease.
func TestLedgerExclusiveStart(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	killed, old := claimed(t, client, true)
	a := account("acme")
	adjust(t, killed, newAccount(a, old, 100, 0))
	if p, err := killed.Predecessors(t.Context(), time.Hour); err != nil || len(p) != 0 {
		t.Fatalf("predecessors of the first owner: %+v, error %v", p, err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), ledger.SessionLease/2)
	defer cancel()
	l := etcd.NewLedger(client, true, time.Now, nil)
	owner, err := l.Claim(ctx)
	if err != nil {
		t.Fatalf("a claim after a crash: %v", err)
	}
	if err := killed.Heartbeat(t.Context()); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the heartbeat of the owner before: error %v, want ErrFenced", err)
	}
	for range 2 { // the second time for a successor that crashed after its takeover
		p, err := l.Predecessors(ctx, time.Hour)
		if err != nil || len(p) != 1 || p[0].Owner != old || idle(p[0]) || !slices.Equal(p[0].Accounts, []ledger.AccountID{a}) {
			t.Fatalf("predecessors %+v, error %v; want %s with a grant that is not settled", p, err, old)
		}
		next := etcd.NewLedger(client, true, time.Now, nil)
		if again, err := next.Claim(ctx); err != nil || again == owner {
			t.Fatalf("claimed as %s after %s: error %v", again, owner, err)
		}
		l = next
	}
}

func TestLedgerClaimEndsWithItsContext(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	claimed(t, client, false)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := etcd.NewLedger(client, false, time.Now, nil).Claim(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func claimed(t *testing.T, client *clientv3.Client, exclusive bool) (l *etcd.Ledger, owner string) {
	t.Helper()
	l = etcd.NewLedger(client, exclusive, time.Now, nil)
	owner, err := l.Claim(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Heartbeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l, owner
}

func resign(t *testing.T, l *etcd.Ledger) {
	t.Helper()
	if err := l.Resign(t.Context()); err != nil {
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

func leaseCount(t *testing.T, client *clientv3.Client) int {
	t.Helper()
	resp, err := client.Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Leases)
}

func hostname(t *testing.T) string {
	t.Helper()
	h, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// idle says that nothing of an owner had to be quarantined.
func idle(p store.Predecessor) bool { return !p.Ready.After(time.Now()) }
