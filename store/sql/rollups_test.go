package sql_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

// `make rollups` sets these.
var (
	rollupFeatures = flag.Int("rollup-features", 5, "features with rollups, each with 4 tiers and 10 cohorts")
	rollupDays     = flag.Int("rollup-days", 40, "days with rollups, of them 14 by the hour")
	rollupTimes    = flag.Int("rollup-times", 1, "how often each allocation is asked for")
)

const hourlyDays = 14

// rollupsEnd is in the middle of a day of the middle of a month, so that hours, days and months make up an answer.
var rollupsEnd = time.Date(2026, 11, 18, 13, 0, 0, 0, time.UTC)

// TestRollups measures allocations over many rollups, in a process of its own that has only the report to do.
func TestRollups(t *testing.T) {
	if query := os.Getenv("CHARTERGATE_ROLLUPS_CHILD"); query != "" {
		measureAllocations(t, query)
		return
	}
	t.Run("sqlite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "usage.db")
		rollupsOn(t, "sqlite:"+file, func() int64 { return fileSize(file) + fileSize(file+"-wal") })
	})
	t.Run("postgres", func(t *testing.T) {
		rollupsOn(t, storetest.StartPostgres(t).NewDatabase(t), nil)
	})
}

func fileSize(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

func rollupsOn(t *testing.T, url string, size func() int64) {
	began := time.Now()
	s, err := sql.Open(t.Context(), url, sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	made := makeRollups(t, s)
	if err := s.Compact(t.Context(), rollupsEnd.Add(-hourlyDays*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d dims, %d rollups by the hour, %d by the day, made in %v", made.dims, made.hours, made.days, time.Since(began).Round(time.Second))
	if size != nil {
		t.Logf("database %.1f MB", float64(size())/1e6)
	}
	for _, by := range [][]string{{usage.DimFeature}, {usage.DimFeature, usage.DimTier}, {usage.DimCohort}, {usage.DimTeam}, nil, {"hour", usage.DimTeam}} {
		made.check(t, url, by)
	}
}

// made is what was counted, summed while it was made.
type made struct {
	dims, hours, days int
	total             usage.Totals
	byTeam            map[string]usage.Totals
}

// makeRollups applies an hour of every attribution for each of the last 14 days' hours, and one of a whole day before.
func makeRollups(t *testing.T, s *sql.Store) *made {
	m := &made{byTeam: map[string]usage.Totals{}}
	rng := rand.New(rand.NewPCG(1, 2))
	tiers := []string{"economy", "standard", "premium", "frontier"}
	var all []usage.Attribution
	for f := range *rollupFeatures {
		team := fmt.Sprintf("team-%02d", f%50)
		for i, tier := range tiers {
			for c := range 10 {
				all = append(all, usage.Attribution{
					Feature: fmt.Sprintf("feature-%04d", f), Owner: fmt.Sprintf("Owner %d", f%200), Team: team, Budget: fmt.Sprintf("budget-%04d", f),
					BudgetPath: fmt.Sprintf("acme/%s/budget-%04d", team, f), Cohort: fmt.Sprintf("cohort-%d", c), Tier: tier, Model: "model-" + tier,
					Provider: []string{"anthropic", "openai"}[i%2], PromptPattern: fmt.Sprintf("pattern-%d", f%3), Effect: []string{"allow", "downgrade"}[i/3],
					Currency: "USD", Labels: map[string]string{"env": "production", "line": fmt.Sprintf("line-%d", f%7)},
				})
			}
		}
	}
	m.dims = len(all)
	hourly := rollupsEnd.Add(-hourlyDays * 24 * time.Hour).Truncate(24 * time.Hour)
	batch := uint64(0)
	for at := rollupsEnd.Truncate(24*time.Hour).AddDate(0, 0, -*rollupDays); at.Before(rollupsEnd); {
		rollups := make([]usage.Rollup, len(all))
		for i := range all {
			rollups[i] = usage.Rollup{Hour: at, Attribution: all[i], Totals: someTotals(rng)}
			if err := m.total.Add(&rollups[i].Totals); err != nil {
				t.Fatal(err)
			}
			team := m.byTeam[all[i].Team]
			if err := team.Add(&rollups[i].Totals); err != nil {
				t.Fatal(err)
			}
			m.byTeam[all[i].Team] = team
		}
		if err := s.Apply(t.Context(), []store.BatchID{{Owner: "a", N: batch}}, rollups); err != nil {
			t.Fatal(err)
		}
		batch++
		if at.Before(hourly) {
			at, m.days = at.AddDate(0, 0, 1), m.days+len(all)
		} else {
			at, m.hours = at.Add(time.Hour), m.hours+len(all)
		}
	}
	return m
}

// someTotals are of calls to a chat model with a cache.
func someTotals(rng *rand.Rand) usage.Totals {
	calls := 1 + rng.Int64N(200)
	in := calls * (200 + rng.Int64N(3000))
	t := usage.Totals{
		Calls: calls, Usage: usage.Usage{InputTokens: in / 3, CacheReadTokens: in - in/3, CacheWrite5mTokens: in / 20, OutputTokens: calls * rng.Int64N(600), ContextOverheadTokens: in / 9},
		Successes: calls * 8 / 10, Failures: calls / 10,
	}
	t.Cost = usage.Cost{Input: money.Nanos(in * 700), ContextOverhead: money.Nanos(in * 70), Output: money.Nanos(t.Usage.OutputTokens * 15_000)}
	t.Saved.CacheRead = money.Nanos(t.Usage.CacheReadTokens * 2_700)
	t.Signals = usage.Signals{Repeats: calls / 2, PrefixChanges: calls / 7, RepeatTokens: in / 2}
	if rng.IntN(4) == 0 {
		t.Usage.RetrievalHops, t.Usage.EmbeddingTokens, t.Cost.Retrieval = calls, calls*40, money.Nanos(calls*800)
		t.Usage.ToolCalls, t.Cost.Tools = map[string]int64{"web_search": calls / 3}, money.Nanos(calls/3*10_000_000)
	}
	return t
}

// allocationQuery asks for the last days of all rollups; "hour" as the first dimension for the last 14 by the hour.
func allocationQuery(by []string) usage.Query {
	q := usage.Query{From: rollupsEnd.Truncate(24*time.Hour).AddDate(0, 0, -*rollupDays), To: rollupsEnd, By: by}
	if len(by) > 0 && by[0] == "hour" {
		q.By, q.Step = by[1:], usage.Hour
		q.From = rollupsEnd.Add(-hourlyDays * 24 * time.Hour).Truncate(24 * time.Hour)
	}
	return q
}

// measured is what a child says of its allocations.
type measured struct {
	Rows       int
	Total      usage.Totals
	ByTeam     map[string]usage.Totals `json:",omitempty"`
	First      time.Duration           // with the dimensions read
	Median     time.Duration           // of the others
	CPU        time.Duration           // of each, on all processors
	PeakRSS    int64                   // of the process, bytes
	RSSAtStart int64
	Allocated  int64 // by one
}

func (m *made) check(t *testing.T, url string, by []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRollups$", "-test.v", fmt.Sprintf("-rollup-features=%d", *rollupFeatures), fmt.Sprintf("-rollup-days=%d", *rollupDays), fmt.Sprintf("-rollup-times=%d", *rollupTimes))
	query, _ := json.Marshal([2]string{url, strings.Join(by, ",")})
	cmd.Env = append(os.Environ(), "CHARTERGATE_ROLLUPS_CHILD="+string(query))
	out, err := cmd.CombinedOutput()
	_, answer, found := strings.Cut(string(out), "measured: ")
	if err != nil || !found {
		t.Fatalf("by %v: %v\n%s", by, err, out)
	}
	var r measured
	if err := json.NewDecoder(strings.NewReader(answer)).Decode(&r); err != nil {
		t.Fatal(err)
	}
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	t.Logf("by %-14s %6d rows: first %5.0f ms, then %5.0f ms (%5.0f ms CPU), %4.0f MB allocated each; peak RSS %.0f MB of which %.0f before", strings.Join(by, "+"), r.Rows,
		ms(r.First), ms(r.Median), ms(r.CPU), float64(r.Allocated)/1e6, float64(r.PeakRSS)/1e6, float64(r.RSSAtStart)/1e6)
	if len(by) > 0 && by[0] == "hour" {
		return // of a shorter window
	}
	if !reflect.DeepEqual(r.Total, m.total) {
		t.Errorf("by %v: the rows add up to %+v, what was applied to %+v", by, r.Total, m.total)
	}
	if r.ByTeam != nil && !reflect.DeepEqual(r.ByTeam, m.byTeam) {
		t.Errorf("by %v: a team's sum is not what was applied", by)
	}
}

// measureAllocations runs in the child.
func measureAllocations(t *testing.T, query string) {
	var args [2]string
	if err := json.Unmarshal([]byte(query), &args); err != nil {
		t.Fatal(err)
	}
	s, err := sql.Open(context.Background(), args[0], sql.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var by []string
	if args[1] != "" {
		by = strings.Split(args[1], ",")
	}
	q := allocationQuery(by)
	r := measured{RSSAtStart: statusBytes(t, "VmRSS")}
	var took []time.Duration
	var rows []usage.Row
	cpu := time.Duration(0)
	var before, after runtime.MemStats
	for i := range *rollupTimes + 1 {
		if i == 1 {
			cpu = cpuTime()
			runtime.ReadMemStats(&before)
		}
		began := time.Now()
		if rows, _, err = s.Sum(context.Background(), q); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	runtime.ReadMemStats(&after)
	r.CPU = (cpuTime() - cpu) / time.Duration(*rollupTimes)
	r.Allocated = int64(after.TotalAlloc-before.TotalAlloc) / int64(*rollupTimes)
	r.Rows, r.First, r.PeakRSS = len(rows), took[0], statusBytes(t, "VmHWM")
	took = took[1:]
	slices.Sort(took)
	r.Median = took[len(took)/2]
	for i := range rows {
		if err := r.Total.Add(&rows[i].Totals); err != nil {
			t.Fatal(err)
		}
		if len(by) == 1 && by[0] == usage.DimTeam {
			if r.ByTeam == nil {
				r.ByTeam = map[string]usage.Totals{}
			}
			r.ByTeam[rows[i].Keys[0]] = rows[i].Totals
		}
	}
	answer, _ := json.Marshal(r)
	fmt.Printf("\nmeasured: %s\n", answer)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// statusBytes reads a size of this process from /proc; 0 where there is none.
func statusBytes(t *testing.T, name string) int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	var kb int64
	_, after, _ := strings.Cut(string(data), "\n"+name+":")
	if _, err := fmt.Sscanf(after, "%d kB", &kb); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return kb << 10
}
