package calibrate

import "time"

// steps cuts a window into equal steps.
type steps struct {
	from, to, width int64 // ms
}

func newSteps(from, to time.Time, width time.Duration) steps {
	return steps{from.UnixMilli(), to.UnixMilli(), width.Milliseconds()}
}

func (s steps) count() int { return int((s.to - s.from + s.width - 1) / s.width) }

// sums are what series add up to, by step.
type sums struct {
	steps
	by      []float64
	gap     []bool  // by step: a series has no samples for a part of it, but before and after
	present float64 // seconds in which the series had samples, summed over series
	resets  int     // of counters
}

func (s steps) sums() *sums {
	return &sums{steps: s, by: make([]float64, s.count()), gap: make([]bool, s.count())}
}

// spread adds an amount evenly over the time from t0 to t1, as far as it is in the window.
func (s *sums) spread(t0, t1 int64, amount float64) {
	s.each(t0, t1, func(i int, share float64) { s.by[i] += amount * share })
}

// each calls f with every step from t0 to t1 and its share of that time.
func (s *sums) each(t0, t1 int64, f func(i int, share float64)) {
	whole := float64(t1 - t0)
	for t := max(t0, s.from); t < min(t1, s.to); {
		i := (t - s.from) / s.width
		end := min(s.from+(i+1)*s.width, t1, s.to)
		f(int(i), float64(end-t)/whole)
		t = end
	}
}

// interval notes that a series had samples at t0 and t1 and none between, and says whether it counts as present.
func (s *sums) interval(t0, t1 int64) bool {
	if t1-t0 > stale.Milliseconds() {
		s.each(t0, t1, func(i int, _ float64) { s.gap[i] = true })
		return false
	}
	s.present += float64(max(0, min(t1, s.to)-max(t0, s.from))) / 1000
	return true
}

// counter adds what a counter grew by. A value below the one before is a restart, after which it counts from 0. What it
// counted before its first sample, and between its last sample and a restart, is not known and left out. An increase
// over a gap counts.
func (s *sums) counter(x *series) {
	for i := 1; i < len(x.samples); i++ {
		a, b := x.samples[i-1], x.samples[i]
		s.interval(a.at, b.at)
		grown := b.v - a.v
		if grown < 0 {
			s.resets++
			grown = b.v
		}
		s.spread(a.at, b.at, grown)
	}
}

// gauge adds the integral over seconds of f of a gauge. A sample stands for the time since the one before; a gap is left out.
func (s *sums) gauge(x *series, f func(float64) float64) {
	for i := 1; i < len(x.samples); i++ {
		a, b := x.samples[i-1], x.samples[i]
		if s.interval(a.at, b.at) {
			s.spread(a.at, b.at, f(b.v)*float64(b.at-a.at)/1000)
		}
	}
}

func (s *sums) total() float64 {
	t := 0.0
	for _, v := range s.by {
		t += v
	}
	return t
}

func (s steps) fromTime() time.Time { return time.UnixMilli(s.from).UTC() }
func (s steps) toTime() time.Time   { return time.UnixMilli(s.to).UTC() }
