package calibrate

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCounterOverRestartGapAndBorders(t *testing.T) {
	start := time.UnixMilli(0)
	s := newSteps(start, start.Add(20*time.Minute), 5*time.Minute).sums()
	minute := int64(60_000)
	s.counter(&series{samples: []sample{{-minute, 100}, {minute, 120}, {2 * minute, 150}, {3 * minute, 30}, {15 * minute, 90}, {21 * minute, 150}}})
	// half of 20; 30; after the restart 30; 60 over a gap of 12 minutes; five sixths of 60 over one of 6
	if got, want := s.total(), 10+30+30+60+50.0; got != want {
		t.Errorf("total %v, want %v", got, want)
	}
	if s.by[0] != 10+30+30+10 || s.by[1] != 25 || s.by[2] != 25 || s.by[3] != 50 {
		t.Errorf("by step %v", s.by)
	}
	for i, gap := range []bool{true, true, true, true} {
		if s.gap[i] != gap {
			t.Errorf("gap in step %d: %v", i, s.gap[i])
		}
	}
	if s.resets != 1 || s.present != 180 {
		t.Errorf("%d resets, %v s present", s.resets, s.present)
	}
}

func TestStepsLoseNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.UnixMilli(0)
		width := time.Duration(rapid.IntRange(60, 4000).Draw(t, "width")) * time.Second
		s := newSteps(start, start.Add(6*time.Hour), width).sums()
		x := &series{samples: []sample{{0, 0}}}
		want := 0.0
		for last := x.samples[0]; last.at < s.to; {
			grown := float64(rapid.IntRange(0, 1000).Draw(t, "grown"))
			next := sample{min(s.to, last.at+rapid.Int64Range(1, 900_000).Draw(t, "later")), last.v + grown}
			if grown < last.v && rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
				next.v = grown
			}
			want += grown
			x.samples = append(x.samples, next)
			last = next
		}
		s.counter(x)
		if got := s.total(); math.Abs(got-want) > 1e-6 {
			t.Fatalf("steps add up to %v, the counter counted %v", got, want)
		}
	})
}

func TestFitFindsWhatMadeTheSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(1e-5, 1e-2).Draw(t, "a"), rapid.Float64Range(1e-5, 1e-2).Draw(t, "b")
		n := rapid.IntRange(leastSteps, 200).Draw(t, "n")
		var x, z, y []float64
		for i := range n {
			in, out := float64(1000+rapid.IntRange(0, 100_000).Draw(t, "in")), float64(1000+rapid.IntRange(0, 100_000).Draw(t, "out"))
			if i%2 == 0 {
				in /= 50 // so that the two can be told apart
			}
			x, z, y = append(x, in), append(z, out), append(y, a*in+b*out)
		}
		f, err := fit(x, z, y, 2.5)
		if err != nil {
			t.Fatal(err)
		}
		if f.Method == Regression && (math.Abs(f.Input-1000*a) > 1e-6*f.Input+1e-9 || math.Abs(f.Output-1000*b) > 1e-6*f.Output+1e-9) {
			t.Fatalf("%v and %v per 1,000, want %v and %v", f.Input, f.Output, 1000*a, 1000*b)
		}
		var busy, priced float64
		for i := range y {
			busy, priced = busy+y[i], priced+(f.Input*x[i]+f.Output*z[i])/1000
		}
		if math.Abs(busy-priced) > 1e-6*busy {
			t.Fatalf("the fit (%s) gives %v busy seconds of %v", f.Method, priced, busy)
		}
	})
}
