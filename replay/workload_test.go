package replay

import (
	"math"
	"reflect"
	"slices"
	"testing"
)

func take(t *testing.T, rows Rows, n int) []Row {
	t.Helper()
	var got []Row
	for row, err := range Limit(rows, n) {
		if err != nil {
			t.Fatal(err)
		}
		if err := row.check(); err != nil {
			t.Fatalf("row %d: %v", len(got)+1, err)
		}
		got = append(got, row)
	}
	return got
}

func generate(t *testing.T, kind string, seed uint64, n int) []Row {
	t.Helper()
	rows, err := Generate(kind, seed)
	if err != nil {
		t.Fatal(err)
	}
	return take(t, rows, n)
}

func TestWorkloadsHaveThePublishedShapes(t *testing.T) {
	for _, c := range []struct {
		kind                                 string
		inMedian, inMean, outMedian, outMean float64
		cached                               float64
	}{
		{"conversation", 1020, 1155, 129, 211, 0},
		{"code", 1469, 2048, 13, 28, 0},
		{"extraction", 11587, 15325, 103, 149, 0},
		{"research", 0, 8596, 30, 182, .59},
	} {
		rows := generate(t, c.kind, 1, 50_000)
		var in, out []float64
		var cached, all float64
		for _, r := range rows {
			in, out = append(in, float64(r.InputTokens)), append(out, float64(r.OutputTokens))
			cached += float64(r.CachedTokens)
			all += float64(r.InputTokens)
		}
		near := func(what string, got, want, within float64) {
			t.Helper()
			t.Logf("%s: %s is %.2f, published %.2f", c.kind, what, got, want)
			if math.Abs(got-want) > within*want {
				t.Errorf("%s: %s is %.2f, the published one is %.2f", c.kind, what, got, want)
			}
		}
		if c.inMedian > 0 {
			near("median input", median(in), c.inMedian, .1)
		}
		near("mean input", mean(in), c.inMean, .15)
		near("median output", median(out), c.outMedian, .1)
		near("mean output", mean(out), c.outMean, .15)
		near("cached share", cached/all, c.cached, .15)
		seconds := rows[len(rows)-1].At.Seconds()
		near("rate", float64(len(rows))/seconds, Workloads[slices.IndexFunc(Workloads, func(w Workload) bool { return w.Name == c.kind })].rate, .05)
	}
}

func mean(v []float64) float64 {
	var sum float64
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

func TestAWorkloadIsItsSeed(t *testing.T) {
	for _, w := range Workloads {
		a, b, other := generate(t, w.Name, 7, 200), generate(t, w.Name, 7, 200), generate(t, w.Name, 8, 200)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: the same seed gave different rows", w.Name)
		}
		if reflect.DeepEqual(a, other) {
			t.Errorf("%s: different seeds gave the same rows", w.Name)
		}
	}
	if _, err := Generate("poetry", 1); err == nil {
		t.Error("an unknown workload was made")
	}
}

func TestResearchRunsGrowFromTheCache(t *testing.T) {
	calls := map[string]int{}
	var before Row
	for _, r := range generate(t, "research", 3, 2000) {
		if calls[r.Run]++; calls[r.Run] == 1 {
			if r.CachedTokens != 0 {
				t.Fatalf("%s starts with %d cached tokens", r.Run, r.CachedTokens)
			}
		} else if r.CachedTokens != before.InputTokens || r.User != before.User {
			t.Fatalf("%s: call %d has %d cached tokens of %s; the one before sent %d of %s", r.Run, calls[r.Run], r.CachedTokens, r.User, before.InputTokens, before.User)
		}
		before = r
	}
	delete(calls, before.Run) // cut off by the limit
	for run, n := range calls {
		if n < 2 || n > 6 {
			t.Errorf("%s has %d calls", run, n)
		}
	}
}
