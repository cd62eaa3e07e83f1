package bill

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Finding names one cause with its place and size.
type Finding struct {
	Cause                     Cause
	Currency, Provider, Model string // Model is empty where it is all of the provider
	Component                 string // of a rate: input, output; empty: all tokens alike
	From, To                  time.Time
	Amount                    money.Nanos // of the variance; of what was billed without a tag for Unallocated
	PPM                       int64       // Amount in parts per million: of the expected cost, or of the billed cost for Unallocated
	Tokens                    int64       // billed less counted, for Volume
}

const (
	leastPPM = 500   // a rate that differs by less is rounding
	samePPM  = 1_000 // rates that differ by less are one change
)

// Percent is PPM for people: `+3.00%`.
func (f *Finding) Percent() string { return percent(f.PPM) }

func percent(ppm int64) string {
	sign, n := "+", (ppm+50)/100
	if ppm < 0 {
		sign, n = "-", (-ppm+50)/100
	}
	return fmt.Sprintf("%s%d.%02d%%", sign, n/100, n%100)
}

func (f *Finding) String() string {
	when := f.From.Format(time.DateOnly)
	if !f.To.Equal(f.From) {
		when += " to " + f.To.Format(time.DateOnly)
	}
	amount := f.Amount.String() + " " + f.Currency
	of := f.Provider + " " + f.Model
	if f.Model == "" {
		of = f.Provider
	}
	switch f.Cause {
	case Rate:
		what := "its price"
		if f.Component != "" {
			what = "its price of " + f.Component
		}
		return fmt.Sprintf("rate: %s: %s is %s against the ledger's, %s: %s", of, what, f.Percent(), when, amount)
	case Volume:
		return fmt.Sprintf("volume: %s: %+d tokens billed against the ledger, %s: %s", of, f.Tokens, when, amount)
	case Unallocated:
		return fmt.Sprintf("unallocated: %s: %s of the bill has no feature tag, %s: %s", of, percent(f.PPM)[1:], when, amount)
	case MissingInBill:
		return fmt.Sprintf("missing in the bill: %s: the ledger has spend and the bill has nothing, %s: %s", of, when, amount)
	case MissingInLedger:
		return fmt.Sprintf("missing in the ledger: %s: the bill has charges and the ledger has nothing, %s: %s", of, when, amount)
	case Adjusted:
		return fmt.Sprintf("adjusted: %s: posted before, %s: %s", of, when, amount)
	}
	return fmt.Sprintf("unexplained: %s: a cost without tokens, %s: %s", of, when, amount)
}

// place is where a finding is collected.
type place struct{ currency, provider, model, component string }

type dayRate struct {
	rate, expected money.Nanos
	tokens         int64
}

type dayVolume struct {
	amount money.Nanos
	tokens int64
}

type finder struct {
	rates    map[place]map[time.Time]*dayRate
	volumes  map[place]map[time.Time]*dayVolume
	untagged map[place]map[time.Time]money.Nanos
	billed   map[place]money.Nanos
	days     map[Cause]map[place]map[time.Time]money.Nanos
	present  map[place]map[time.Time]bool // provider and day with any bill line
}

func newFinder() *finder {
	return &finder{map[place]map[time.Time]*dayRate{}, map[place]map[time.Time]*dayVolume{}, map[place]map[time.Time]money.Nanos{}, map[place]money.Nanos{},
		map[Cause]map[place]map[time.Time]money.Nanos{}, map[place]map[time.Time]bool{}}
}

func day[V any](m map[place]map[time.Time]V, p place) map[time.Time]V {
	if m[p] == nil {
		m[p] = make(map[time.Time]V)
	}
	return m[p]
}

func (f *finder) charge(k Key, c *Charge) {
	p := place{k.Currency, k.Provider, "", ""}
	day(f.present, p)[k.Day] = true
	f.billed[p] += c.Cost
	if c.Feature == "" {
		day(f.untagged, p)[k.Day] += c.Cost
	}
}

func (f *finder) rate(k Key, component string, rate, expected money.Nanos, tokens int64) {
	m := day(f.rates, place{k.Currency, k.Provider, k.Model, component})
	m[k.Day] = &dayRate{rate, expected, tokens}
}

func (f *finder) volume(k Key, tokens int64, amount money.Nanos) {
	m := day(f.volumes, place{k.Currency, k.Provider, k.Model, ""})
	if m[k.Day] == nil {
		m[k.Day] = &dayVolume{}
	}
	m[k.Day].tokens += tokens
	m[k.Day].amount += amount
}

func (f *finder) cell(k Key, rows []Variance) {
	for _, v := range rows {
		for _, c := range []Cause{MissingInBill, MissingInLedger, Adjusted, Unexplained} {
			if n := v.Parts[c]; n != 0 {
				if f.days[c] == nil {
					f.days[c] = make(map[place]map[time.Time]money.Nanos)
				}
				day(f.days[c], place{k.Currency, k.Provider, k.Model, ""})[k.Day] += n
			}
		}
	}
}

func ppm(part, whole money.Nanos) int64 {
	if whole < 0 {
		part, whole = -part, -whole
	}
	n := part
	if n < 0 {
		n = -n
	}
	if whole == 0 {
		return 0
	}
	x, err := money.MulDiv(int64(n), 1_000_000, int64(whole))
	if err != nil {
		x = 1<<62 - 1
	}
	if part < 0 {
		return -x
	}
	return x
}

func abs(n int64) int64 { return max(n, -n) }

func (f *finder) findings() []Finding {
	var list []Finding
	list = append(list, f.rateFindings()...)
	for p, days := range f.volumes {
		list = appendRuns(list, p, Volume, days, func(a *Finding, d *dayVolume) bool {
			if d.amount == 0 && d.tokens == 0 {
				return false
			}
			a.Amount, a.Tokens = a.Amount+d.amount, a.Tokens+d.tokens
			return true
		}, func(a, b *dayVolume) bool { return true })
	}
	for p, days := range f.untagged {
		from := len(list)
		all := Finding{}
		list = appendRuns(list, p, Unallocated, days, func(a *Finding, n money.Nanos) bool { a.Amount += n; return n != 0 }, func(a, b money.Nanos) bool { return true })
		if len(list) > from { // one finding, with the first and last day
			all = list[from]
			for _, x := range list[from+1:] {
				all.Amount, all.To = all.Amount+x.Amount, x.To
			}
			all.PPM = ppm(all.Amount, f.billed[p])
			list = append(list[:from], all)
		}
	}
	list = append(list, f.missing()...)
	slices.SortFunc(list, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(Causes, a.Cause), slices.Index(Causes, b.Cause)), cmp.Compare(abs(int64(b.Amount)), abs(int64(a.Amount))),
			cmp.Compare(a.Provider+a.Model+a.Component, b.Provider+b.Model+b.Component), a.From.Compare(b.From))
	})
	return list
}

// rateFindings joins components of a day whose rates changed alike, and days that follow one another.
func (f *finder) rateFindings() (list []Finding) {
	models := make(map[place][]string)
	for p := range f.rates {
		m := place{p.currency, p.provider, p.model, ""}
		models[m] = append(models[m], p.component)
	}
	for m, components := range models {
		byComponent := make(map[string]map[time.Time]*dayRate)
		days := make(map[time.Time][]string)
		for _, c := range components {
			p := m
			p.component = c
			for d, r := range f.rates[p] {
				if abs(ppm(r.rate, r.expected)) >= leastPPM && abs(int64(r.rate)) > 1000 {
					days[d] = append(days[d], c)
				} else if r.expected != 0 {
					days[d] = append(days[d], "")
				}
			}
		}
		put := func(c string, d time.Time, r *dayRate) {
			if byComponent[c] == nil {
				byComponent[c] = make(map[time.Time]*dayRate)
			}
			byComponent[c][d] = r
		}
		for d, changed := range days {
			if slices.Contains(changed, "") || !f.alike(m, changed, d) {
				for _, c := range changed {
					if c != "" {
						p := m
						p.component = c
						put(c, d, f.rates[p][d])
					}
				}
				continue
			}
			all := &dayRate{}
			for _, c := range changed {
				p := m
				p.component = c
				r := f.rates[p][d]
				all.rate, all.expected = all.rate+r.rate, all.expected+r.expected
			}
			put("", d, all)
		}
		for c, days := range byComponent {
			p := m
			if p.component = c; c == "tokens" {
				p.component = ""
			}
			expected := money.Nanos(0)
			list = appendRuns(list, p, Rate, days, func(a *Finding, d *dayRate) bool {
				if a.Amount == 0 {
					expected = 0
				}
				a.Amount, expected = a.Amount+d.rate, expected+d.expected
				a.PPM = ppm(a.Amount, expected)
				return true
			}, func(a, b *dayRate) bool { return abs(ppm(a.rate, a.expected)-ppm(b.rate, b.expected)) < samePPM })
		}
	}
	return list
}

func (f *finder) alike(m place, components []string, d time.Time) bool {
	first := m
	first.component = components[0]
	a := f.rates[first][d]
	for _, c := range components[1:] {
		p := m
		p.component = c
		b := f.rates[p][d]
		if abs(ppm(a.rate, a.expected)-ppm(b.rate, b.expected)) >= samePPM {
			return false
		}
	}
	return true
}

// missing names days of which the bill has nothing of a provider at all once, and models otherwise.
func (f *finder) missing() (list []Finding) {
	whole := make(map[place]map[time.Time]money.Nanos)
	for c, places := range f.days {
		for p, days := range places {
			left := make(map[time.Time]money.Nanos)
			for d, n := range days {
				provider := place{p.currency, p.provider, "", ""}
				if c == MissingInBill && !f.present[provider][d] {
					day(whole, provider)[d] += n
				} else {
					left[d] = n
				}
			}
			list = appendRuns(list, p, c, left, func(a *Finding, n money.Nanos) bool { a.Amount += n; return true }, func(a, b money.Nanos) bool { return true })
		}
	}
	for p, days := range whole {
		list = appendRuns(list, p, MissingInBill, days, func(a *Finding, n money.Nanos) bool { a.Amount += n; return true }, func(a, b money.Nanos) bool { return true })
	}
	return list
}

// appendRuns adds a finding for each run of days that follow one another and belong together.
func appendRuns[V any](list []Finding, p place, c Cause, days map[time.Time]V, add func(*Finding, V) bool, together func(a, b V) bool) []Finding {
	order := make([]time.Time, 0, len(days))
	for d := range days {
		order = append(order, d)
	}
	slices.SortFunc(order, time.Time.Compare)
	var run *Finding
	for i, d := range order {
		next := Finding{Cause: c, Currency: p.currency, Provider: p.provider, Model: p.model, Component: p.component, From: d, To: d}
		if run != nil && d.Sub(run.To) <= 24*time.Hour && together(days[order[i-1]], days[d]) {
			if add(run, days[d]) {
				run.To = d
			}
			continue
		}
		run = nil
		if add(&next, days[d]) {
			list = append(list, next)
			run = &list[len(list)-1]
		}
	}
	return list
}
