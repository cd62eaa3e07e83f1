package report

import (
	"sort"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/usage"
)

// Step is the time of one point of a series, numbered as in the API.
type Step int

// Steps: an hour of UTC, and calendar periods of the window's time zone.
const (
	StepHour Step = iota + 1
	StepDay
	StepWeek
	StepMonth
)

// MaxPoints is the most points of a series.
const MaxPoints = 10_000

// steps are where the points of a window begin, as far as it has begun.
type steps struct {
	starts []time.Time
	whole  []bool // neither the window nor now cuts it off
	ask    usage.Step
}

// Steps parts what of a window is over. Error: *FieldError for too many.
func (w Window) steps(s Step, now time.Time) (*steps, error) {
	until := w.Elapsed(now)
	next := func(t time.Time) (start, end time.Time) {
		start = t.Truncate(time.Hour)
		return start, start.Add(time.Hour)
	}
	st := &steps{ask: usage.Hour}
	if s != StepHour {
		calendar := map[Step]charter.Calendar{StepDay: charter.Day, StepWeek: charter.Week, StepMonth: charter.Month}[s]
		zone := w.Zone.String()
		p, err := charter.NewPeriod(calendar, zone, time.Time{}, time.Time{})
		if err != nil {
			return nil, wrong("window.time_zone", "%v", err)
		}
		next = func(t time.Time) (start, end time.Time) {
			span, _ := p.At(t)
			return span.Start, span.End
		}
		if zone == "UTC" {
			st.ask = usage.Day
			if s == StepMonth {
				st.ask = usage.Month
			}
		}
	}
	for at := w.From; at.Before(until); {
		if len(st.starts) == MaxPoints {
			return nil, wrong("step", "is too short for the window: a series has at most %d points", MaxPoints)
		}
		start, end := next(at)
		st.starts = append(st.starts, at.UTC())
		st.whole = append(st.whole, start.Equal(at) && !now.Before(end) && !w.To.Before(end))
		at = end
	}
	return st, nil
}

// index is the point that a row of the store belongs to; -1 for none. A row may begin before the window, where the step
// of the store does.
func (st *steps) index(t time.Time) int {
	if len(st.starts) == 0 {
		return -1
	}
	return max(0, sort.Search(len(st.starts), func(i int) bool { return st.starts[i].After(t) })-1)
}
