package report

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 23, 14, 25, 0, 0, time.UTC)

func at(s string) time.Time {
	t, err := time.Parse("2006-01-02T15", s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestWindows(t *testing.T) {
	for _, c := range []struct {
		ask                      Ask
		from, to, before, beyond string // of the window, and of the one before
		name                     string
	}{
		{Ask{Last: 24 * time.Hour}, "2026-11-22T15", "2026-11-23T15", "2026-11-21T15", "2026-11-22T15", ""},
		{Ask{From: at("2026-11-01T00"), To: at("2026-11-08T00")}, "2026-11-01T00", "2026-11-08T00", "2026-10-25T00", "2026-11-01T00", ""},
		{Ask{From: at("2026-11-23T00")}, "2026-11-23T00", "2026-11-23T15", "2026-11-22T09", "2026-11-23T00", ""},
		{Ask{Period: "2026-10"}, "2026-10-01T00", "2026-11-01T00", "2026-09-01T00", "2026-10-01T00", "2026-10"},
		{Ask{Period: "2026-10", Zone: "Europe/Zurich"}, "2026-09-30T22", "2026-10-31T23", "2026-08-31T22", "2026-09-30T22", "2026-10"},
		{Ask{Period: "2026-Q3"}, "2026-07-01T00", "2026-10-01T00", "2026-04-01T00", "2026-07-01T00", "2026-Q3"},
		{Ask{Period: "2025"}, "2025-01-01T00", "2026-01-01T00", "2024-01-01T00", "2025-01-01T00", "2025"},
		{Ask{Period: "2026-W47"}, "2026-11-16T00", "2026-11-23T00", "2026-11-09T00", "2026-11-16T00", "2026-W47"},
		{Ask{Period: "2020-W53"}, "2020-12-28T00", "2021-01-04T00", "2020-12-21T00", "2020-12-28T00", "2020-W53"},
		{Ask{Period: "2026-11-22"}, "2026-11-22T00", "2026-11-23T00", "2026-11-21T00", "2026-11-22T00", "2026-11-22"},
		// A period that is not over is compared with as much of the one before.
		{Ask{Period: "this-month"}, "2026-11-01T00", "2026-12-01T00", "2026-10-01T00", "2026-10-23T15", "2026-11"},
		{Ask{Period: "last-quarter"}, "2026-07-01T00", "2026-10-01T00", "2026-04-01T00", "2026-07-01T00", "2026-Q3"},
		{Ask{}, "2026-11-23T00", "2026-11-24T00", "2026-11-22T00", "2026-11-22T15", "2026-11-23"},
	} {
		w, err := c.ask.Window(now, "this-day")
		if err != nil {
			t.Errorf("%+v: %v", c.ask, err)
			continue
		}
		b := w.Before(now)
		if !w.From.Equal(at(c.from)) || !w.To.Equal(at(c.to)) || !b.From.Equal(at(c.before)) || !b.To.Equal(at(c.beyond)) || w.Name != c.name {
			t.Errorf("%+v: %s (%s to %s), before it %s to %s", c.ask, w, w.From, w.To, b.From, b.To)
		}
	}
}

func TestWindowsThatCannotBe(t *testing.T) {
	half := at("2026-11-23T10").Add(30 * time.Minute)
	for _, c := range []struct {
		ask   Ask
		field string
		says  string
	}{
		{Ask{Zone: "Mars/Base"}, "window.time_zone", "Europe/Zurich"},
		{Ask{Zone: "Local"}, "window.time_zone", "unknown"},
		{Ask{Last: time.Hour, Period: "2026"}, "window", "not several"},
		{Ask{To: at("2026-11-01T00")}, "window.start_time", "missing"},
		{Ask{From: half}, "window.start_time", "whole hour"},
		{Ask{From: at("2026-11-23T00"), To: half}, "window.end_time", "whole hour"},
		{Ask{From: at("2026-11-23T00"), To: at("2026-11-23T00")}, "window", "empty"},
		{Ask{From: at("2022-11-23T00"), To: at("2026-11-23T00")}, "window", "1098"},
		{Ask{Last: 90 * time.Minute}, "window.last", "whole hours"},
		{Ask{Last: -time.Hour}, "window.last", "whole hours"},
		{Ask{Period: "october"}, "window.period", "2026-10"},
		{Ask{Period: "2026-13"}, "window.period", "no \"2026-13\""},
		{Ask{Period: "2026-02-30"}, "window.period", "no \"2026-02-30\""},
		{Ask{Period: "2026-W54"}, "window.period", "no \"2026-W54\""},
		{Ask{Period: "next-month"}, "window.period", "is no period"},
		{Ask{Period: "2026-10", Zone: "Asia/Kolkata"}, "window.time_zone", "18:30 UTC"},
	} {
		_, err := c.ask.Window(now, "this-day")
		e, ok := errors.AsType[*FieldError](err)
		if !ok || e.Field != c.field || !strings.Contains(e.Problem, c.says) {
			t.Errorf("%+v: %v; want %s and %q", c.ask, err, c.field, c.says)
		}
	}
}

func TestStepsCoverTheWindow(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Zurich", "America/New_York"} {
		for step := StepHour; step <= StepMonth; step++ {
			a := Ask{From: at("2026-10-14T05"), To: at("2026-11-20T07"), Zone: zone} // with a change of clocks
			w, err := a.Window(now, "")
			if err != nil {
				t.Fatal(err)
			}
			st, err := w.steps(step, now)
			if err != nil {
				t.Fatal(err)
			}
			for i := 1; i < len(st.starts); i++ {
				if !st.starts[i-1].Before(st.starts[i]) || st.index(st.starts[i]) != i || st.index(st.starts[i].Add(-time.Second)) != i-1 {
					t.Fatalf("%s, step %d: %s after %s", zone, step, st.starts[i], st.starts[i-1])
				}
			}
			if n := len(st.starts); !st.starts[0].Equal(w.From) || st.index(w.To.Add(-time.Hour)) != n-1 {
				t.Errorf("%s, step %d: %d from %s", zone, step, n, st.starts[0])
			}
			if step != StepHour && (st.whole[0] || st.whole[len(st.whole)-1]) {
				t.Errorf("%s, step %d: the window cuts the first and last point off, and they do not say so", zone, step)
			}
		}
	}
	w, _ := (&Ask{Period: "2025", Zone: "UTC"}).Window(now, "")
	w.From = w.From.AddDate(-1, 0, 0)
	if _, err := w.steps(StepHour, now); err == nil || !strings.Contains(err.Error(), "10000") {
		t.Errorf("two years by the hour: %v", err)
	}
}
