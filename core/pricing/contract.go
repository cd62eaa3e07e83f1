package pricing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Contract is what changes prices besides the prices themselves.
type Contract struct {
	Book        string // the price book that it stands in, for errors
	Adjustments []Adjustment
	Rates       []ExchangeRate
}

// Adjustment multiplies the whole cost of some models: a discount, or a surcharge. Those that hold multiply.
type Adjustment struct {
	Provider string    // of the price; empty: any
	Model    string    // an id, or the beginning of ids before a `*`; empty: any
	Region   string    // empty: any
	From, To time.Time // zero: always, and to no end
	Factor   Ratio
	Reason   string
}

// ExchangeRate is what one unit of From is in To, from Effective on until the pair's next rate.
type ExchangeRate struct {
	From, To  string
	Effective time.Time
	Rate      Ratio
}

type pair struct{ from, to string }

type conversion struct {
	price *Price
	rate  *ExchangeRate
}

// take checks contracts and keeps their exchange rates.
func (b *Book) take(contracts []Contract) ([]Adjustment, error) {
	var all []Adjustment
	b.rates = map[pair][]ExchangeRate{}
	for _, c := range contracts {
		for i, a := range c.Adjustments {
			problem := ""
			switch {
			case a.Factor.Num == 0 || a.Factor.Den == 0:
				problem = "has no multiplier above 0"
			case !a.To.IsZero() && !a.To.After(a.From):
				problem = fmt.Sprintf("ends at %s, before it begins", stamp(a.To))
			case strings.Contains(strings.TrimSuffix(a.Model, "*"), "*"):
				problem = fmt.Sprintf("has the model %q: a * may only be its end", a.Model)
			}
			for _, o := range all {
				if a.Provider == o.Provider && a.Model == o.Model && a.Region == o.Region &&
					(a.To.IsZero() || o.From.Before(a.To)) && (o.To.IsZero() || a.From.Before(o.To)) {
					problem = "overlaps another of the same provider, model and region: end one where the other begins"
				}
			}
			if problem != "" {
				return nil, &ConflictError{Book1: c.Book, Problem: fmt.Sprintf("adjustments[%d] %s", i, problem)}
			}
			all = append(all, a)
		}
		for i, r := range c.Rates {
			p := pair{r.From, r.To}
			problem := ""
			switch {
			case r.Rate.Num == 0 || r.Rate.Den == 0:
				problem = "is not above 0"
			case r.From == r.To:
				problem = fmt.Sprintf("is from %s to itself", r.From)
			case slices.ContainsFunc(b.rates[p], func(o ExchangeRate) bool { return o.Effective.Equal(r.Effective) }):
				problem = fmt.Sprintf("is a second one from %s to %s at %s: remove one", r.From, r.To, stamp(r.Effective))
			}
			if problem != "" {
				return nil, &ConflictError{Book1: c.Book, Problem: fmt.Sprintf("exchange_rates[%d] %s", i, problem)}
			}
			b.rates[p] = append(b.rates[p], r)
		}
	}
	for _, list := range b.rates {
		slices.SortFunc(list, func(x, y ExchangeRate) int { return x.Effective.Compare(y.Effective) })
	}
	return all, nil
}

func (a *Adjustment) isFor(p *Price) bool {
	if a.Provider != "" && a.Provider != p.Provider {
		return false
	}
	if prefix, ok := strings.CutSuffix(a.Model, "*"); ok {
		return strings.HasPrefix(p.Model, prefix)
	}
	return a.Model == "" || a.Model == p.Model
}

// adjust multiplies the prices that an adjustment is for, for its time.
func (d *dated) adjust(a *Adjustment) error {
	if !slices.ContainsFunc(d.prices, a.isFor) {
		return nil
	}
	d.cut(a.From)
	if !a.To.IsZero() {
		d.cut(a.To)
	}
	done := map[*Price]*Price{}
	return d.between(a.From, a.To, func(s *segment) error {
		if s.price == nil || !a.isFor(s.price) {
			return nil
		}
		adjusted := done[s.price]
		if adjusted == nil {
			p := *s.price
			if err := p.SetVariants(append(slices.Clone(p.variants), Variant{Region: a.Region, Multiplier: a.Factor, whole: true})); err != nil {
				return err
			}
			adjusted = &p
			done[s.price] = adjusted
		}
		s.price = adjusted
		return nil
	})
}

// NoRateError says that there is no exchange rate at a time.
type NoRateError struct {
	From, To  string
	At, First time.Time // First is zero where there is none at all
}

func (e *NoRateError) Error() string {
	s := fmt.Sprintf("there is no exchange rate from %s to %s at %s: add one to a price book's exchange_rates", e.From, e.To, stamp(e.At))
	if !e.First.IsZero() {
		s += fmt.Sprintf("; the first is from %s", stamp(e.First))
	}
	return s
}

// In gives what a price of the book is in another currency at a time. The cost is still rounded once. Errors:
// *NoRateError, money.ErrOverflow.
func (b *Book) In(p *Price, currency string, at time.Time) (*Price, error) {
	if p.Currency == currency {
		return p, nil
	}
	rates := b.rates[pair{p.Currency, currency}]
	i, found := slices.BinarySearchFunc(rates, at, func(r ExchangeRate, t time.Time) int { return r.Effective.Compare(t) })
	if !found {
		i--
	}
	if i < 0 {
		e := &NoRateError{From: p.Currency, To: currency, At: at}
		if len(rates) > 0 {
			e.First = rates[0].Effective
		}
		return nil, e
	}
	key := conversion{p, &rates[i]}
	if q, ok := b.converted.Load(key); ok {
		return q.(*Price), nil
	}
	q, err := p.times(rates[i].Rate)
	if err != nil {
		return nil, err
	}
	q = q.Kept(p.Book, currency, p.Revision)
	b.converted.Store(key, q)
	return q, nil
}

// times is the price with its whole cost multiplied.
func (p *Price) times(r Ratio) (*Price, error) {
	return p.each(func(q *Price) error {
		var err error
		q.factor, err = q.factor.or1().times(r)
		return err
	})
}

// Kept is the price as a book keeps it.
func (p *Price) Kept(book, currency string, revision int64) *Price {
	q, _ := p.each(func(q *Price) error {
		q.Book, q.Currency, q.Revision = book, currency, revision
		return nil
	})
	return q
}

// each copies a price with all that it becomes, and changes each.
func (p *Price) each(change func(*Price) error) (*Price, error) {
	q := *p
	if err := change(&q); err != nil {
		return nil, err
	}
	if p.base != nil {
		var err error
		if q.base, err = p.base.each(change); err != nil {
			return nil, err
		}
	}
	if len(p.long) > 0 {
		q.long = make([]long, len(p.long))
		for i, l := range p.long {
			changed, err := l.price.each(change)
			if err != nil {
				return nil, err
			}
			q.long[i] = long{l.over, changed}
		}
	}
	if p.resolved != nil {
		q.resolved = make(map[uint64]*Price, len(p.resolved))
		for mask, r := range p.resolved {
			changed, err := r.each(change)
			if err != nil {
				return nil, err
			}
			q.resolved[mask] = changed
		}
	}
	return &q, nil
}

// Restate is what the cost of u, settled at old, grows by at the price that corrects it, and where: negative where it
// falls. Both prices are under the terms of the call, in one currency. Errors: those of Price.Cost.
func Restate(u *usage.Usage, old, corrected *Price) (money.Nanos, usage.Cost, error) {
	_, was, err := old.Split(u)
	if err != nil {
		return 0, usage.Cost{}, err
	}
	total, is, err := corrected.Split(u)
	if err != nil {
		return 0, usage.Cost{}, err
	}
	before, err := was.Total()
	if err != nil {
		return 0, usage.Cost{}, err
	}
	return total - before, usage.Cost{
		Input: is.Input - was.Input, ContextOverhead: is.ContextOverhead - was.ContextOverhead, Output: is.Output - was.Output,
		Retrieval: is.Retrieval - was.Retrieval, Tools: is.Tools - was.Tools, Compute: is.Compute - was.Compute, Other: is.Other - was.Other,
	}, nil
}
