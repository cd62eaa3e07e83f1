package billing

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/bill"
)

// shownLines is how many lines a report names for each reason.
const shownLines = 5

// Report says what a file holds and what could not be read of it.
type Report struct {
	File     string    `json:"file"`
	Format   string    `json:"format"`
	Hash     string    `json:"sha256,omitempty"`
	State    string    `json:"state"` // imported, already imported, dry run
	Read     int64     `json:"rows_read"`
	Imported int64     `json:"rows_imported"`
	Skipped  int64     `json:"rows_skipped"`
	Restated int64     `json:"rows_restated"` // lines of earlier imports that these replace
	Removed  int64     `json:"rows_removed"`  // lines of earlier imports that --replace takes away
	Kept     int64     `json:"rows_kept"`     // lines of earlier imports, of the same accounts and periods, that the file does not have
	Reasons  []Reason  `json:"skipped,omitempty"`
	Warnings []Reason  `json:"warnings,omitempty"` // of rows that were imported
	Totals   []Total   `json:"totals"`
	From     time.Time `json:"from"`                     // the first day of a charge
	To       time.Time `json:"to"`                       // the last
	Periods  []string  `json:"billing_periods"`          // months
	Absent   []string  `json:"absent_columns,omitempty"` // what they say is not known

	totals map[string]*Total
	months map[time.Time]bool
}

// Reason counts the rows that were skipped for it.
type Reason struct {
	Reason string   `json:"reason"`
	Rows   int64    `json:"rows"`
	First  []string `json:"first"` // lines with what is wrong, at most 5
}

// Total is the sum of one currency. Exact sums have every decimal of the file; those of the lines are of amounts that were
// each rounded once to a nano, half away from zero.
type Total struct {
	Currency         string `json:"currency"`
	Rows             int64  `json:"rows"`
	BilledExact      string `json:"billed_cost"`
	EffectiveExact   string `json:"effective_cost"`
	ListExact        string `json:"list_cost"`
	CreditsExact     string `json:"credits,omitempty"` // of the billed cost, where lines have credits inside
	Billed           string `json:"billed_cost_of_lines"`
	Effective        string `json:"effective_cost_of_lines"`
	List             string `json:"list_cost_of_lines"`
	WithoutEffective int64  `json:"rows_without_effective_cost,omitempty"`
	WithoutList      int64  `json:"rows_without_list_cost,omitempty"`

	billed, effective, list, credits bill.Sum
	billedN, effectiveN, listN       bill.Sum
}

// NewReport begins the report of a file.
func NewReport(f *File) *Report {
	return &Report{File: f.name, Format: f.label, Absent: f.Absent, totals: map[string]*Total{}, months: map[time.Time]bool{}}
}

// Count counts a line. Error: money.ErrOverflow.
func (r *Report) Count(l *bill.Line) error {
	r.Read++
	r.Imported++
	day := l.Start.Truncate(24 * time.Hour)
	if r.From.IsZero() || day.Before(r.From) {
		r.From = day
	}
	if day.After(r.To) {
		r.To = day
	}
	if !r.months[l.PeriodStart] {
		r.months[l.PeriodStart] = true
	}
	t := r.totals[l.Currency]
	if t == nil {
		t = &Total{Currency: l.Currency}
		r.totals[l.Currency] = t
	}
	return t.add(l)
}

func (t *Total) add(l *bill.Line) error {
	t.Rows++
	t.credits.Add(l.Credits)
	for _, c := range []struct {
		d       *bill.Decimal
		exact   *bill.Sum
		lines   *bill.Sum
		without *int64
	}{{&l.Billed, &t.billed, &t.billedN, nil}, {l.Effective, &t.effective, &t.effectiveN, &t.WithoutEffective}, {l.List, &t.list, &t.listN, &t.WithoutList}} {
		if c.d == nil {
			*c.without++
			continue
		}
		c.exact.Add(*c.d)
		a, err := c.d.Amount()
		if err != nil {
			return err
		}
		c.lines.Add(a.Decimal())
	}
	return nil
}

// Skip counts a record that could not be read.
func (r *Report) Skip(e *RowError) {
	r.Read++
	r.Skipped++
	r.Reasons = note(r.Reasons, e)
}

func note(list []Reason, e *RowError) []Reason {
	i := slices.IndexFunc(list, func(x Reason) bool { return x.Reason == e.Reason })
	if i < 0 {
		i = len(list)
		list = append(list, Reason{Reason: e.Reason})
	}
	x := &list[i]
	if x.Rows++; len(x.First) < shownLines {
		x.First = append(x.First, e.Error())
	}
	return list
}

// Finish writes the sums down.
func (r *Report) Finish() {
	r.Totals = r.Totals[:0]
	for _, t := range r.totals {
		t.BilledExact, t.EffectiveExact, t.ListExact = t.billed.String(), t.effective.String(), t.list.String()
		t.Billed, t.Effective, t.List = t.billedN.String(), t.effectiveN.String(), t.listN.String()
		if c := t.credits.String(); c != "0" {
			t.CreditsExact = c
		}
		r.Totals = append(r.Totals, *t)
	}
	slices.SortFunc(r.Totals, func(a, b Total) int {
		if a.Currency < b.Currency {
			return -1
		}
		return 1
	})
	r.Periods = r.Periods[:0]
	for m := range r.months {
		r.Periods = append(r.Periods, m.Format("2006-01"))
	}
	slices.Sort(r.Periods)
	r.Periods = slices.Compact(r.Periods)
}

// ErrNothing says that no record of a file could be read; the report tells why.
var ErrNothing = errors.New("no row could be read")

// scan reads the rest of a bill, calls each for every line, and reports. strict ends at the first row that cannot be read.
// Errors: ErrNothing; what each gives.
func (f *File) scan(strict bool, each func(*bill.Line) error) (*Report, error) {
	r := NewReport(f)
	for {
		var l bill.Line
		err := f.Next(&l)
		if errors.Is(err, io.EOF) {
			break
		}
		if e, ok := errors.AsType[*RowError](err); ok {
			if strict && e.Reason != "blank" {
				return r, fmt.Errorf("%s: %w", f.name, e)
			}
			r.Skip(e)
			continue
		}
		if err == nil {
			if w := f.r.warning; w != nil {
				r.Warnings = note(r.Warnings, &RowError{Line: f.table.line(), Column: w.column, Reason: w.reason, Detail: w.detail})
			}
			err = r.Count(&l)
		}
		if err == nil && each != nil {
			err = each(&l)
		}
		if err != nil {
			return r, err
		}
	}
	r.Finish()
	return r, r.nothing()
}

func (r *Report) nothing() error {
	if r.Imported > 0 {
		return nil
	}
	if len(r.Reasons) == 0 {
		return named(r.File, ErrEmpty)
	}
	return fmt.Errorf("%s: %w: %s", r.File, ErrNothing, r.Reasons[0].First[0])
}
