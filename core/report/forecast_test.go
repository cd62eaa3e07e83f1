package report

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// days makes a history: f of each day, today the last.
func days(n int, f func(i int, t time.Time) float64) *Daily {
	d := NewDaily(now)
	for i := range n {
		t := now.Truncate(day).AddDate(0, 0, i-n)
		_ = d.Add(t, money.Nanos(f(i, t)))
	}
	return d
}

var monthEnd = at("2026-12-01T00")

// left is how many days are left of the month.
var left = monthEnd.Sub(now).Hours() / 24

func near(t *testing.T, what string, got money.Nanos, want float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > 1e-6*math.Abs(want)+2 {
		t.Errorf("%s is %d, want %.0f", what, got, want)
	}
}

func TestForecastsOfWhatIsRegular(t *testing.T) {
	for _, c := range []struct {
		name   string
		n      int
		f      func(i int, t time.Time) float64
		method string
	}{
		{"always the same", 20, func(int, time.Time) float64 { return 5e9 }, MethodMean},
		{"growing", 30, func(i int, _ time.Time) float64 { return 1e9 + 2e8*float64(i) }, MethodLinear},
		{"idle at the weekend", 28, func(_ int, t time.Time) float64 { return []float64{0, 7, 8, 8, 9, 6, 1}[t.Weekday()] * 1e9 }, MethodWeekday},
		{"growing, idle at the weekend", 42, func(i int, t time.Time) float64 {
			return []float64{1, 7, 8, 8, 9, 6, 1}[t.Weekday()]*1e9 + 1e8*float64(i)
		}, MethodWeekdayLinear},
	} {
		d := days(c.n, c.f)
		f, _, ok := d.Until(now, monthEnd, 50e9, math.MaxInt64)
		if !ok || f.Method != c.method || f.Days != c.n || !f.Interval {
			t.Errorf("%s: %+v", c.name, f)
			continue
		}
		want := 50e9
		for i, w := range horizon(now, monthEnd) {
			want += w * c.f(c.n+i, now.AddDate(0, 0, i))
		}
		near(t, c.name, f.Expected, want)
		if f.High-f.Low > f.Expected/1000 {
			t.Errorf("%s: an interval from %d to %d", c.name, f.Low, f.High)
		}
	}
}

// Of forecasts from noise, 8 of 10 intervals have what came.
func TestIntervalsHoldWhatTheySay(t *testing.T) {
	for _, c := range []struct {
		name string
		n    int
		f    func(i int, t time.Time) float64
	}{
		{"level, 10 days", 10, func(int, time.Time) float64 { return 10e9 }},
		{"level, 50 days", 50, func(int, time.Time) float64 { return 10e9 }},
		{"weekdays, 42 days", 42, func(_ int, t time.Time) float64 { return []float64{3, 10, 12, 12, 11, 10, 4}[t.Weekday()] * 1e9 }},
		{"growing, 40 days", 40, func(i int, _ time.Time) float64 { return 8e9 + 2e8*float64(i) }},
	} {
		r := rand.New(rand.NewPCG(3, 4))
		const tries = 2000
		within := 0
		for range tries {
			noise := func(i int, t time.Time) float64 { return c.f(i, t) + 1e9*r.NormFloat64() }
			f, _, _ := days(c.n, noise).Until(now, monthEnd, 0, math.MaxInt64)
			came := 0.0
			for i, w := range horizon(now, monthEnd) {
				came += w * noise(c.n+i, now.AddDate(0, 0, i))
			}
			if float64(f.Low) <= came && came <= float64(f.High) {
				within++
			}
		}
		if p := float64(within) / tries; p < 0.74 || p > 0.84 { // the choice of a method is not in the interval's doubt
			t.Errorf("%s: %.1f%% are within the interval", c.name, p*100)
		} else {
			t.Logf("%s: %.1f%% are within the interval", c.name, p*100)
		}
	}
}

func TestForecastsOfFewDays(t *testing.T) {
	nothing := NewDaily(now)
	if _, _, ok := nothing.Until(now, monthEnd, 0, 1); ok || nothing.Rate(now) != 0 {
		t.Error("a forecast of nothing")
	}
	today := NewDaily(now)
	_ = today.Add(now.Truncate(day), 6e9)
	over := now.Sub(now.Truncate(day)).Hours() / 24
	near(t, "today's rate", today.Rate(now), 6e9/over)
	f, _, ok := today.Until(now, monthEnd, 6e9, math.MaxInt64)
	if !ok || f.Method != MethodRate || f.Interval || f.Days != 0 {
		t.Errorf("%+v", f)
	}
	near(t, "from today alone", f.Expected, 6e9+6e9/over*left)
	two := days(2, func(int, time.Time) float64 { return 4e9 })
	f, _, _ = two.Until(now, monthEnd, 8e9, math.MaxInt64)
	near(t, "from two days", f.Expected, 8e9+4e9*left)
	if f.Method != MethodRate || f.Interval || f.Days != 2 {
		t.Errorf("%+v", f)
	}
}

// What falls does not fall below nothing, a line is not drawn further than it was seen, and amounts are bounded.
func TestForecastsStayInBounds(t *testing.T) {
	falling := days(10, func(i int, _ time.Time) float64 { return 1e9 * float64(10-i) })
	if f, _, _ := falling.Until(now, monthEnd, 55e9, math.MaxInt64); f.Expected < 55e9 || f.Low < 55e9 || f.Expected > 57e9 {
		t.Errorf("falling to nothing: %+v", f)
	}
	growing := days(30, func(i int, _ time.Time) float64 { return 1e9 * float64(i) })
	if f, _, _ := growing.Until(now, now.AddDate(1, 0, 0), 0, math.MaxInt64); f.Method == MethodLinear {
		t.Errorf("a year from 30 days: %+v", f)
	}
	vast := days(20, func(int, time.Time) float64 { return math.MaxInt64 / 32 })
	if f, _, _ := vast.Until(now, now.AddDate(1, 0, 0), 0, math.MaxInt64); f.Expected != math.MaxInt64 {
		t.Errorf("%+v", f)
	}
}

func TestRunOut(t *testing.T) {
	d := days(20, func(int, time.Time) float64 { return 24e9 }) // 1 an hour
	for _, c := range []struct {
		settled, limit money.Nanos
		hours          float64 // -1: it lasts
	}{{100e9, 100e9, 0}, {100e9, 110e9, 10}, {100e9, 130e9, 30}, {100e9, 271.5e9, 171.5}, {100e9, 300e9, -1}, {0, 0, 0}} {
		_, out, _ := d.Until(now, monthEnd, c.settled, c.limit)
		want := now.Add(time.Duration(c.hours * float64(time.Hour)))
		if c.hours < 0 && !out.IsZero() || c.hours >= 0 && out.Sub(want).Abs() > time.Minute {
			t.Errorf("%s of %s: %s, want %s", c.settled, c.limit, out, want)
		}
	}
}
