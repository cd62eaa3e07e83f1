package pricing

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// ErrConflict is wrapped by every error that says how the dates of prices, adjustments or exchange rates do not fit.
var ErrConflict = errors.New("two prices take effect at the same time")

// Book finds the price of a model at a time. It is immutable.
type Book struct {
	byModel     map[string]*dated
	rates       map[pair][]ExchangeRate // the oldest first
	corrections []Correction
	converted   sync.Map // conversion -> *Price
}

// dated is a model's history.
type dated struct {
	prices   []*Price // as published, the oldest first, without corrections
	segments []segment
}

// segment is the price from a time on, to the next segment; nil where there is none.
type segment struct {
	from  time.Time
	price *Price
}

// Correction is a price that is put right for a time that has begun. Settlements of that time are restated by it.
type Correction struct {
	Model    string
	From, To time.Time // To is zero while the price is in force
	Old, New *Price
	Reason   string
}

// NewBook orders prices by model and time, and applies contracts to them. Errors: *ConflictError, *VariantError.
func NewBook(prices []*Price, contracts ...Contract) (*Book, error) {
	b := &Book{byModel: make(map[string]*dated)}
	corrections := map[string][]*Price{}
	for _, p := range prices {
		if p.Corrects != nil {
			corrections[p.Model] = append(corrections[p.Model], p)
			continue
		}
		d := b.byModel[p.Model]
		if d == nil {
			d = &dated{}
			b.byModel[p.Model] = d
		}
		d.prices = append(d.prices, p)
	}
	for model, list := range corrections {
		if b.byModel[model] == nil {
			p := list[0]
			return nil, &ConflictError{Model: model, Effective: p.Effective, Book1: p.Book, Problem: "corrects a price that is not there"}
		}
	}
	adjustments, err := b.take(contracts)
	if err != nil {
		return nil, err
	}
	for model, d := range b.byModel {
		slices.SortFunc(d.prices, func(x, y *Price) int { return x.Effective.Compare(y.Effective) })
		if err := d.chain(); err != nil {
			return nil, err
		}
		for _, p := range corrections[model] {
			c, err := d.correct(p)
			if err != nil {
				return nil, err
			}
			b.corrections = append(b.corrections, c)
		}
		for i := range adjustments {
			if err := d.adjust(&adjustments[i]); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(b.corrections, func(x, y Correction) int { return x.From.Compare(y.From) })
	return b, nil
}

// chain checks that the prices follow each other and makes segments of them.
func (d *dated) chain() error {
	for i, p := range d.prices {
		d.segments = append(d.segments, segment{p.Effective, p})
		last := i+1 == len(d.prices)
		if !last && p.Effective.Equal(d.prices[i+1].Effective) {
			return &ConflictError{Model: p.Model, Effective: p.Effective, Book1: p.Book, Book2: d.prices[i+1].Book}
		}
		if p.Expires.IsZero() {
			continue
		}
		problem := ""
		switch {
		case !p.Expires.After(p.Effective):
			problem = fmt.Sprintf("ends at %s, before it begins", stamp(p.Expires))
		case last:
			d.segments = append(d.segments, segment{p.Expires, nil})
		case p.Expires.After(d.prices[i+1].Effective):
			problem = fmt.Sprintf("ends at %s and overlaps the next, which begins at %s: end it then, or leave expire_time out", stamp(p.Expires), stamp(d.prices[i+1].Effective))
		case p.Expires.Before(d.prices[i+1].Effective):
			problem = fmt.Sprintf("ends at %s and leaves a gap to the next, which begins at %s: end it then, or leave expire_time out", stamp(p.Expires), stamp(d.prices[i+1].Effective))
		}
		if problem != "" {
			return &ConflictError{Model: p.Model, Effective: p.Effective, Book1: p.Book, Problem: problem}
		}
	}
	return nil
}

// correct lays p over the price that it corrects.
func (d *dated) correct(p *Price) (Correction, error) {
	fail := func(problem string) (Correction, error) {
		return Correction{}, &ConflictError{Model: p.Model, Effective: p.Effective, Book1: p.Book, Problem: problem}
	}
	i := slices.IndexFunc(d.prices, func(q *Price) bool { return q.Effective.Equal(p.Corrects.Effective) })
	if i < 0 {
		return fail(fmt.Sprintf("corrects the price from %s, which is not there", stamp(p.Corrects.Effective)))
	}
	old := d.prices[i]
	end := old.Expires
	if i+1 < len(d.prices) {
		end = d.prices[i+1].Effective
	}
	to := p.Expires
	if to.IsZero() {
		to = end
	}
	if p.Effective.Before(old.Effective) || !end.IsZero() && to.After(end) || !to.IsZero() && !to.After(p.Effective) {
		return fail(fmt.Sprintf("corrects the price from %s, but is not within its time", stamp(old.Effective)))
	}
	for _, s := range d.segments {
		if s.price != nil && s.price.Corrects != nil && !s.from.Before(p.Effective) && (to.IsZero() || s.from.Before(to)) || d.at(p.Effective).corrected() {
			return fail("overlaps another correction")
		}
	}
	d.cut(p.Effective)
	if !to.IsZero() {
		d.cut(to)
	}
	d.between(p.Effective, to, func(s *segment) error { s.price = p; return nil })
	return Correction{p.Model, p.Effective, to, old, p, p.Corrects.Reason}, nil
}

func (p *Price) corrected() bool { return p != nil && p.Corrects != nil }

// at gives the price at a time; nil if there is none.
func (d *dated) at(t time.Time) *Price {
	for i := len(d.segments) - 1; i >= 0; i-- {
		if !d.segments[i].from.After(t) {
			return d.segments[i].price
		}
	}
	return nil
}

// cut makes a segment begin at a time, with the price that is in force then.
func (d *dated) cut(t time.Time) {
	i := slices.IndexFunc(d.segments, func(s segment) bool { return !s.from.Before(t) })
	if i == 0 || i > 0 && d.segments[i].from.Equal(t) {
		return
	}
	if i < 0 {
		i = len(d.segments)
	}
	d.segments = slices.Insert(d.segments, i, segment{t, d.segments[i-1].price})
}

// between calls f for the segments that begin from a time on and before another; a zero time is no bound.
func (d *dated) between(from, to time.Time, f func(*segment) error) error {
	for i := range d.segments {
		if s := &d.segments[i]; !s.from.Before(from) && (to.IsZero() || s.from.Before(to)) {
			if err := f(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// ConflictError wraps ErrConflict. Without a problem two prices of a model begin at the same time.
type ConflictError struct {
	Model        string
	Effective    time.Time
	Book1, Book2 string
	Problem      string
}

func (e *ConflictError) Error() string {
	if e.Model == "" {
		return fmt.Sprintf("%s: %s", e.Book1, e.Problem)
	}
	if e.Problem != "" {
		return fmt.Sprintf("the price of model %q from %s on (in %s) %s", e.Model, stamp(e.Effective), e.Book1, e.Problem)
	}
	return fmt.Sprintf("model %q has two prices from %s on (in %s and %s): remove one", e.Model, stamp(e.Effective), e.Book1, e.Book2)
}

// Unwrap gives ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Lookup gives the price in force at a time, under the provider's standard terms. Error: *UnpricedError.
func (b *Book) Lookup(model string, at time.Time) (*Price, error) {
	return b.For(model, Terms{Time: at})
}

// For gives the price under some terms. It does not allocate. Error: *UnpricedError.
func (b *Book) For(model string, t Terms) (*Price, error) {
	if b != nil {
		if d := b.byModel[model]; d != nil {
			if p := d.at(t.Time); p != nil {
				return p.For(t)
			}
		}
	}
	return nil, &UnpricedError{Model: model}
}

// History gives the prices of a model as published, the oldest first, without corrections.
func (b *Book) History(model string) []*Price {
	if b == nil || b.byModel[model] == nil {
		return nil
	}
	return b.byModel[model].prices
}

// Corrections lists the corrections, by when they begin.
func (b *Book) Corrections() []Correction {
	if b == nil {
		return nil
	}
	return b.corrections
}
