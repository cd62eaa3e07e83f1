package metering_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/etcd"
	"github.com/chartergate/chartergate/store/mem"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// rig is a meter between an archive and a database.
type rig struct {
	t       testing.TB
	dir     string
	db      *sql.Store
	archive *archive.Archive
	meter   *metering.Meter
	backlog int64
}

func newRig(t testing.TB, url string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	var err error
	if r.db, err = sql.Open(t.Context(), url, sql.Options{}); err != nil {
		t.Fatal(err)
	}
	if r.archive, err = archive.Open(r.dir, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.db.Close(), r.archive.Close()); err != nil {
			t.Error(err)
		}
	})
	r.restart()
	return r
}

// restart is another process on the same archive and database.
func (r *rig) restart() {
	r.meter = metering.New(metering.Config{
		Store: r.db, Control: mem.NewControl(func() time.Time { return noon }), Archive: r.archive, Decode: etcd.ReadBatch,
		Backlog: func() int64 { return r.backlog }, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return noon },
	})
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// spend is what every batch of aBatch has settled.
const spend = 100 + 23

// aBatch is a batch as it leaves a journal.
func aBatch(n uint64) store.OutboxBatch {
	b := &storev1.Batch{
		Accounts: []*storev1.Account{{Budget: "leaf"}, {Budget: "root"}},
		Entries: []*storev1.Entry{
			{
				Seq: 2*n + 1, Kind: storev1.EntryKind_ENTRY_KIND_SETTLE, Amount: 100, Path: []uint32{0, 1}, Feature: "f", Model: "m", Effect: int32(routing.Allow),
				CallMs: noon.UnixMilli(), TimeMs: noon.Add(time.Minute).UnixMilli(), Calls: 1, Outcome: int32(usage.OutcomeSuccess), Successes: 1,
				Cost: &storev1.Cost{Input: 60, Output: 40}, Run: fmt.Sprint("run", n),
			},
			{Seq: 2*n + 2, Kind: storev1.EntryKind_ENTRY_KIND_RELEASE, Path: []uint32{0, 1}, CallMs: noon.UnixMilli()},
			{Kind: storev1.EntryKind_ENTRY_KIND_USAGE, Amount: 23, Forced: 23, Path: []uint32{0, 1}, Feature: "f", CallMs: noon.UnixMilli(), TimeMs: noon.UnixMilli(), Calls: 1},
		},
	}
	data, err := proto.Marshal(b)
	if err != nil {
		panic(err)
	}
	return store.OutboxBatch{Owner: "o", N: n, Data: data}
}

func batches(from, to uint64) (list []store.OutboxBatch) {
	for n := from; n < to; n++ {
		list = append(list, aBatch(n))
	}
	return list
}

func (r *rig) committed(n uint64) {
	r.t.Helper()
	b, err := etcd.ReadBatch(aBatch(n))
	r.must(err)
	r.meter.Committed(b)
}

// counted checks that so many batches are counted once.
func (r *rig) counted(n int64) {
	r.t.Helper()
	rows, c, err := r.db.Sum(r.t.Context(), usage.Query{From: noon, To: noon.Add(time.Hour)})
	r.must(err)
	var t usage.Totals
	for _, row := range rows {
		r.must(t.Add(&row.Totals))
	}
	total, err := t.Cost.Total()
	r.must(err)
	if total != money.Nanos(n*spend) || t.Calls != 2*n || t.Successes != n || int64(t.Forced) != 23*n {
		r.t.Errorf("%d batches: %+v", n, t)
	}
	if n > 0 && (len(c.Through) != 1 || !c.AsOf.Equal(noon.Add(time.Minute))) {
		r.t.Errorf("coverage %+v", c)
	}
}

func (r *rig) archived() (n int) {
	r.t.Helper()
	for _, err := range r.archive.Batches(0) {
		r.must(err)
		n++
	}
	return n
}

func TestABatchCountsOnceHoweverItComes(t *testing.T) {
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "usage.db"))
	r.committed(0)
	r.committed(1)
	r.must(r.meter.Flush(t.Context()))
	r.counted(2)
	r.must(r.meter.Put(t.Context(), batches(0, 4))) // 2 and 3 were not told of
	r.counted(4)
	r.committed(3)
	r.must(r.meter.Flush(t.Context()))
	r.must(r.meter.Put(t.Context(), batches(0, 4)))
	r.counted(4)
	r.restart()
	r.must(r.meter.Put(t.Context(), batches(2, 5)))
	r.must(r.meter.CatchUp(t.Context()))
	r.counted(5)
	if n := r.archived(); n != 5 {
		t.Errorf("the archive holds %d batches", n)
	}
}

// What was archived and not counted, because the process died in between, is counted at the next start.
func TestTheArchiveIsCountedAtTheStart(t *testing.T) {
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "usage.db"))
	r.must(r.meter.Put(t.Context(), batches(0, 3)))
	r.must(r.archive.Put(t.Context(), batches(3, 1300)))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.meter.Run(ctx); close(done) }()
	for r.meter.Stats().Batches < 1300 || r.meter.Stats().Behind {
		select {
		case <-t.Context().Done():
			t.Fatal("not counted")
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	<-done
	r.counted(1300)
}

// A database that does not answer: batches stay in etcd, until too many do; then they are counted from the archive.
func TestDatabaseDown(t *testing.T) {
	server := storetest.StartPostgres(t)
	r := newRig(t, server.NewDatabase(t))
	r.must(r.meter.Put(t.Context(), batches(0, 2)))
	server.Stop(t)
	r.committed(2)
	if err := r.meter.Flush(t.Context()); !errors.Is(err, store.ErrUsageUnavailable) {
		t.Errorf("flush: %v", err)
	}
	for range 3 {
		if err := r.meter.Put(t.Context(), batches(2, 6)); !errors.Is(err, store.ErrUsageUnavailable) {
			t.Errorf("put: %v", err)
		}
	}
	if n := r.archived(); n != 6 {
		t.Errorf("%d archived", n)
	}
	r.backlog = metering.KeepInEtcd + 1
	r.must(r.meter.Put(t.Context(), batches(2, 8)))
	if s := r.meter.Stats(); !s.Behind || s.QueuedEntries == 0 || s.Failures == 0 {
		t.Errorf("%+v", s)
	}
	if err := r.meter.CatchUp(t.Context()); !errors.Is(err, store.ErrUsageUnavailable) || !r.meter.Stats().Behind {
		t.Errorf("catch up: %v", err)
	}
	server.Start(t)
	r.must(r.meter.Flush(t.Context()))
	r.must(r.meter.CatchUp(t.Context()))
	if r.meter.Stats().Behind {
		t.Error("it is behind")
	}
	r.counted(8)
}

func TestRefusalsAndDecisions(t *testing.T) {
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "usage.db"))
	r.meter.SamplePPM = 1_000_000
	for i := range 7 {
		in := &routing.Input{Now: noon, Call: &routing.Call{Feature: "f", Cohort: "c", Run: fmt.Sprint(i), Labels: map[string]string{"a": "b"}}}
		d := &preflight.Decision{Effect: routing.Deny, Currency: "USD", Reasons: []preflight.Reason{{Code: preflight.CodePolicy}, {Code: preflight.CodeBudgetExhausted, Message: "no"}}}
		if i >= 4 {
			d = &preflight.Decision{Effect: routing.Allow, Model: "m", Currency: "USD"}
		}
		r.meter.Decided(in, d)
	}
	r.must(r.meter.Flush(t.Context()))
	rows, _, err := r.db.Sum(t.Context(), usage.Query{From: noon, To: noon.Add(time.Hour), By: []string{usage.DimFeature, usage.DimCohort, usage.DimEffect}})
	r.must(err)
	if len(rows) != 1 || rows[0].Refused != 4 || rows[0].Calls != 0 || rows[0].Keys[2] != "deny" {
		t.Errorf("%+v", rows)
	}
	list, _, err := r.db.Decisions(t.Context(), usage.DecisionQuery{Limit: 100, Effect: "deny", Reason: "BUDGET_EXHAUSTED"})
	r.must(err)
	if len(list) != 4 || list[0].Run != "3" {
		t.Errorf("%+v", list)
	}
	if list, _, _ = r.db.Decisions(t.Context(), usage.DecisionQuery{Limit: 100}); len(list) != 7 || string(list[0].Data) == "" {
		t.Errorf("%d decisions", len(list))
	}
	for range 3000 {
		r.meter.Decided(&routing.Input{Now: noon, Call: &routing.Call{Feature: "f"}}, &preflight.Decision{Effect: routing.Downgrade})
	}
	r.must(r.meter.Flush(t.Context()))
	if s := r.meter.Stats(); s.DecisionsKept != 2007 || s.DecisionsDropped != 1000 {
		t.Errorf("%+v", s)
	}
}

// What counting costs for each settlement.
func BenchmarkCount(b *testing.B) {
	r := newRig(b, "sqlite:"+filepath.Join(b.TempDir(), "usage.db"))
	path := []ledger.AccountID{{Budget: "leaf"}, {Budget: "team"}, {Budget: "root"}}
	const each = 32 // entries in a batch, as under load
	var all []*ledger.Batch
	for n := range b.N/each + 1 {
		batch := &ledger.Batch{Owner: "o", N: uint64(n)}
		for i := range each {
			batch.Entries = append(batch.Entries, &ledger.Entry{
				Seq: uint64(n*each + i + 1), Kind: ledger.KindSettle, Amount: 100, Path: path, Usage: usage.Usage{InputTokens: 5, OutputTokens: 7},
				Cost: usage.Cost{Input: 60, Output: 40}, Counts: ledger.Counts{Calls: 1, Successes: 1}, Outcome: usage.OutcomeSuccess, Time: noon, Batch: batch,
				Call: ledger.Call{Feature: fmt.Sprint("f", i%8), Model: "m", Tier: "t", Cohort: "c", Effect: routing.Allow, Time: noon},
			})
		}
		all = append(all, batch)
	}
	b.ResetTimer()
	for i, batch := range all {
		r.meter.Committed(batch)
		if i%300 == 299 || i == len(all)-1 { // about a second's
			r.must(r.meter.Flush(b.Context()))
		}
	}
}
