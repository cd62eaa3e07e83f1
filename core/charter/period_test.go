package charter

import (
	"errors"
	"testing"
	"time"
)

func at(t *testing.T, zone, s string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	v, err := time.ParseInLocation("2006-01-02 15:04", s, loc)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPeriodAt(t *testing.T) {
	for _, c := range []struct {
		calendar         Calendar
		zone, now        string
		name, start, end string
	}{
		{Day, "Europe/Zurich", "2026-11-23 00:00", "2026-11-23", "2026-11-23 00:00", "2026-11-24 00:00"},
		{Day, "Europe/Zurich", "2026-03-29 23:59", "2026-03-29", "2026-03-29 00:00", "2026-03-30 00:00"},      // 23 hours
		{Day, "America/Havana", "2026-03-08 12:00", "2026-03-08", "2026-03-08 01:00", "2026-03-09 00:00"},     // no midnight
		{Day, "Pacific/Kiritimati", "2026-01-01 00:30", "2026-01-01", "2026-01-01 00:00", "2026-01-02 00:00"}, // UTC+14
		{Week, "UTC", "2026-11-29 23:00", "2026-W48", "2026-11-23 00:00", "2026-11-30 00:00"},
		{Week, "UTC", "2027-01-01 10:00", "2026-W53", "2026-12-28 00:00", "2027-01-04 00:00"},
		{Month, "Asia/Tokyo", "2026-12-31 23:59", "2026-12", "2026-12-01 00:00", "2027-01-01 00:00"},
		{Quarter, "UTC", "2026-11-23 12:00", "2026-Q4", "2026-10-01 00:00", "2027-01-01 00:00"},
		{Quarter, "UTC", "2026-01-01 00:00", "2026-Q1", "2026-01-01 00:00", "2026-04-01 00:00"},
		{Year, "America/New_York", "2026-01-01 00:00", "2026", "2026-01-01 00:00", "2027-01-01 00:00"},
	} {
		p, err := NewPeriod(c.calendar, c.zone, time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		s, ok := p.At(at(t, c.zone, c.now))
		if !ok || s.String() != c.name || !s.Start.Equal(at(t, c.zone, c.start)) || !s.End.Equal(at(t, c.zone, c.end)) {
			t.Errorf("%s in %s: %s, %s to %s", c.now, c.zone, s, s.Start, s.End)
		}
		if before, ok := p.Before(s); !ok || !before.End.Equal(s.Start) {
			t.Errorf("%s in %s: the period before ends %s", c.now, c.zone, before.End)
		}
	}
}

// Every instant is in exactly one span, and spans follow one another without gap, in zones with odd clock changes.
func TestPeriodsTileTime(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Zurich", "America/Havana", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "Africa/Cairo"} {
		for c := Day; c <= Year; c++ {
			p, err := NewPeriod(c, zone, time.Time{}, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			from := time.Date(2011, 12, 1, 0, 0, 0, 0, time.UTC) // Apia skips 2011-12-30
			last, _ := p.At(from)
			for now := from; now.Before(from.AddDate(1, 6, 0)); now = now.Add(97 * time.Minute) {
				s, ok := p.At(now)
				if !ok || !s.Contains(now) {
					t.Fatalf("%s %d: %s is not in %s to %s", zone, c, now, s.Start, s.End)
				}
				if !s.Start.Equal(last.Start) && !s.Start.Equal(last.End) {
					t.Fatalf("%s %d: %s to %s comes after %s to %s", zone, c, s.Start, s.End, last.Start, last.End)
				}
				last = s
			}
		}
	}
}

func TestWindow(t *testing.T) {
	start, end := at(t, "UTC", "2026-01-10 00:00"), at(t, "UTC", "2026-02-10 00:00")
	p, err := NewPeriod(Window, "", start, end)
	if err != nil {
		t.Fatal(err)
	}
	for now, want := range map[string]bool{"2026-01-09 23:59": false, "2026-01-10 00:00": true, "2026-02-09 23:59": true, "2026-02-10 00:00": false} {
		if _, ok := p.At(at(t, "UTC", now)); ok != want {
			t.Errorf("%s is in the window: %v", now, ok)
		}
	}
}

func TestBadPeriods(t *testing.T) {
	now := time.Now()
	for name, make := range map[string]func() (Period, error){
		"nothing":          func() (Period, error) { return NewPeriod(Window, "", time.Time{}, time.Time{}) },
		"an empty window":  func() (Period, error) { return NewPeriod(Window, "", now, now) },
		"both":             func() (Period, error) { return NewPeriod(Day, "", now, now.Add(1)) },
		"an unknown zone":  func() (Period, error) { return NewPeriod(Day, "Europe/Atlantis", time.Time{}, time.Time{}) },
		"the local zone":   func() (Period, error) { return NewPeriod(Day, "Local", time.Time{}, time.Time{}) },
		"an unknown value": func() (Period, error) { return NewPeriod(9, "", time.Time{}, time.Time{}) },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s was taken", name)
		} else if _, ok := errors.AsType[*PeriodError](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
