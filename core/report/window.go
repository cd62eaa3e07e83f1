// Package report computes what people ask of usage: who spent it, where it is going, what a success costs, and which
// budgets will not last. It adds up rows that a usage store gives; money stays in exact integers, and floats are in
// forecasts only.
package report

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
)

// MaxWindow is the longest window of a report.
const MaxWindow = 3 * 366 * 24 * time.Hour

// FieldError says which field of a question cannot be, and what to do.
type FieldError struct{ Field, Problem string }

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

func wrong(field, format string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// Ask says which time a report is about: From and To, or the Last hours, or a calendar Period, in a time zone.
type Ask struct {
	From, To time.Time     // whole hours; To not included. To alone is refused; From alone goes up to now
	Last     time.Duration // whole hours, up to the end of this hour
	Period   string        // `2026`, `2026-Q4`, `2026-10`, `2026-W48`, `2026-11-23`, or this or last and day, week, month, quarter or year: `last-month`
	Zone     string        // IANA; empty: UTC
}

// Window is the time that a report is about.
type Window struct {
	From, To time.Time // whole hours of UTC; To is not included
	Name     string    // of a calendar period, such as `2026-11`; else empty
	Zone     *time.Location
	calendar charter.Period // Window for none
}

// Window resolves an ask that is made now. Without From, Last and Period it is fallback, a Period. Error: *FieldError.
func (a *Ask) Window(now time.Time, fallback string) (Window, error) {
	w := Window{Zone: time.UTC}
	if a.Zone != "" {
		loc, err := time.LoadLocation(a.Zone)
		if err != nil || a.Zone == "Local" {
			return w, wrong("window.time_zone", "unknown time zone %q: use an IANA name such as Europe/Zurich", a.Zone)
		}
		w.Zone = loc
	}
	ways := 0
	for _, given := range []bool{!a.From.IsZero() || !a.To.IsZero(), a.Last != 0, a.Period != ""} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return w, wrong("window", "give start_time and end_time, or last, or period, and not several of them")
	}
	switch {
	case !a.From.IsZero() || !a.To.IsZero():
		if a.From.IsZero() {
			return w, wrong("window.start_time", "is missing: give it with end_time")
		}
		if w.From, w.To = a.From.UTC(), a.To.UTC(); a.To.IsZero() {
			w.To = nextHour(now)
		}
	case a.Last != 0:
		if a.Last < time.Hour || a.Last%time.Hour != 0 {
			return w, wrong("window.last", "is %s: usage is counted by the hour, so give whole hours, such as 168h", a.Last)
		}
		w.To = nextHour(now)
		w.From = w.To.Add(-a.Last)
	default:
		word := a.Period
		if word == "" {
			word = fallback
		}
		if err := w.setPeriod(word, a.Zone, now); err != nil {
			return w, err
		}
	}
	return w, w.check()
}

func (w *Window) check() error {
	for _, end := range []struct {
		field string
		at    time.Time
	}{{"window.start_time", w.From}, {"window.end_time", w.To}} {
		switch {
		case end.at.Truncate(time.Hour).Equal(end.at):
		case w.Name != "":
			return wrong("window.time_zone", "%s in %s begins or ends at %s UTC, and usage is counted by whole hours of UTC: use a zone that is whole hours from UTC, or start_time and end_time",
				w.Name, w.Zone, end.at.UTC().Format("15:04"))
		default:
			return wrong(end.field, "is %s: usage is counted by whole hours of UTC, so give a whole hour", end.at.UTC().Format(time.RFC3339Nano))
		}
	}
	switch {
	case !w.From.Before(w.To):
		return wrong("window", "is empty: its start %s must be before its end %s", stamp(w.From), stamp(w.To))
	case w.To.Sub(w.From) > MaxWindow:
		return wrong("window", "is %d days long: ask for at most %d", int(w.To.Sub(w.From).Hours()/24), int(MaxWindow.Hours()/24))
	}
	return nil
}

var periodForms = []struct {
	calendar charter.Calendar
	form     *regexp.Regexp
	word     string
}{
	{charter.Day, regexp.MustCompile(`^(\d{4})-(\d\d)-(\d\d)$`), "day"},
	{charter.Week, regexp.MustCompile(`^(\d{4})-W(\d\d)$`), "week"},
	{charter.Month, regexp.MustCompile(`^(\d{4})-(\d\d)$`), "month"},
	{charter.Quarter, regexp.MustCompile(`^(\d{4})-Q([1-4])$`), "quarter"},
	{charter.Year, regexp.MustCompile(`^(\d{4})$`), "year"},
}

func (w *Window) setPeriod(word, zone string, now time.Time) error {
	which, unit, _ := strings.Cut(word, "-")
	for _, f := range periodForms {
		p, err := charter.NewPeriod(f.calendar, zone, time.Time{}, time.Time{})
		if err != nil {
			return wrong("window.time_zone", "%v", err)
		}
		var span charter.Span
		if unit == f.word && (which == "this" || which == "last") {
			if span, _ = p.At(now); which == "last" {
				span, _ = p.Before(span)
			}
		} else if m := f.form.FindStringSubmatch(word); m != nil {
			if span, _ = p.At(inside(f.calendar, m, w.Zone)); span.String() != word { // such as 2026-02-30
				return wrong("window.period", "there is no %q in the calendar", word)
			}
		} else {
			continue
		}
		w.From, w.To, w.Name, w.calendar = span.Start.UTC(), span.End.UTC(), span.String(), p
		return nil
	}
	return wrong("window.period", "%q is no period: write 2026, 2026-Q4, 2026-10, 2026-W48, 2026-11-23, this-month or last-quarter", word)
}

// inside gives a time within the period that was written.
func inside(c charter.Calendar, m []string, zone *time.Location) time.Time {
	n := [3]int{0, 1, 1}
	for i, s := range m[1:] {
		n[i], _ = strconv.Atoi(s)
	}
	switch c {
	case charter.Week: // the week of 4 January is the first
		return time.Date(n[0], 1, 4+7*(n[1]-1), 12, 0, 0, 0, zone)
	case charter.Quarter:
		return time.Date(n[0], time.Month(3*n[1]), 1, 12, 0, 0, 0, zone)
	}
	return time.Date(n[0], time.Month(n[1]), n[2], 12, 0, 0, 0, zone)
}

// Before is what a window is compared with: the calendar period before, or as long a time just before. Where now is
// within the window, it is as long as what of the window is over, so that like is compared with like.
func (w Window) Before(now time.Time) Window {
	b := w
	b.Name = ""
	if span, ok := w.calendar.At(w.From); w.Name != "" && ok {
		before, _ := w.calendar.Before(span)
		b.From, b.To, b.Name = before.Start.UTC(), before.End.UTC(), before.String()
	} else {
		b.From, b.To = w.From.Add(w.From.Sub(w.To)), w.From
	}
	if over := w.Elapsed(now); over.Before(w.To) {
		if to := b.From.Add(over.Sub(w.From)); to.Before(b.To) {
			b.To = to
		}
	}
	return b
}

// Elapsed is up to where a window is over at a time, to the end of that hour.
func (w Window) Elapsed(now time.Time) time.Time {
	end := nextHour(now)
	if end.Before(w.From) {
		end = w.From
	}
	if w.To.Before(end) {
		return w.To
	}
	return end
}

// String names a window for people.
func (w Window) String() string {
	if w.Name != "" {
		return w.Name
	}
	return stamp(w.From) + " to " + stamp(w.To)
}

// nextHour is the end of the hour that t is in.
func nextHour(t time.Time) time.Time { return t.UTC().Truncate(time.Hour).Add(time.Hour) }

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }
