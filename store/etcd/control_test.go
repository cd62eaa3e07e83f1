package etcd_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
	"github.com/chartergate/chartergate/store/storetest"
)

func TestControl(t *testing.T) {
	storetest.RunControl(t, func(t *testing.T) (store.Control, store.Control) {
		client := startEmbedded(t, t.TempDir()).Client()
		return openControl(t, client), openControl(t, client)
	})
}

func TestControlSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	server, err := embedded.Start(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	first := openControl(t, server.Client())
	before := commitBudgets(t, first, budget(t, "acme", 1), budget(t, "other", 2))
	first.Close()
	if err := server.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}

	again := openControl(t, startEmbedded(t, dir).Client())
	after := again.Snapshot()
	if after.Epoch != before.Epoch {
		t.Errorf("the epoch is %d after the restart, was %d", after.Epoch, before.Epoch)
	}
	for _, id := range []string{"acme", "other"} {
		got, want := after.Budget(id), before.Budget(id)
		if got == nil || got.Limit != want.Limit || got.Revision != want.Revision || !got.Created.Equal(want.Created) {
			t.Errorf("budget %s is %+v after the restart, was %+v", id, got, want)
		}
	}
	if s := commitBudgets(t, again, budget(t, "acme", 3)); s.Budget("acme").Limit != 3 {
		t.Errorf("the limit is %d after a change, want 3", s.Budget("acme").Limit)
	}
}

func TestControlTooManyChanges(t *testing.T) {
	c := openControl(t, startEmbedded(t, t.TempDir()).Client())
	_, err := c.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		changes := make([]charter.Change, embedded.MaxTxnOps)
		for i := range changes {
			changes[i] = charter.Change{Name: fmt.Sprintf("charters/c%d", i)}
		}
		return changes, nil
	})
	if tooLarge := (*etcd.TooLargeError)(nil); !errors.As(err, &tooLarge) || tooLarge.Changes != embedded.MaxTxnOps {
		t.Errorf("too many changes: error %v, want a TooLargeError of %d", err, embedded.MaxTxnOps)
	}
	_, err = c.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		huge := make([]byte, embedded.MaxRequestBytes)
		return []charter.Change{charter.Set(&charter.PolicyRevision{Policy: charter.RoutingPolicy, Hash: "5f2a77c0", Modules: map[string]string{"a.rego": string(huge)}})}, nil
	})
	if tooLarge := (*etcd.TooLargeError)(nil); !errors.As(err, &tooLarge) || tooLarge.Bytes < embedded.MaxRequestBytes {
		t.Errorf("too many bytes: error %v, want a TooLargeError", err)
	}
	if !errors.Is(err, store.ErrTooLarge) || errors.Is(err, store.ErrUnavailable) || c.Snapshot().Epoch != 0 {
		t.Errorf("error %v at epoch %d, want nothing written and that said", err, c.Snapshot().Epoch)
	}
}

func TestControlUnreadableRecord(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	c := openControl(t, client)
	good := commitBudgets(t, c, budget(t, "acme", 1))
	for key, value := range map[string]string{"budgets/acme": "\xff not a record", "nonsense": ""} {
		if _, err := client.Put(t.Context(), etcd.Prefix+"ctl/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	// The replica that is running keeps what it knows and goes on.
	s := commitBudgets(t, c, budget(t, "later", 2))
	if s.Budget("acme") != good.Budget("acme") || s.Budget("later") == nil {
		t.Errorf("acme is %v and later %v, want both", s.Budget("acme"), s.Budget("later"))
	}
	// One that starts must not serve without a ceiling that somebody set.
	if _, err := etcd.OpenControl(t.Context(), client, slog.New(slog.DiscardHandler), time.Now); err == nil {
		t.Error("a store with an unreadable record was opened")
	}
}

// Records that somebody deletes or restores behind the server's back are noticed.
func TestControlReset(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	c := openControl(t, client)
	commitBudgets(t, c, budget(t, "acme", 1))
	if _, err := client.Delete(t.Context(), etcd.Prefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	await(t, c, func(s *charter.Snapshot) bool { return s.Epoch == 0 && s.Budget("acme") == nil })
	if s := commitBudgets(t, c, budget(t, "fresh", 1)); s.Budget("fresh") == nil || s.Budget("acme") != nil {
		t.Errorf("after the reset there are fresh %v and acme %v", s.Budget("fresh"), s.Budget("acme"))
	}
}

func TestControlListsTenThousandCharters(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 10,000 records")
	}
	const count, batch = 10_000, 2_000
	client := startEmbedded(t, t.TempDir()).Client()
	a := openControl(t, client)
	commitBudgets(t, a, budget(t, "acme", money.Unit))
	for from := 0; from < count; from += batch {
		_, err := a.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
			var changes []charter.Change
			for i := from; i < from+batch; i++ {
				changes = append(changes, charter.Set(&charter.Charter{
					ID: fmt.Sprintf("feature-%05d", i), Budget: "acme", Team: "team", Stage: charter.StagePilot,
					Owner: charter.Owner{Name: "Ada Bauer"}, TargetCostPer1000: money.Nanos(i),
				}))
			}
			return changes, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	b := openControl(t, client)
	t.Logf("listed %d charters in %s", count, time.Since(start))
	if charters, _ := b.Snapshot().Counts(); charters != count {
		t.Fatalf("%d charters were listed, want %d", charters, count)
	}
	for i := range count {
		c := b.Snapshot().Charter(fmt.Sprintf("feature-%05d", i))
		if c == nil || c.TargetCostPer1000 != money.Nanos(i) || c.Revision == 0 {
			t.Fatalf("charter %d is %+v", i, c)
		}
	}
	if a.Snapshot().Epoch != b.Snapshot().Epoch {
		t.Errorf("the epochs are %d and %d", a.Snapshot().Epoch, b.Snapshot().Epoch)
	}
}

func startEmbedded(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(t.Context(), dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return server
}

func openControl(t *testing.T, client *clientv3.Client) *etcd.Control {
	t.Helper()
	c, err := etcd.OpenControl(t.Context(), client, slog.New(slog.NewTextHandler(t.Output(), nil)), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func budget(t *testing.T, id string, limit money.Nanos) *charter.Budget {
	t.Helper()
	day, err := charter.NewPeriod(charter.Day, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return &charter.Budget{ID: id, Owner: charter.Owner{Name: "Ada Bauer"}, Limit: limit, Currency: "USD", Period: day}
}

func commitBudgets(t *testing.T, c store.Control, budgets ...*charter.Budget) *charter.Snapshot {
	t.Helper()
	s, err := c.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		var changes []charter.Change
		for _, b := range budgets {
			changes = append(changes, charter.Set(b))
		}
		return changes, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
