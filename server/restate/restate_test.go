package restate_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/proto/convert"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
	"github.com/chartergate/chartergate/server/restate"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
	"github.com/chartergate/chartergate/store/mem"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

var (
	january = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now     = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	// The correction begins and ends within an hour.
	begins = time.Date(2026, 11, 20, 6, 30, 0, 0, time.UTC)
	ends   = time.Date(2026, 11, 22, 18, 15, 0, 0, time.UTC)
)

// rig is a server's stores, with what restates.
type rig struct {
	t       *testing.T
	control *mem.Control
	db      *sql.Store
	etcd    *clientv3.Client
	archive *archive.Archive
	meter   *metering.Meter
	restate.Restater
	entries []*storev1.Entry // all that were made
	n       uint64
	step    time.Duration // between calls
}

func newRig(t *testing.T, url string) *rig {
	t.Helper()
	r := &rig{t: t, step: 13 * time.Minute, control: mem.NewControl(func() time.Time { return now })}
	server, err := embedded.Start(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	r.must(err)
	t.Cleanup(func() { _ = server.Close() })
	r.etcd = server.Client()
	if url == "" {
		url = "sqlite:" + filepath.Join(t.TempDir(), "usage.db")
	}
	r.db, err = sql.Open(t.Context(), url, sql.Options{})
	r.must(err)
	r.archive, err = archive.Open(t.TempDir(), 0)
	r.must(err)
	t.Cleanup(func() { r.must(errors.Join(r.db.Close(), r.archive.Close())) })
	r.meter = metering.New(metering.Config{Store: r.db, Control: r.control, Archive: r.archive, Decode: etcd.ReadBatch, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	r.Restater = restate.Restater{
		Usage: r.db, Control: r.control, Archives: r.archive.With(), Decode: etcd.ReadBatch, Attribution: r.meter.Attribution,
		Journal: func(ctx context.Context, each func(store.OutboxBatch) error) error {
			return etcd.Journals(ctx, r.etcd, each)
		},
		Keep: r.meter.DaysFor, Now: func() time.Time { return now },
	}
	day, err := charter.NewPeriod(charter.Day, "UTC", time.Time{}, time.Time{})
	r.must(err)
	ada := charter.Owner{Name: "Ada Bauer", Email: "ada@example.com"}
	r.commit(
		&charter.Budget{ID: "us", DisplayName: "us", Owner: ada, Limit: money.Unit, Currency: "USD", Period: day},
		&charter.Budget{ID: "eu", DisplayName: "eu", Owner: ada, Limit: money.Unit, Currency: "EUR", Period: day},
		&charter.Catalog{Tiers: []charter.Tier{{ID: "economy"}}, Models: []charter.Model{{ID: "lab/m", Provider: "lab", Tier: "economy", ContextTokens: 1000, MaxOutputTokens: 100}}},
	)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) commit(list ...charter.Record) {
	r.t.Helper()
	_, err := r.control.Commit(r.t.Context(), func(*charter.Snapshot) (changes []charter.Change, err error) {
		for _, x := range list {
			changes = append(changes, charter.Set(x))
		}
		return changes, nil
	})
	r.must(err)
}

const (
	oldIn, oldOut = 1_000_000_007, 2_000_000_011 // nanos per million tokens
	newIn, newOut = 1_100_000_003, 1_700_000_019
)

func priced(effective time.Time, in, out money.Nanos, t *testing.T) *pricing.Price {
	p := pricing.New("lab/m", effective, "USD", map[pricing.Unit]money.Nanos{pricing.Input: in, pricing.Output: out})
	p.Book = "priceBooks/lab"
	if err := p.SetVariants([]pricing.Variant{{ServiceTier: "batch", Multiplier: pricing.NewRatio(1, 2)}}); err != nil {
		t.Fatal(err)
	}
	return p
}

// book sets the price book, with corrections of the price of January.
func (r *rig) book(corrections ...*pricing.Price) {
	r.t.Helper()
	list := []*pricing.Price{priced(january, oldIn, oldOut, r.t)}
	for _, p := range corrections {
		p.Corrects = &pricing.Corrected{Effective: january, Reason: "the page was read wrong"}
		list = append(list, p)
	}
	r.commit(&charter.PriceBook{
		ID: "lab", Currency: "USD", Prices: list, Adjustments: []pricing.Adjustment{{Model: "lab/*", Factor: pricing.NewRatio(85, 100)}},
		Rates: []pricing.ExchangeRate{{From: "USD", To: "EUR", Effective: january, Rate: pricing.NewRatio(92, 100)}},
	})
}

func (r *rig) correction(in, out money.Nanos, from, to time.Time) *pricing.Price {
	p := priced(from, in, out, r.t)
	p.Expires = to
	return p
}

// cost is what an entry costs at some rates, computed apart from the prices.
func cost(e *storev1.Entry, in, out, eur, usd int64) money.Nanos {
	var u pb.Usage
	if err := proto.Unmarshal(e.Usage, &u); err != nil {
		panic(err)
	}
	x := new(big.Int).Add(new(big.Int).Mul(big.NewInt(u.InputTokens), big.NewInt(in)), new(big.Int).Mul(big.NewInt(u.OutputTokens), big.NewInt(out)))
	n, d := int64(85), int64(100*1_000_000)
	if e.ServiceTier == "batch" {
		d *= 2
	}
	if e.Path[0] == 1 {
		n, d = n*eur, d*usd
	}
	x.Mul(x, big.NewInt(2*n)).Add(x, big.NewInt(d)).Div(x, big.NewInt(2*d)) // half up
	return money.Nanos(x.Int64())
}

// batch makes a batch of settlements, some before, some in and some after the time of the correction.
func (r *rig) batch(owner string) store.OutboxBatch {
	r.t.Helper()
	b := &storev1.Batch{Accounts: []*storev1.Account{{Budget: "us"}, {Budget: "eu"}}, TimeMs: now.UnixMilli()}
	for i := range 4 {
		at := begins.Add(-7*time.Hour + time.Duration(4*r.n+uint64(i))*r.step)
		u := usage.Usage{InputTokens: int64(100 + 37*r.n + uint64(i)), OutputTokens: int64(11 + 3*r.n)}
		data, err := proto.Marshal(convert.UsageToProto(&u))
		r.must(err)
		e := &storev1.Entry{
			Seq: 4*r.n + uint64(i) + 1, Kind: storev1.EntryKind_ENTRY_KIND_SETTLE, Path: []uint32{uint32(r.n+uint64(i)) % 2}, Feature: fmt.Sprint("f", i%3), Model: "lab/m", Tier: "economy",
			Cohort: []string{"", "free", "pro"}[r.n%3], Effect: int32(routing.Allow), CallMs: at.UnixMilli(), TimeMs: now.UnixMilli(), Calls: 1, Usage: data,
		}
		if i == 3 {
			e.ServiceTier = "batch"
		}
		e.Amount = int64(cost(e, oldIn, oldOut, 92, 100))
		e.Cost = &storev1.Cost{Input: e.Amount}
		b.Entries = append(b.Entries, e)
	}
	r.entries = append(r.entries, b.Entries...)
	data, err := proto.Marshal(b)
	r.must(err)
	r.n++
	return store.OutboxBatch{Owner: owner, Data: data}
}

// settle makes batches of an owner from a number on, counts them, and leaves them in etcd or in the archive.
func (r *rig) settle(owner string, from, to uint64, archived bool) {
	r.t.Helper()
	for n := from; n < to; n++ {
		b := r.batch(owner)
		b.N = n
		if archived {
			r.must(r.meter.Put(r.t.Context(), []store.OutboxBatch{b}))
			continue
		}
		_, err := r.etcd.Put(r.t.Context(), fmt.Sprintf("%sjr/%s/%016x", etcd.Prefix, owner, n), string(b.Data))
		r.must(err)
		batch, err := etcd.ReadBatch(b)
		r.must(err)
		r.meter.Committed(batch)
	}
	r.must(r.meter.Flush(r.t.Context()))
}

// want is what a correction with some rates changes of all entries between two times, by currency.
func (r *rig) want(in, out int64, from, to time.Time) (n int64, was, is map[string]money.Nanos) {
	was, is = map[string]money.Nanos{}, map[string]money.Nanos{}
	for _, e := range r.entries {
		if at := time.UnixMilli(e.CallMs); !at.Before(from) && at.Before(to) {
			n++
			currency := []string{"USD", "EUR"}[e.Path[0]]
			was[currency] += money.Nanos(e.Amount)
			is[currency] += cost(e, in, out, 92, 100)
		}
	}
	return n, was, is
}

// adjusted sums the adjustments in two ways: of their list and of the reports.
func (r *rig) adjusted() map[string]money.Nanos {
	r.t.Helper()
	list, err := r.db.Adjustments(r.t.Context(), january, now.AddDate(1, 0, 0), 1e6)
	r.must(err)
	sum, reported := map[string]money.Nanos{}, map[string]money.Nanos{}
	for _, a := range list {
		sum[a.Currency] += a.Amount
	}
	rows, _, err := r.db.Sum(r.t.Context(), usage.Query{From: january, To: now.AddDate(1, 0, 0), Where: map[string][]string{usage.DimEffect: {usage.EffectAdjustment}}})
	r.must(err)
	for _, row := range rows {
		total, err := row.Cost.Total()
		r.must(err)
		reported[row.Currency] += total
	}
	for c := range sum {
		if sum[c] != reported[c] {
			r.t.Errorf("%s adjusted by %s, reported %s", c, sum[c], reported[c])
		}
	}
	return sum
}

// posts accepts, and checks that what was ever posted is the difference.
func (r *rig) posts(what string, in, out int64, from, to time.Time) *restate.Result {
	r.t.Helper()
	res, err := r.Restate(r.t.Context(), "", true)
	r.must(err)
	if !res.Accepted {
		r.t.Errorf("%s: not accepted", what)
	}
	r.is(what, in, out, from, to)
	return res
}

func (r *rig) is(what string, in, out int64, from, to time.Time) {
	r.t.Helper()
	_, was, is := r.want(in, out, from, to)
	adjusted := r.adjusted()
	for _, c := range []string{"USD", "EUR"} {
		if sum := adjusted[c]; sum != is[c]-was[c] {
			r.t.Errorf("%s: %s adjusted by %s, want %s", what, c, sum, is[c]-was[c])
		}
	}
}

func adjustments(res *restate.Result) (n int64) {
	for _, s := range res.Sums {
		n += s.Adjustments
	}
	return n
}

func TestRestate(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { restates(t, "") })
	t.Run("PostgreSQL", func(t *testing.T) { restates(t, storetest.StartPostgres(t).NewDatabase(t)) })
}

func restates(t *testing.T, url string) {
	r := newRig(t, url)
	r.book()
	r.settle("a", 0, 60, true)
	r.settle("a", 60, 100, false)
	if res, err := r.Restate(t.Context(), "", true); err != nil || len(res.Sums) != 0 || len(res.Missing) != 0 {
		t.Fatalf("nothing to restate: %+v (%v)", res, err)
	}
	r.book(r.correction(newIn, newOut, begins, ends))
	res, err := r.Restate(t.Context(), "", false)
	r.must(err)
	n, was, is := r.want(newIn, newOut, begins, ends)
	var entries int64
	for _, s := range res.Sums {
		entries += s.Entries
		if s.Settled != was[s.Currency] || s.Restated != is[s.Currency] || s.Difference != is[s.Currency]-was[s.Currency] || s.Difference == 0 || s.Posted != 0 ||
			s.Correction != "lab/m@2026-11-20T06:30:00Z" || s.Corrects != "priceBooks/lab lab/m from 2026-01-01T00:00:00Z" || s.Hours < 50 {
			t.Errorf("%+v, want %s and %s", s, was[s.Currency], is[s.Currency])
		}
	}
	if len(res.Sums) != 2 || entries != n || n < 200 || int(n) == len(r.entries) || res.InEtcd != 160 || res.InArchives != 240 || len(res.Missing) != 0 || len(res.Unrestated) != 0 || len(r.adjusted()) != 0 {
		t.Errorf("%d of %d entries: %+v", entries, n, res)
	}
	first := r.posts("first", newIn, newOut, begins, ends)
	if again := r.posts("again", newIn, newOut, begins, ends); adjustments(first) == 0 || adjustments(again) != 0 {
		t.Errorf("%d, then %d adjustments", adjustments(first), adjustments(again))
	}
	r.n = 60 // late: into hours that are restated already
	r.settle("b", 0, 20, false)
	if late := r.posts("late", newIn, newOut, begins, ends); adjustments(late) == 0 || adjustments(late) > 80 {
		t.Errorf("%d adjustments of 80 late settlements", adjustments(late))
	}
	r.book(r.correction(newIn+70_000, newOut, begins, ends)) // the correction was wrong too
	r.posts("corrected correction", newIn+70_000, newOut, begins, ends)
	from := begins.Add(5 * time.Hour)
	r.book(r.correction(newIn+70_000, newOut, from, ends)) // and too early
	if res := r.posts("moved correction", newIn+70_000, newOut, from, ends); len(res.Sums) != 4 {
		t.Errorf("%+v", res.Sums)
	}
	r.book()
	r.posts("no correction", oldIn, oldOut, from, ends)
	if again := r.posts("still none", oldIn, oldOut, from, ends); adjustments(again) != 0 {
		t.Errorf("%d adjustments", adjustments(again))
	}
	if _, err := r.Restate(t.Context(), "lab/m@2025-01-01T00:00:00Z", false); !errors.Is(err, restate.ErrUnknown) {
		t.Errorf("an unknown correction: %v", err)
	}
}

// Settlements that came after the correction were settled at it.
func TestSettledAtTheCorrection(t *testing.T) {
	r := newRig(t, "")
	r.book(r.correction(oldIn, oldOut, begins, ends))
	r.settle("a", 0, 50, false)
	if res := r.posts("none", oldIn, oldOut, begins, ends); adjustments(res) != 0 || len(res.Sums) != 2 || res.Sums[0].Difference != 0 {
		t.Errorf("%+v", res)
	}
}

// dying is a usage store that is gone after some batches of adjustments.
type dying struct {
	store.Usage
	left int
}

func (d *dying) Adjust(ctx context.Context, list []usage.Adjustment) error {
	if d.left--; d.left < 0 {
		return store.ErrUsageUnavailable
	}
	return d.Usage.Adjust(ctx, list)
}

func TestAKilledRestatementGoesOn(t *testing.T) {
	r := newRig(t, "")
	r.book()
	r.step = 2 * time.Minute // more attributions than one transaction posts
	r.settle("a", 0, 500, false)
	r.book(r.correction(newIn, newOut, begins, ends))
	all, err := r.Restate(t.Context(), "", false)
	r.must(err)
	r.Usage = &dying{r.db, 1}
	if _, err := r.Restate(t.Context(), "", true); !errors.Is(err, store.ErrUsageUnavailable) {
		t.Fatalf("killed: %v", err)
	}
	if list, err := r.db.Adjustments(t.Context(), january, now, 1e6); err != nil || len(list) == 0 || int64(len(list)) >= adjustments(all) {
		t.Fatalf("%d of %d adjustments were posted (%v)", len(list), adjustments(all), err)
	}
	r.Usage = r.db
	var posted sync.WaitGroup
	for range 4 { // at once
		posted.Go(func() {
			if _, err := r.Restate(t.Context(), "", true); err != nil && !errors.Is(err, restate.ErrConflict) {
				t.Error(err)
			}
		})
	}
	posted.Wait()
	if res := r.posts("resumed", newIn, newOut, begins, ends); adjustments(res) != 0 || adjustments(all) == 0 {
		t.Errorf("%d adjustments are left of %d", adjustments(res), adjustments(all))
	}
}

// What another server has settled and archived is told, and nothing is posted until its archive is read.
func TestAnotherServersArchive(t *testing.T) {
	r := newRig(t, "")
	r.book()
	r.settle("a", 0, 40, true)
	dir := t.TempDir()
	other, err := archive.Open(dir, 0)
	r.must(err)
	mine := r.meter.Archive
	r.meter.Archive = other
	r.settle("b", 0, 10, true)
	r.meter.Archive = mine
	r.settle("b", 10, 12, true) // as after a takeover
	r.must(other.Close())
	r.book(r.correction(newIn, newOut, begins, ends))
	res, err := r.Restate(t.Context(), "", true)
	if !errors.Is(err, restate.ErrIncomplete) || len(r.adjusted()) != 0 || !strings.Contains(err.Error(), "batch 0 of the journal of server b, counted up to 11") ||
		!strings.Contains(strings.Join(res.Missing, "\n"), "lab/m on 2026-11-2") {
		t.Fatalf("%v: %+v", err, res)
	}
	r.Archives = r.archive.With(dir)
	if res := r.posts("with the other archive", newIn, newOut, begins, ends); adjustments(res) == 0 || res.Archives != 2 {
		t.Errorf("%+v", res)
	}
}
