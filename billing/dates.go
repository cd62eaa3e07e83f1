package billing

import (
	"fmt"
	"strings"
	"time"
)

// layouts of times in bills. A time without a zone is UTC; a date with slashes is month first, as Azure writes it.
var layouts = []string{
	"2006-01-02 15:04:05", "2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05", "2006-01-02", "01/02/2006",
	"2006-01-02 15:04:05 MST", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05-07", "2006-01-02T15:04Z07:00", "2006-01-02 15:04",
	"1/2/2006", "01/02/2006 15:04:05", "1/2/2006 15:04", "1/2/2006 3:04:05 PM", "1/2/2006 15:04:05", "20060102", "200601", "2006-01",
}

// dates reads times and remembers the last texts, since lines repeat them.
type dates struct {
	texts [4]string
	times [4]time.Time
	next  int
	last  int // index of the layout that fitted last
}

func (d *dates) parse(s string) (time.Time, error) {
	for i, t := range d.texts {
		if t == s && t != "" {
			return d.times[i], nil
		}
	}
	at, err := d.read(strings.TrimSpace(s))
	if err != nil {
		return time.Time{}, err
	}
	d.texts[d.next], d.times[d.next] = strings.Clone(s), at
	d.next = (d.next + 1) % len(d.texts)
	return at, nil
}

func (d *dates) read(s string) (time.Time, error) {
	if t, err := time.Parse(layouts[d.last], s); err == nil {
		return within(t, s)
	}
	for i, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			if strings.HasSuffix(layout, "MST") && t.Location() != time.UTC {
				break // Go knows no offset for a zone's abbreviation
			}
			d.last = i
			return within(t, s)
		}
	}
	if strings.Count(s, "/") == 2 {
		return time.Time{}, fmt.Errorf("%s is not a date: with slashes the month comes first, such as 9/21/2026", quote(s))
	}
	return time.Time{}, fmt.Errorf("%s is not a time such as 2026-09-21T00:00:00Z or 2026-09-21", quote(s))
}

func within(t time.Time, s string) (time.Time, error) {
	if t.Year() < 2000 || t.Year() > 2200 {
		return time.Time{}, fmt.Errorf("%s is not between the years 2000 and 2200", quote(s))
	}
	return t.UTC(), nil
}

func monthOf(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }
