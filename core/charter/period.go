package charter

import (
	"fmt"
	"time"
)

// Calendar is a calendar period.
type Calendar int32

// Calendar periods, numbered as in the API.
const (
	Window Calendar = iota // a fixed window
	Day
	Week // from Monday
	Month
	Quarter
	Year
)

// Period is a calendar period in a time zone, or a fixed window. Make one with NewPeriod.
type Period struct {
	Calendar   Calendar
	Zone       string // IANA name; empty is UTC
	Start, End time.Time
	loc        *time.Location
}

// PeriodError says why a period cannot be.
type PeriodError struct{ Problem string }

func (e *PeriodError) Error() string { return e.Problem }

// NewPeriod checks a period. Start and end are for a Window only. Error: *PeriodError.
func NewPeriod(c Calendar, zone string, start, end time.Time) (Period, error) {
	p := Period{Calendar: c, Zone: zone, Start: start, End: end, loc: time.UTC}
	if zone != "" {
		loc, err := time.LoadLocation(zone)
		if err != nil || zone == "Local" {
			return p, &PeriodError{fmt.Sprintf("unknown time zone %q: use an IANA name such as Europe/Zurich", zone)}
		}
		p.loc = loc
	}
	switch {
	case c < Window || c > Year:
		return p, &PeriodError{fmt.Sprintf("unknown calendar period %d", c)}
	case c == Window && (start.IsZero() || end.IsZero()):
		return p, &PeriodError{"the period is missing: give a calendar period, or a window with start_time and end_time"}
	case c == Window && !start.Before(end):
		return p, &PeriodError{"the window is empty: end_time must be after start_time"}
	case c != Window && (!start.IsZero() || !end.IsZero()):
		return p, &PeriodError{"give a calendar period or a window, not both"}
	}
	return p, nil
}

// Span is one instance of a period: from Start, inclusive, to End, exclusive, in the period's time zone.
type Span struct {
	Start, End time.Time
	calendar   Calendar
}

// At gives the span that t is in. False outside of a fixed window.
func (p Period) At(t time.Time) (Span, bool) {
	if p.Calendar == Window {
		return Span{p.Start, p.End, Window}, !t.Before(p.Start) && t.Before(p.End)
	}
	loc := p.loc
	if loc == nil {
		loc = time.UTC
	}
	y, m, d := t.In(loc).Date()
	var from, to [3]int
	switch p.Calendar {
	case Day:
		from, to = [3]int{y, int(m), d}, [3]int{y, int(m), d + 1}
	case Week:
		d -= (int(t.In(loc).Weekday()) + 6) % 7
		from, to = [3]int{y, int(m), d}, [3]int{y, int(m), d + 7}
	case Month:
		from, to = [3]int{y, int(m), 1}, [3]int{y, int(m) + 1, 1}
	case Quarter:
		q := (int(m)-1)/3*3 + 1
		from, to = [3]int{y, q, 1}, [3]int{y, q + 3, 1}
	default:
		from, to = [3]int{y, 1, 1}, [3]int{y + 1, 1, 1}
	}
	start, end := startOfDay(from, loc), startOfDay(to, loc)
	return Span{start, end, p.Calendar}, true
}

// startOfDay is the first instant of a date. Where a clock change skips midnight, time.Date would give an instant of
// the day before.
func startOfDay(ymd [3]int, loc *time.Location) time.Time {
	t := time.Date(ymd[0], time.Month(ymd[1]), ymd[2], 0, 0, 0, 0, loc)
	want := time.Date(ymd[0], time.Month(ymd[1]), ymd[2], 12, 0, 0, 0, loc).Day()
	if t.Day() != want {
		// Midnight does not exist: the day starts at the change, which is on a quarter of an hour.
		for t.Day() != want {
			t = t.Add(15 * time.Minute)
		}
	}
	return t
}

// Before gives the span before s. False for a fixed window.
func (p Period) Before(s Span) (Span, bool) {
	if p.Calendar == Window {
		return Span{}, false
	}
	return p.At(s.Start.Add(-time.Second))
}

// Contains says whether t is in the span.
func (s Span) Contains(t time.Time) bool { return !t.Before(s.Start) && t.Before(s.End) }

// String names the span for people: `2026-11-23`, `2026-W48`, `2026-11`, `2026-Q4`, `2026`, or the window's two ends.
func (s Span) String() string {
	switch s.calendar {
	case Day:
		return s.Start.Format("2006-01-02")
	case Week:
		y, w := s.Start.ISOWeek()
		return fmt.Sprintf("%d-W%02d", y, w)
	case Month:
		return s.Start.Format("2006-01")
	case Quarter:
		return fmt.Sprintf("%d-Q%d", s.Start.Year(), (int(s.Start.Month())+2)/3)
	case Year:
		return s.Start.Format("2006")
	}
	return s.Start.UTC().Format("2006-01-02T15:04Z") + "/" + s.End.UTC().Format("2006-01-02T15:04Z")
}
