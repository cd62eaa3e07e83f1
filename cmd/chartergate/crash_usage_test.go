package main

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

// The same with PostgreSQL, which is killed and started again under load too.
func TestCrashesWithPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a real server under load, which takes about 20 seconds")
	}
	server := storetest.StartPostgres(t)
	database := server.NewDatabase(t)
	over := make(chan struct{})
	var killing sync.WaitGroup
	killing.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(1500 * time.Millisecond):
			}
			server.Stop(t)
			server.Start(t)
		}
	})
	end := sync.OnceFunc(func() {
		close(over)
		killing.Wait()
	})
	t.Cleanup(end)
	crashes(t, t.TempDir(), database, end)
}

// checkUsage compares what the usage database has counted with what the ledger has settled: of each budget by path, and by
// every dimension in sum.
func checkUsage(t *testing.T, url string, statuses []*pb.BudgetStatus) {
	t.Helper()
	db, err := sql.Open(t.Context(), url, sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	settled, forced := map[string]money.Nanos{}, map[string]money.Nanos{}
	for _, s := range statuses {
		id, _, _ := strings.Cut(strings.TrimPrefix(s.GetName(), "budgets/"), "/")
		settled[id] += money.Nanos(s.GetSettledNanos())
		forced[id] += money.Nanos(s.GetForcedNanos())
	}
	from := time.Now().UTC().Truncate(time.Hour).Add(-24 * time.Hour)
	sum := func(step usage.Step, by ...string) []usage.Row {
		rows, _, err := db.Sum(t.Context(), usage.Query{From: from, To: from.Add(72 * time.Hour), By: by, Step: step})
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	cost := func(r *usage.Row) money.Nanos {
		total, err := r.Cost.Total()
		if err != nil {
			t.Fatal(err)
		}
		return total
	}
	counted, over := map[string]money.Nanos{}, map[string]money.Nanos{}
	for _, r := range sum(usage.Whole, usage.DimBudgetPath) {
		for _, id := range strings.Split(r.Keys[0], "/") {
			counted[id] += cost(&r)
			over[id] += r.Forced
		}
	}
	for id, want := range settled {
		if id != "" && (counted[id] != want || over[id] < forced[id]) {
			t.Errorf("budget %s: %s counted of which %s forced, %s settled of which %s forced", id, counted[id], over[id], want, forced[id])
		}
	}
	for _, step := range []usage.Step{usage.Whole, usage.Hour, usage.Day, usage.Month} {
		for _, d := range append([]string{usage.DimLabel + "none"}, usage.Dimensions...) {
			var total money.Nanos
			for _, r := range sum(step, d) {
				total += cost(&r)
			}
			if total != settled["company"] {
				t.Errorf("by %s, step %d: %s counted, %s settled", d, step, total, settled["company"])
			}
		}
	}
	t.Logf("%s counted and settled", settled["company"])
}
