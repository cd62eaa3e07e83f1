package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	"github.com/chartergate/chartergate/server/preflight"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

var (
	millionsFlag  = flag.Int("settlements", 30_000, "settlements of TestMillions")
	millionsClock = flag.Int("millions-clock", 60, "how much faster than the real clock that of TestMillions runs; 1 keeps the most in etcd")
	millionsRate  = flag.Int("millions-rate", 0, "settlements a second of TestMillions; 0: as many as it can")
)

// fastClock makes the wall clock go faster than the boot clock, by which ownership goes.
type fastClock struct {
	preflight.Waiter
	start time.Time
	rate  time.Duration
}

func (c fastClock) Now() time.Time      { return c.start.Add(time.Since(c.start) * c.rate) }
func (c fastClock) Boot() time.Duration { return time.Since(c.start) }

type noMetrics struct{}

func (noMetrics) Decision(routing.Effect)            {}
func (noMetrics) ReserveSeconds(float64)             {}
func (noMetrics) SettleSeconds(float64)              {}
func (noMetrics) Batch(int, float64)                 {}
func (noMetrics) RefusedElsewhere(money.Nanos)       {}
func (noMetrics) PolicyFailed(routing.PolicyFailure) {}
func (noMetrics) Event(preflight.Event)              {}
func (noMetrics) Alert()                             {}

const millionsFeatures = 20

// millionsCompany is budgets that no test uses up: 20 features, each with its own, under one.
func millionsCompany(t *testing.T, control *etcd.Control) {
	t.Helper()
	period, err := charter.NewPeriod(charter.Year, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	owner := charter.Owner{Name: "Ada"}
	price := pricing.New("small", time.Now().AddDate(-1, 0, 0), "USD", map[pricing.Unit]money.Nanos{pricing.Input: money.Unit, pricing.Output: 2 * money.Unit})
	records := []charter.Record{
		&charter.Catalog{Tiers: []charter.Tier{{ID: "economy"}}, Models: []charter.Model{{ID: "small", Provider: "lab", Tier: "economy", Capabilities: []string{"chat"}, ContextTokens: 100_000, MaxOutputTokens: 10_000}}},
		&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{price}},
		&charter.Budget{ID: "org", Owner: owner, Limit: 1e9 * money.Unit, Currency: "USD", Period: period},
	}
	for i := range millionsFeatures {
		id := fmt.Sprintf("feature-%d", i)
		records = append(records, &charter.Budget{ID: id, Parent: "org", Owner: owner, Limit: 1e8 * money.Unit, Currency: "USD", Period: period},
			&charter.Charter{ID: id, Owner: owner, Team: "t", Stage: charter.StageProduction, Budget: id})
	}
	_, err = control.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		var changes []charter.Change
		for _, r := range records {
			changes = append(changes, charter.Set(r))
		}
		return changes, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// settledCall is one that the test settles again later.
type settledCall struct {
	token string
	used  usage.Usage
	cost  money.Nanos
}

// Millions of settlements leave etcd and memory bounded, are in the archive once each, and add up to the ledger.
func TestMillions(t *testing.T) {
	dir, clock := t.TempDir(), fastClock{start: time.Now(), rate: time.Duration(*millionsClock)}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	server, err := embedded.Start(t.Context(), dir, log)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client := server.Client()
	control, err := etcd.OpenControl(t.Context(), client, log, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	millionsCompany(t, control)
	decider, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	out, err := archive.Open(filepath.Join(dir, "archive"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	gate, err := preflight.Start(t.Context(), preflight.Config{
		Control: control, Ledger: etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client, Watcher: client, Exclusive: true, Now: clock.Now}), Decider: decider, Clock: clock, Metrics: noMetrics{}, Log: log, Outbox: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- gate.Run(running) }()
	go etcd.NewCompactor(client, log).Run(running)

	total := int64(*millionsFlag)
	began := time.Now()
	report := func(n int64) {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		s, err := client.Status(t.Context(), "")
		if err != nil {
			t.Error(err)
			return
		}
		batches, bytes := gate.JournalLag()
		t.Logf("%9d settled in %6.1f s: database file %6.1f MiB, in use %6.1f MiB; journal %5d batches, %5.1f MiB; live heap %6.1f MiB (etcd's included)",
			n, time.Since(began).Seconds(), float64(s.DbSize)/(1<<20), float64(s.DbSizeInUse)/(1<<20), batches, float64(bytes)/(1<<20), float64(m.HeapAlloc)/(1<<20))
		if s.DbSize > 200<<20 { // with the history of 40 s, which is large at full speed
			t.Errorf("the database has %d MiB after %d settlements", s.DbSize>>20, n)
		}
	}
	var done, spent atomic.Int64
	var broken atomic.Bool
	var mu sync.Mutex
	var again []settledCall
	var all sync.WaitGroup
	for range 512 {
		all.Go(func() {
			for {
				n := done.Add(1)
				if n > total || broken.Load() {
					return
				}
				if *millionsRate > 0 {
					<-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(*millionsRate))))
				}
				in := 100 + rand.Int64N(900)
				call := &routing.Call{
					Feature: fmt.Sprintf("feature-%d", n%millionsFeatures), TaskClass: "chat", User: fmt.Sprintf("user-%d", n%1000),
					Tier: "economy", Model: "small", Estimate: routing.Estimate{InputTokens: in, MaxOutputTokens: 500},
				}
				_, h, err := gate.Reserve(t.Context(), call, 0)
				if err != nil || h == nil {
					t.Errorf("reserve: %v, %v", h, err)
					broken.Store(true)
					return
				}
				used := usage.Usage{InputTokens: in, OutputTokens: rand.Int64N(500)}
				st, err := gate.Settle(t.Context(), h.Token, &used, "", usage.OutcomeSuccess)
				if err != nil {
					t.Errorf("settle: %v", err)
					broken.Store(true)
					return
				}
				spent.Add(int64(st.Cost))
				if n%max(1, total/200) == 0 {
					mu.Lock()
					again = append(again, settledCall{h.Token, used, st.Cost})
					mu.Unlock()
				}
				if n%max(1, total/20) == 0 {
					report(n)
				}
			}
		})
	}
	all.Wait()
	eventually(t, 3*time.Minute, "the journal is collected", func() bool { n, _ := gate.JournalLag(); return n == 0 })
	report(total)

	missed := 0
	for _, c := range again {
		st, err := gate.Settle(t.Context(), c.token, &c.used, "", usage.OutcomeSuccess)
		if err != nil || st.Cost != c.cost || st.Forced != 0 || st.Late || !st.Time.IsZero() || st.Journal != "" {
			t.Errorf("settled again: %+v, error %v; the first cost %s", st, err, c.cost)
		}
		c.used.InputTokens++
		if _, err := gate.Settle(t.Context(), c.token, &c.used, "", usage.OutcomeSuccess); err == nil {
			missed++ // once in 8,192 times
		} else if !errors.Is(err, ledger.ErrSettled) {
			t.Errorf("settled again at another cost: %v", err)
		}
	}
	if len(again) < 100 || missed > 2 {
		t.Errorf("%d of %d settlements at another cost are taken for the first", missed, len(again))
	}
	if st, err := gate.Status(t.Context(), "budgets/org"); err != nil || int64(st.Settled) != spent.Load() {
		t.Errorf("the ledger says %+v, error %v; %d was settled", st, err, spent.Load())
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	entries, sum, err := archived(filepath.Join(dir, "archive"))
	if err != nil || entries != total || sum != spent.Load() {
		t.Errorf("the archive holds %d settlements of %d nanos in all, error %v; want %d of %d", entries, sum, err, total, spent.Load())
	}
}

// archived adds up what is in an archive.
func archived(dir string) (entries, sum int64, err error) {
	r, err := archive.NewReader(dir)
	if err != nil {
		return 0, 0, err
	}
	for b, err := range r.Batches() {
		if err != nil {
			return entries, sum, err
		}
		var batch storev1.Batch
		if err := proto.Unmarshal(b.Data, &batch); err != nil {
			return entries, sum, err
		}
		for _, e := range batch.GetEntries() {
			entries++
			sum += e.GetAmount()
		}
	}
	return entries, sum, nil
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("did not happen: %s", what)
		case <-tick.C:
		}
	}
}
