package sim

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // runs are short and make much garbage
	os.Exit(m.Run())
}

// number reads a setting of the environment.
func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// campaign runs seeds on all cores until one has a violation that stop accepts, or CHARTERGATE_SIM_FOR has passed.
func campaign(from, seeds int, stop func(result) bool) (all counters, bad []result) {
	var mu sync.Mutex
	var next atomic.Int64
	var over atomic.Bool
	next.Store(int64(from))
	if d, err := time.ParseDuration(os.Getenv("CHARTERGATE_SIM_FOR")); err == nil {
		defer time.AfterFunc(d, func() { over.Store(true) }).Stop()
	}
	var running sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		running.Go(func() {
			var coros pool
			for !over.Load() {
				seed := next.Add(1) - 1
				if seed >= int64(from+seeds) {
					return
				}
				r := simulate(uint64(seed), false, &coros)
				mu.Lock()
				all.add(&r.count)
				if r.violation != nil {
					bad = append(bad, r)
					if stop(r) {
						over.Store(true)
					}
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return all, bad
}

// The ledger keeps its promises under every fault that the simulation knows.
func TestSim(t *testing.T) {
	if s := os.Getenv("CHARTERGATE_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		r := simulate(seed, true, new(pool))
		t.Logf("seed %d:\n%s", seed, r.trace)
		if r.violation != nil {
			t.Fatal(r.violation)
		}
		return
	}
	seeds := number(t, "CHARTERGATE_SIM_SEEDS", 300)
	if testing.Short() {
		seeds = 50
	}
	start := time.Now()
	all, bad := campaign(number(t, "CHARTERGATE_SIM_FROM", 0), seeds, func(result) bool { return false })
	took := time.Since(start)
	t.Logf("seeds from %d: %d runs in %s, %s each\n%s", number(t, "CHARTERGATE_SIM_FROM", 0), all.Runs, took.Round(time.Millisecond), (took / time.Duration(max(1, all.Runs))).Round(time.Microsecond), all.String())
	for i, r := range bad {
		if i == 20 {
			t.Errorf("and %d more", len(bad)-i)
			break
		}
		t.Errorf("seed %d: %v", r.seed, r.violation)
	}
	if never := all.never(); len(never) > 0 && all.Runs >= 2000 {
		t.Errorf("these never happened, so they were not tested: %v", never)
	}
}

// A seed fixes a run exactly.
func TestASeedFixesARun(t *testing.T) {
	var coros pool
	for seed := range uint64(20) {
		if a, b := simulate(seed, false, &coros), simulate(seed, true, &coros); a.sum != b.sum {
			t.Errorf("seed %d: two runs differ: %x, %x", seed, a.sum, b.sum)
		}
	}
}
