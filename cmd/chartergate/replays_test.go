package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/internal/dataset"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

// replayCompany has four features on models with and without a price for cache writes. The prices of the economy tier do not come out even, so that rounding shows.
const replayCompany = `
kind: Catalog
tiers: [{id: economy}, {id: premium}]
models:
  - {id: gpt-5-mini, provider: openai, tier: economy, capabilities: [chat, json, tools], context_tokens: 400_000, max_output_tokens: 64_000}
  - {id: claude-sonnet-4-5, provider: anthropic, tier: premium, capabilities: [chat, json, tools], context_tokens: 400_000, max_output_tokens: 64_000}
---
kind: PriceBook
name: vendors
currency: USD
prices:
  - {model: gpt-5-mini, effective_time: 2026-01-01, input: 0.252345679, cache_read: 0.025234567, output: 2.000011113, source: test}
  - {model: claude-sonnet-4-5, effective_time: 2026-01-01, input: 3, cache_read: 0.3, cache_write_5m: 3.75, cache_write_1h: 6, output: 15, source: test}
---
{kind: Budget, name: acme, owner: {name: Ada}, limit: 100000, currency: USD, period: {calendar: year}}
---
{kind: Budget, name: support, parent: acme, owner: {name: Ben}, limit: 50000, period: {calendar: year}}
---
{kind: Budget, name: lab, owner: {name: Dea}, limit: 50000, currency: USD, period: {calendar: year}}
---
{kind: Charter, name: copilot, owner: {name: Ben}, team: support, stage: production, budget: support, labels: {product: desk}, exhausted: {mode: deny}}
---
{kind: Charter, name: triage, owner: {name: Cem}, team: support, stage: production, budget: support, permitted_tiers: [economy], exhausted: {mode: deny}}
---
{kind: Charter, name: assistant, owner: {name: Dea}, team: lab, stage: production, budget: lab, labels: {product: lab}, exhausted: {mode: deny}}
---
{kind: Charter, name: cached, owner: {name: Dea}, team: lab, stage: production, budget: lab, permitted_tiers: [premium], exhausted: {mode: deny}}
`

// sliceOfTraces is how many rows of each trace a test sends; CHARTERGATE_REPLAYS=all sends all.
const sliceOfTraces = 600

func traceRows(t *testing.T, format replay.Format, file string) []replay.Row {
	t.Helper()
	f, err := os.Open(dataset.File(t, "traces/"+file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := replay.Read(format, file, f)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("CHARTERGATE_REPLAYS") != "all" {
		rows = replay.Limit(rows, sliceOfTraces)
	}
	var list []replay.Row
	for row, err := range rows {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, row)
	}
	return list
}

// replays is a company whose traces are replayed.
type replays struct {
	t        *testing.T
	dir      string
	database string
	args     []string
	server   *childServer
	client   *chartergate.Client

	mu       sync.Mutex
	settled  money.Nanos // acknowledged
	calls    int64
	used     usage.Usage
	answered chan struct{}
}

func newReplays(t *testing.T, database string) *replays {
	t.Helper()
	r := &replays{t: t, dir: t.TempDir(), database: database, answered: make(chan struct{}, 1<<16)}
	if r.database == "" {
		r.database = "sqlite:" + filepath.Join(r.dir, "data", "usage.db")
	}
	var addrs [2]string
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	r.args = []string{"serve", "--data-dir", filepath.Join(r.dir, "data"), "--grpc-addr", addrs[0], "--http-addr", addrs[1], "--max-hold", "2s", "--database-url", r.database}
	r.start()
	t.Cleanup(func() { stopChild(t, r.server) })
	var err error
	if r.client, err = chartergate.Dial(addrs[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.client.Close() })
	resources, err := manifest.Parse("company.yaml", []byte(replayCompany))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Manifests.Apply(t.Context(), &pb.ApplyRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *replays) start() {
	r.t.Helper()
	var err error
	if r.server, err = startChild(r.t.Context(), r.dir, r.args[4], r.args[6], r.args...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *replays) run(rows []replay.Row, o replay.Options) *replay.Result {
	o.Concurrency, o.RetryFor = 16, 2*time.Minute
	result, err := replay.Run(r.t.Context(), o, r.client.Preflight, func(yield func(replay.Row, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	}, func(a *replay.Answer) {
		r.mu.Lock()
		if s := a.Settlement; s != nil {
			r.settled += money.Nanos(s.GetCostNanos())
			r.calls++
			used := usage.Usage{InputTokens: a.Row.InputTokens - a.Row.CachedTokens - a.Row.WrittenTokens, CacheReadTokens: a.Row.CachedTokens,
				CacheWrite5mTokens: a.Row.WrittenTokens, OutputTokens: a.Row.OutputTokens}
			if !r.used.Add(&used) {
				r.t.Error("the usage does not fit")
			}
		}
		r.mu.Unlock()
		select {
		case r.answered <- struct{}{}:
		default:
		}
	})
	if err != nil || result.Errors > 0 {
		r.t.Errorf("%v; %d rows have no answer: %s", err, result.Errors, result.FirstError)
	}
	return result
}

// kill ends the server after so many answers, and starts it again.
func (r *replays) kill(after int) {
	for range after {
		select {
		case <-r.answered:
		case <-time.After(time.Minute):
			r.t.Errorf("no answer for a minute:\n%s", r.server.logTail())
			return
		}
	}
	if err := r.server.cmd.Process.Kill(); err != nil {
		r.t.Error(err)
	}
	<-r.server.exited
	r.start()
	r.t.Logf("killed after %d answers, up again after %s", after, r.server.startTime.Round(time.Millisecond))
}

func mixOf(t *testing.T, s string) replay.Mix {
	t.Helper()
	m, err := replay.ParseMix(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Both traces, for several features, tiers and cohorts, on either database, with the server killed meanwhile: what reports
// allocate by every dimension, what the database holds and what the ledger has settled are the same to the nano.
func TestReplaysAddUp(t *testing.T) {
	if testing.Short() {
		t.Skip("replays traces on a real server, which takes some seconds")
	}
	azure, mooncake := traceRows(t, replay.AzureLLM, "azure-llm-2023-conv.csv"), traceRows(t, replay.Mooncake, "mooncake-conversation.jsonl")
	for name, database := range map[string]func(*testing.T) string{
		"sqlite":   func(*testing.T) string { return "" },
		"postgres": func(t *testing.T) string { return storetest.StartPostgres(t).NewDatabase(t) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplays(t, database(t))
			success := int64(92)
			prices, err := chargedWrites(t.Context(), r.client.Prices)
			if err != nil {
				t.Fatal(err)
			}
			var load sync.WaitGroup
			load.Go(func() {
				r.run(azure, replay.Options{RunID: "azure", Features: mixOf(t, "copilot=3,triage"), Cohorts: mixOf(t, "free=3,pro,50% off"), Tiers: mixOf(t, "economy,premium"), SuccessPercent: &success})
			})
			load.Go(func() {
				r.run(mooncake, replay.Options{RunID: "mooncake", Features: mixOf(t, "assistant=2,copilot"), Tiers: mixOf(t, "premium,economy"), CacheTTL: 5 * time.Minute,
					CacheWrites: prices, Recorded: time.Now(), SuccessPercent: &success})
			})
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			all := len(azure) + len(mooncake)
			kills, random := 1, rand.New(rand.NewPCG(seed, 1))
			if os.Getenv("CHARTERGATE_REPLAYS") == "all" {
				kills = 3
			}
			for range kills {
				r.kill((all/4 + random.IntN(all/2)) / kills)
			}
			load.Wait()
			if r.calls < int64(all)*9/10 {
				t.Errorf("%d of %d calls were settled", r.calls, all)
			}
			r.check()
		})
	}
}

// check compares all sums.
func (r *replays) check() {
	t := r.t
	t.Helper()
	var ledger money.Nanos
	for _, root := range []string{"budgets/acme", "budgets/lab"} {
		s, err := r.client.Budgets.GetBudgetStatus(t.Context(), &pb.GetBudgetStatusRequest{Name: root})
		if err != nil {
			t.Fatal(err)
		}
		ledger += money.Nanos(s.GetSettledNanos())
	}
	if ledger != r.settled {
		t.Fatalf("the ledger has settled %s, acknowledged were %s", ledger, r.settled)
	}
	r.awaitCounted(ledger)
	dimensions := append(slices.Clone(usage.Dimensions), "label:product")
	by := [][]string{nil, {"feature", "tier", "cohort"}, {"team", "model", "effect", "label:product"}}
	for _, d := range dimensions {
		by = append(by, []string{d})
	}
	for _, by := range by {
		a := r.allocation(by)
		if len(a.GetTables()) != 1 {
			t.Fatalf("by %v: %d tables", by, len(a.GetTables()))
		}
		table := a.GetTables()[0]
		var sum, components money.Nanos
		var calls, input int64
		for _, row := range append(table.GetRows(), table.GetRest()) {
			c, u := row.GetTotals().GetComponents(), row.GetTotals().GetUsage()
			sum += money.Nanos(row.GetTotals().GetCostNanos())
			components += money.Nanos(c.GetInputNanos() + c.GetContextOverheadNanos() + c.GetOutputNanos() + c.GetRetrievalNanos() + c.GetToolsNanos() + c.GetComputeNanos() + c.GetOtherNanos())
			calls += row.GetTotals().GetCalls()
			input += u.GetInputTokens() + u.GetCacheReadTokens() + u.GetCacheWrite_5MTokens()
		}
		if total := money.Nanos(table.GetTotal().GetTotals().GetCostNanos()); sum != ledger || total != ledger || components != ledger {
			t.Errorf("by %v: rows %s, total %s, components %s; the ledger has settled %s", by, sum, total, components, ledger)
		}
		if calls != r.calls || input != r.used.AllInput() {
			t.Errorf("by %v: %d calls with %d input tokens, want %d and %d", by, calls, input, r.calls, r.used.AllInput())
		}
	}
	stopChild(t, r.server)
	db, err := sql.Open(t.Context(), r.database, sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	to := time.Now().Truncate(time.Hour).Add(time.Hour)
	for _, d := range dimensions {
		for _, step := range []usage.Step{usage.Whole, usage.Hour, usage.Month} {
			rows, _, err := db.Sum(t.Context(), usage.Query{From: to.Add(-48 * time.Hour), To: to, By: []string{d}, Step: step})
			if err != nil {
				t.Fatal(err)
			}
			var sum usage.Totals
			for i := range rows {
				if err := sum.Add(&rows[i].Totals); err != nil {
					t.Fatal(err)
				}
			}
			if cost, err := sum.Cost.Total(); err != nil || cost != ledger || sum.Calls != r.calls || sum.Successes+sum.Failures != r.calls {
				t.Errorf("rollups by %s: %s of %d calls, %d with an outcome, error %v; want %s of %d", d, cost, sum.Calls, sum.Successes+sum.Failures, err, ledger, r.calls)
			}
			if got, want := sum.Usage, r.used; got.InputTokens != want.InputTokens || got.CacheReadTokens != want.CacheReadTokens ||
				got.CacheWrite5mTokens != want.CacheWrite5mTokens || got.OutputTokens != want.OutputTokens {
				t.Errorf("rollups by %s: used %+v, want %+v", d, got, want)
			}
		}
	}
	t.Logf("%d calls, ledger = acknowledged = allocation by %d groupings = rollups by %d dimensions: %s", r.calls, len(by), len(dimensions), ledger)
}

func (r *replays) allocation(by []string) *pb.Allocation {
	a, err := r.client.Reports.GetAllocation(r.t.Context(), &pb.GetAllocationRequest{
		Window: &pb.ReportWindow{Last: durationpb.New(48 * time.Hour)}, By: by, MaxRows: 7, Verify: len(by) == 0,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// awaitCounted waits until reports have counted what the ledger has settled, and say so.
func (r *replays) awaitCounted(ledger money.Nanos) {
	r.t.Helper()
	var last string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		a := r.allocation(nil)
		var differ, counted int64
		for _, c := range a.GetLedger() {
			differ += max(c.GetDifferenceNanos(), -c.GetDifferenceNanos())
		}
		for _, t := range a.GetTables() {
			counted += t.GetTotal().GetTotals().GetCostNanos()
		}
		if differ == 0 && money.Nanos(counted) == ledger {
			return
		}
		last = fmt.Sprintf("%s counted, %s differ", money.Nanos(counted), money.Nanos(differ))
	}
	r.t.Fatalf("the ledger has settled %s, and after a minute reports say: %s", ledger, last)
}

// What prompt caching saves of the Mooncake trace with 5 minutes to live: the report says what a second calculation says,
// which has only the trace and the price list.
func TestReplayedCacheSaving(t *testing.T) {
	if testing.Short() {
		t.Skip("replays a trace on a real server, which takes some seconds")
	}
	rows := traceRows(t, replay.Mooncake, "mooncake-conversation.jsonl")
	r := newReplays(t, "")
	prices, err := chargedWrites(t.Context(), r.client.Prices)
	if err != nil {
		t.Fatal(err)
	}
	r.run(rows, replay.Options{RunID: "cache", Feature: "cached", CacheTTL: 5 * time.Minute, CacheWrites: prices, Recorded: time.Now()})
	r.awaitCounted(r.settled)

	type sent struct {
		at   time.Duration
		next map[uint64]*sent
	}
	root := &sent{next: map[uint64]*sent{}}
	var read, written, repeatedInHour, input int64
	for _, row := range rows {
		input += row.InputTokens
		if row.InputTokens < 1024 {
			continue
		}
		within := func(ttl time.Duration) (tokens int64) {
			n, blocks := root, int64(0)
			for _, b := range row.Prefix {
				if n = n.next[b]; n == nil || row.At-n.at > ttl {
					break
				}
				blocks++
			}
			if tokens = min(blocks*512, row.InputTokens); tokens < 1024 {
				return 0
			}
			return tokens
		}
		cached := within(5 * time.Minute)
		repeatedInHour += within(time.Hour)
		read, written = read+cached, written+row.InputTokens-cached
		n := root
		for _, b := range row.Prefix {
			if n.next[b] == nil {
				n.next[b] = &sent{next: map[uint64]*sent{}}
			}
			n = n.next[b]
			n.at = row.At
		}
	}
	const in, cacheRead, cacheWrite = 3000, 300, 3750 // nanos a token
	saved := read*(in-cacheRead) - written*(cacheWrite-in)

	o, err := r.client.Reports.GetOptimization(t.Context(), &pb.GetOptimizationRequest{Where: []string{"feature=cached"}})
	if err != nil || len(o.GetFeatures()) != 1 {
		t.Fatalf("%v, %v", o, err)
	}
	f := o.GetFeatures()[0]
	caching, total := f.GetEffects()[0], f.GetEffects()[1]
	if u := f.GetTotals().GetUsage(); u.GetCacheReadTokens() != read || u.GetCacheWrite_5MTokens() != written {
		t.Errorf("%d tokens read and %d written, want %d and %d", u.GetCacheReadTokens(), u.GetCacheWrite_5MTokens(), read, written)
	}
	if caching.GetSavedNanos() != saved || total.GetSavedNanos() != saved || total.GetBaselineNanos() != f.GetTotals().GetCostNanos()+saved {
		t.Errorf("the report has %s saved, want %s", money.Nanos(caching.GetSavedNanos()), money.Nanos(saved))
	}
	// Calls in flight together reach the server in another order than the trace has: what it saw repeated differs a little.
	if got := f.GetSignals().GetRepeatTokens() + f.GetSignals().GetLateTokens(); got < repeatedInHour*98/100 || got > repeatedInHour*102/100 {
		t.Errorf("the server saw %d tokens repeated within an hour, the trace has %d", got, repeatedInHour)
	}
	var page strings.Builder
	printOptimization(&page, o)
	t.Logf("%d of %d input tokens read, %d repeated within an hour, %s saved\n%s", read, input, repeatedInHour, money.Nanos(saved), page.String())
}
