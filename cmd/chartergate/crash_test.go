package main

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/chaos/oracle"
	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

// crashCompany has one feature that goes on with the cheapest tier when its money is used up, and one with a ceiling for
// each cohort. Prices do not come out even, so that rounding shows.
const crashCompany = `
kind: Catalog
tiers: [{id: economy}, {id: standard}]
models:
  - {id: small, provider: p, tier: economy, capabilities: [chat, json, tools], context_tokens: 400_000, max_output_tokens: 64_000}
  - {id: large, provider: p, tier: standard, capabilities: [chat, json, tools], context_tokens: 400_000, max_output_tokens: 64_000}
---
kind: PriceBook
name: book
currency: USD
prices:
  - {model: small, effective_time: 2026-01-01, input: 0.212345678, cache_read: 0.021234567, output: 1.250011113, source: test}
  - {model: large, effective_time: 2026-01-01, input: 0.754321987, cache_read: 0.075432109, output: 4.500077771, source: test}
---
{kind: Budget, name: company, owner: {name: Ada}, limit: COMPANY, currency: USD, period: {calendar: year}, alert_thresholds: [50%, 80%]}
---
{kind: Budget, name: support, parent: company, owner: {name: Ben}, limit: 100, period: {calendar: year}}
---
{kind: Budget, name: copilot, parent: support, owner: {name: Cem}, limit: COPILOT, period: {calendar: year}}
---
{kind: Budget, name: agent, parent: company, owner: {name: Dea}, limit: 1000, period: {calendar: month}}
---
{kind: Budget, name: agent-cohort, parent: agent, owner: {name: Eli}, limit: COHORT, per: cohort, period: {calendar: month}}
---
{kind: Charter, name: copilot, owner: {name: Cem}, team: t, stage: production, budget: copilot, permitted_tiers: [economy, standard],
 exhausted: {mode: downgrade, overflow_allowance: OVERFLOW}}
---
{kind: Charter, name: agent, owner: {name: Dea}, team: t, stage: production, budget: agent-cohort, permitted_tiers: [economy, standard],
 exhausted: {mode: deny}}
`

// crashPrices are those of crashCompany.
var crashPrices = map[string]oracle.Rates{
	"small": {Input: 212_345_678, Cached: 21_234_567, Output: 1_250_011_113},
	"large": {Input: 754_321_987, Cached: 75_432_109, Output: 4_500_077_771},
}

// rowsPerCrash is how many calls of each feature there are for each crash.
const rowsPerCrash = 2000

// company gives crashCompany with ceilings that a load of so many calls of each feature passes.
func company(rows int) []byte {
	limit := func(perCall float64) string { return strconv.FormatFloat(float64(rows)*perCall, 'f', 6, 64) }
	return []byte(strings.NewReplacer(
		"COMPANY", limit(0.00075), "COPILOT", limit(0.00035), "COHORT", limit(0.0001), "OVERFLOW", limit(0.00002),
	).Replace(crashCompany))
}

// crashRun is a company under load whose server is killed again and again.
type crashRun struct {
	dir, grpcAddr, httpAddr string
	database                string // URL
	rand                    *rand.Rand
	client                  *chartergate.Client
	count                   int // of calls of each feature

	mu       sync.Mutex
	rows     map[string]replay.Row     // by user, who makes one call
	answers  map[string]*pb.Settlement // acknowledged, by user
	settles  map[string]*pb.SettleRequest
	answered chan struct{} // one for each row
	refused  int
}

// The server is killed at random moments under load. Whatever it acknowledged is in its records exactly once, at the
// price that an independent calculation gives, and no ceiling was passed. CHARTERGATE_CRASHES is how often it is killed,
// CHARTERGATE_CRASH_SEED repeats a run.
func TestCrashes(t *testing.T) {
	if testing.Short() {
		t.Skip("kills a real server under load, which takes about 20 seconds")
	}
	dir := t.TempDir()
	crashes(t, dir, "sqlite:"+filepath.Join(dir, "data", "usage.db"))
}

// crashes runs TestCrashes with a usage database, which is left alone after the last crash.
func crashes(t *testing.T, dir, database string, leaveAlone ...func()) {
	t.Helper()
	crashes, seed := envNumber(t, "CHARTERGATE_CRASHES", 3), envNumber(t, "CHARTERGATE_CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("%d crashes; repeat with CHARTERGATE_CRASH_SEED=%d", crashes, seed)
	count := rowsPerCrash * int(crashes)
	r := &crashRun{
		dir: dir, database: database, rand: rand.New(rand.NewPCG(seed, 1)), count: count, rows: map[string]replay.Row{}, answers: map[string]*pb.Settlement{},
		settles: map[string]*pb.SettleRequest{}, answered: make(chan struct{}, 3*count),
	}
	var err error
	if r.grpcAddr, err = freeAddress(); err != nil {
		t.Fatal(err)
	}
	if r.httpAddr, err = freeAddress(); err != nil {
		t.Fatal(err)
	}
	server := r.start(t)
	if r.client, err = chartergate.Dial(r.grpcAddr); err != nil {
		t.Fatal(err)
	}
	defer r.client.Close()
	resources, err := manifest.Parse("company.yaml", company(count))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Manifests.Apply(t.Context(), &pb.ApplyRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}

	var load sync.WaitGroup
	load.Go(func() { r.replay(t, "copilot", "crash", count, seed) })
	load.Go(func() { r.replay(t, "agent", "crash", count, seed+1) })
	over := make(chan struct{})
	var usage sync.WaitGroup
	usage.Go(func() { r.recordUsage(t, over) })
	server = r.crash(t, server, int(crashes))
	load.Wait()
	close(over)
	usage.Wait()

	r.checkRepeats(t)
	for _, f := range leaveAlone {
		f()
	}
	r.awaitReclaim(t)
	load.Go(func() { r.replay(t, "copilot", "after", count/2, seed+2) })
	load.Go(func() { r.replay(t, "agent", "after", count/2, seed+3) })
	load.Wait()
	statuses, alerts := r.statuses(t), r.alerts(t)
	stopChild(t, server)
	log, err := os.ReadFile(server.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls settled, %d refused", len(r.answers), r.refused)
	if len(r.answers) < r.count/2 || r.refused == 0 {
		t.Errorf("%d settled and %d refused: the load is not one that shows something", len(r.answers), r.refused)
	}
	checkRecords(t, r, filepath.Join(r.dir, "data"), statuses, alerts, string(log))
	if strings.Contains(string(log), "uncountable") || strings.Contains(string(log), "cannot be") {
		t.Errorf("the log says that something was not counted:\n%s", log)
	}
	checkUsage(t, r.database, statuses)
}

func envNumber(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(cmp.Or(os.Getenv(name), strconv.FormatUint(otherwise, 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// args start the server. Holds are short, so that the grants of servers that are gone are soon reclaimed.
func (r *crashRun) args() []string {
	return []string{"serve", "--data-dir", filepath.Join(r.dir, "data"), "--grpc-addr", r.grpcAddr, "--http-addr", r.httpAddr, "--max-hold", "1s", "--database-url", r.database}
}

func (r *crashRun) start(t *testing.T) *childServer {
	t.Helper()
	c, err := startChild(t.Context(), r.dir, r.grpcAddr, r.httpAddr, r.args()...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// crash kills the server after random numbers of answers, and sometimes while it starts. It gives the last one started.
func (r *crashRun) crash(t *testing.T, server *childServer, times int) *childServer {
	t.Helper()
	at := make([]int, times)
	for i := range at {
		at[i] = r.count/10 + r.rand.IntN(r.count*7/5)
	}
	slices.Sort(at)
	seen := 0
	for i := 0; i < times; i++ {
		for ; seen < at[i]; seen++ {
			select {
			case <-r.answered:
			case <-time.After(2 * time.Minute):
				t.Fatalf("no answer for 2 minutes:\n%s", server.logTail())
			}
		}
		<-time.After(time.Duration(r.rand.IntN(20_000)) * time.Microsecond) // the answers came in a bunch
		if err := server.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-server.exited
		if i+1 < times && r.rand.IntN(3) == 0 {
			i++
			r.killWhileStarting(t)
		}
		server = r.start(t)
		t.Logf("killed after %d answers, up again after %s", seen, server.startTime.Round(time.Millisecond))
	}
	return server
}

func (r *crashRun) killWhileStarting(t *testing.T) {
	t.Helper()
	c := exec.Command(os.Args[0], r.args()...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Duration(r.rand.IntN(1000)) * time.Millisecond)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed while starting: %v", c.Wait())
}

// cohorts include such as need care in a key.
var cohorts = []string{"free", "pro/eu", "50% off #1", "ü"}

// replay drives one feature with calls of which each has a user of its own, so that its record can be told.
func (r *crashRun) replay(t *testing.T, feature, run string, calls int, seed uint64) {
	rows, err := replay.Generate("conversation", seed)
	if err != nil {
		t.Error(err)
		return
	}
	named := func(yield func(replay.Row, error) bool) {
		i := 0
		for row, err := range replay.Limit(rows, calls) {
			row.User, row.Cohort, row.CachedTokens = fmt.Sprintf("%s-%s-%d", feature, run, i), cohorts[i%len(cohorts)], row.InputTokens/3*int64(i%2)
			r.mu.Lock()
			r.rows[row.User] = row
			r.mu.Unlock()
			i++
			if !yield(row, err) {
				return
			}
		}
	}
	result, err := replay.Run(t.Context(), replay.Options{Feature: feature, RunID: run + "-" + feature, Concurrency: 32}, crashGate{r}, named, func(a *replay.Answer) {
		r.mu.Lock()
		if a.Settlement != nil {
			r.answers[a.Row.User] = a.Settlement
		} else {
			r.refused++
		}
		r.mu.Unlock()
		r.answered <- struct{}{}
	})
	if err != nil || result.Errors > 0 || result.Requests != int64(calls) {
		t.Errorf("%s: error %v; %d of %d calls got no answer: %s", feature, err, result.Errors, result.Requests, result.FirstError)
		return
	}
	t.Logf("%s: %d allowed, %d downgraded, %d throttled, %d denied, %d tried again, in %.1fs",
		feature, result.Allowed, result.Downgraded, result.Throttled, result.Denied, result.Retries, result.DurationSeconds)
}

// crashGate sends the calls of a replay, a tenth of them with an estimate that is too low: they cost more than is held.
type crashGate struct{ *crashRun }

func (g crashGate) Reserve(ctx context.Context, q *pb.ReserveRequest, o ...grpc.CallOption) (*pb.ReserveResponse, error) {
	if strings.HasSuffix(q.GetCall().GetUser(), "7") {
		q = proto.CloneOf(q)
		q.Call.Estimate.MaxOutputTokens = max(1, q.Call.Estimate.MaxOutputTokens/2)
	}
	return g.client.Preflight.Reserve(ctx, q, o...)
}

func (g crashGate) Settle(ctx context.Context, q *pb.SettleRequest, o ...grpc.CallOption) (*pb.SettleResponse, error) {
	a, err := g.client.Preflight.Settle(ctx, q, o...)
	if err == nil {
		g.mu.Lock()
		g.settles[a.GetSettlement().GetJournal()] = q // one of each batch will do
		g.mu.Unlock()
	}
	return a, err
}

// recordUsage reports calls that had no hold, one after the other until the load is over, each until it is acknowledged.
func (r *crashRun) recordUsage(t *testing.T, over <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-over:
			t.Logf("%d calls without a hold", i)
			return
		default:
		}
		row := replay.Row{InputTokens: int64(i + 1), OutputTokens: 1, User: fmt.Sprintf("usage-%d", i)}
		s, err := r.untilAnswered(t.Context(), &pb.RecordUsageRequest{
			Feature: "copilot", Model: "small", User: row.User, RequestId: row.User,
			Usage: &pb.Usage{InputTokens: row.InputTokens, OutputTokens: row.OutputTokens},
		})
		if err != nil {
			t.Errorf("usage %d: %v", i, err)
			return
		}
		r.mu.Lock()
		r.rows[row.User], r.answers[row.User] = row, s.GetSettlement()
		r.mu.Unlock()
	}
}

func (r *crashRun) untilAnswered(ctx context.Context, q *pb.RecordUsageRequest) (*pb.RecordUsageResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := r.client.Usage.RecordUsage(ctx, q)
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return s, err
		}
		<-tick.C
	}
}

// checkRepeats settles holds of every server there was a second time: the first answer comes back.
func (r *crashRun) checkRepeats(t *testing.T) {
	t.Helper()
	owners := map[string]int{}
	for journal, q := range r.settles {
		owner, _, _ := strings.Cut(strings.TrimPrefix(journal, "jr/"), "/")
		if owners[owner]++; owners[owner] > 20 {
			continue
		}
		q = proto.CloneOf(q)
		q.RequestId = ""
		if s, err := r.client.Settle(t.Context(), q); err != nil || s.GetSettlement().GetJournal() != journal {
			t.Errorf("settled again: %v, error %v; want the record in %s", s, err, journal)
		}
	}
	if len(owners) < 2 {
		t.Errorf("holds were settled by %d servers", len(owners))
	}
}

// awaitReclaim waits until nothing is quarantined any more: what calls may have held of servers that are gone is free.
func (r *crashRun) awaitReclaim(t *testing.T) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(200*time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; {
		quarantined := int64(0)
		for _, s := range r.statuses(t) {
			quarantined += s.GetQuarantinedNanos()
		}
		if quarantined == 0 {
			t.Logf("all grants are reclaimed after another %s", time.Since(began).Round(time.Millisecond))
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d nanos are still quarantined after a minute", quarantined)
		}
	}
}

func (r *crashRun) statuses(t *testing.T) []*pb.BudgetStatus {
	t.Helper()
	page, err := r.client.Budgets.ListBudgetStatuses(t.Context(), &pb.ListBudgetStatusesRequest{PageSize: 1000})
	if err != nil || page.GetNextPageToken() != "" {
		t.Fatalf("statuses: %v, next page %q", err, page.GetNextPageToken())
	}
	for _, s := range page.GetStatuses() {
		if s.GetSettledNanos()+s.GetHeldNanos() > s.GetLimitNanos()+s.GetForcedNanos() || s.GetHeldNanos() < 0 {
			t.Errorf("%s is over its ceiling: %v", s.GetName(), s)
		}
	}
	return page.GetStatuses()
}

func (r *crashRun) alerts(t *testing.T) []*pb.BudgetAlert {
	t.Helper()
	page, err := r.client.Budgets.ListBudgetAlerts(t.Context(), &pb.ListBudgetAlertsRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return page.GetAlerts()
}
