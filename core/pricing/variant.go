package pricing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Terms are what a call was made under, as far as prices depend on it.
type Terms struct {
	ServiceTier string // empty, default, auto and standard are the same; otherwise as in the price: batch, flex, priority
	Region      string
	Time        time.Time
}

// StandardTier says that a service tier is the provider's usual one.
func StandardTier(tier string) bool {
	switch tier {
	case "", "standard", "default", "auto", "on_demand":
		return true
	}
	return false
}

// Variant is what a price becomes under conditions, all of which must hold. Variants that hold apply in their order:
// rates replace, multipliers multiply the rates of tokens.
type Variant struct {
	ServiceTier string        // empty: any
	Region      string        // empty: any
	From, To    time.Duration // of each day, UTC, To not included; it may be past midnight. Equal: all day
	Days        Weekdays      // UTC; 0: all
	OverInput   int64         // calls with more input tokens than this, all classes together; 0: any
	// Excess says that Rates are for the input tokens beyond OverInput only. A prompt begins with what is read from a
	// cache, then what is written to one.
	Excess     bool
	Multiplier Ratio // zero: 1
	Rates      map[Unit]money.Nanos
	whole      bool // the multiplier is for the whole cost: a contract's
}

// Weekdays is a set of days, with bit d set for time.Weekday d.
type Weekdays uint8

const everyDay = Weekdays(1<<7 - 1)

// Limits of variants.
const (
	MaxVariants  = 32
	maxResolved  = 4096
	maxOverInput = 1_000_000_000
)

// VariantError says what is wrong with a variant of a price.
type VariantError struct {
	Model   string
	Index   int // -1: all of them
	Problem string
}

func (e *VariantError) Error() string {
	if e.Index < 0 {
		return fmt.Sprintf("the variants of the price of model %q %s", e.Model, e.Problem)
	}
	return fmt.Sprintf("variants[%d] of the price of model %q %s", e.Index, e.Model, e.Problem)
}

func (v *Variant) check() string {
	switch day := 24 * time.Hour; {
	case v.ServiceTier != "" && StandardTier(v.ServiceTier):
		return fmt.Sprintf("is for the service tier %q, which the price itself is for", v.ServiceTier)
	case v.From < 0 || v.From >= day || v.To < 0 || v.To >= day:
		return "has a time that is not between 00:00 and 23:59:59"
	case v.Days > everyDay:
		return "has a day that is not one of seven"
	case v.OverInput < 0 || v.OverInput > maxOverInput:
		return fmt.Sprintf("has over_input_tokens %d, which must be 0 to %d", v.OverInput, int64(maxOverInput))
	case v.Multiplier != Ratio{} && (v.Multiplier.Num == 0 || v.Multiplier.Den == 0):
		return "has a multiplier that is not positive: give free units a rate of 0"
	case v.Multiplier == Ratio{} && len(v.Rates) == 0:
		return "changes nothing: give it rates or a multiplier"
	case v.Excess && v.OverInput == 0:
		return "is for the excess, but has no over_input_tokens"
	case v.Excess && v.Multiplier != Ratio{}:
		return "is for the excess, which takes rates and no multiplier"
	case !v.whole && v.ServiceTier == "" && v.Region == "" && !v.timed() && v.OverInput == 0:
		return "has no condition: change the price itself"
	}
	for u := range v.Rates {
		if v.Excess && u > ImageInput {
			return fmt.Sprintf("is for the excess of input tokens, but has a rate for %s", u)
		}
	}
	return ""
}

// holds says whether the terms meet the conditions, but the one on input tokens.
func (v *Variant) holds(tier, region string, m moment) bool {
	if v.ServiceTier != "" && v.ServiceTier != tier || v.Region != "" && v.Region != region {
		return false
	}
	switch {
	case !v.timed():
		return true
	case m.of < 0 || v.Days != 0 && v.Days&(1<<m.day) == 0:
		return false
	case v.From == v.To:
		return true
	case v.From < v.To:
		return v.From <= m.of && m.of < v.To
	}
	return m.of >= v.From || m.of < v.To
}

func (v *Variant) timed() bool { return v.From != v.To || v.Days != 0 }

// moment is a time of a week. Before the day: none, at which nothing that depends on time holds.
type moment struct {
	day time.Weekday
	of  time.Duration
}

// long is a price for calls with more input than over.
type long struct {
	over  int64
	price *Price
}

// Variants gives the variants as set; of a price under terms, those that still depend on the call's tokens.
func (p *Price) Variants() []Variant { return p.variants }

// SetVariants gives a price its variants. Call it last: what else is set after it does not reach them. Errors:
// *VariantError.
func (p *Price) SetVariants(variants []Variant) error {
	if len(variants) > MaxVariants {
		return &VariantError{p.Model, -1, fmt.Sprintf("are %d, at most %d are allowed", len(variants), MaxVariants)}
	}
	timed := false
	tiers, regions, times := []string{""}, []string{""}, []time.Duration{0}
	for i := range variants {
		v := &variants[i]
		if problem := v.check(); problem != "" {
			return &VariantError{p.Model, i, problem}
		}
		for j := range variants[:i] {
			if variants[j].same(v) {
				return &VariantError{p.Model, i, fmt.Sprintf("has the conditions of variants[%d]: make them one", j)}
			}
		}
		if !slices.Contains(tiers, v.ServiceTier) {
			tiers = append(tiers, v.ServiceTier)
		}
		if !slices.Contains(regions, v.Region) {
			regions = append(regions, v.Region)
		}
		if v.timed() {
			timed = true
			for _, at := range []time.Duration{v.From, v.To} {
				if !slices.Contains(times, at) {
					times = append(times, at)
				}
			}
		}
	}
	moments := []moment{{of: -1}}
	for day := time.Sunday; timed && day <= time.Saturday; day++ {
		for _, at := range times {
			moments = append(moments, moment{day, at})
		}
	}
	if len(tiers)*len(regions)*len(moments) > maxResolved {
		return &VariantError{p.Model, -1, "are of too many service tiers, regions and times"}
	}
	if p.base == nil {
		published := *p
		p.base = &published
	}
	p.variants, p.resolved, p.conditional = variants, nil, len(tiers)+len(regions)+len(moments) > 3
	base := *p.base
	base.variants, base.conditional = variants, p.conditional
	if err := p.resolve(&base, base.mask("", "", moments[0])); err != nil {
		return err
	}
	if !p.conditional {
		return nil
	}
	p.resolved = map[uint64]*Price{}
	for _, tier := range tiers {
		for _, region := range regions {
			for _, at := range moments {
				m := base.mask(tier, region, at)
				if p.resolved[m] != nil {
					continue
				}
				r := new(Price)
				if err := r.resolve(&base, m); err != nil {
					return err
				}
				r.variants, r.conditional, r.base = r.residual(), false, nil
				p.resolved[m] = r
			}
		}
	}
	return nil
}

// Whole says that a variant is an adjustment, which multiplies the whole cost.
func (v *Variant) Whole() bool { return v.whole }

// Factors are what the rates of tokens and the whole cost are multiplied by.
func (p *Price) Factors() (tokens, whole Ratio) { return p.tokenFactor.or1(), p.factor.or1() }

// SetFactors sets what Factors gives, before SetVariants.
func (p *Price) SetFactors(tokens, whole Ratio) { p.tokenFactor, p.factor = tokens, whole }

// residual says what long contexts still change, so that SetVariants makes the same of it.
func (p *Price) residual() []Variant {
	var list []Variant
	before := p.tokenFactor.or1()
	for _, l := range slices.Backward(p.long) {
		v := Variant{OverInput: l.over, Rates: map[Unit]money.Nanos{}}
		for u := range unitCount {
			if r, ok := l.price.Rate(u); ok {
				v.Rates[u] = r
			}
		}
		if after := l.price.tokenFactor.or1(); after != before {
			v.Multiplier, _ = after.times(Ratio{before.Den, before.Num})
			before = after
		}
		list = append(list, v)
	}
	for _, e := range p.excess {
		v := Variant{OverInput: e.over, Excess: true, Rates: map[Unit]money.Nanos{}}
		for u := range ImageInput + 1 {
			if e.set&(1<<u) != 0 {
				v.Rates[u] = e.rates[u]
			}
		}
		list = append(list, v)
	}
	return list
}

func (v *Variant) same(w *Variant) bool {
	return v.ServiceTier == w.ServiceTier && v.Region == w.Region && v.From == w.From && v.To == w.To && v.Days == w.Days && v.OverInput == w.OverInput &&
		v.Excess == w.Excess && v.whole == w.whole && !v.whole
}

func (p *Price) mask(tier, region string, at moment) uint64 {
	var m uint64
	for i := range p.variants {
		if p.variants[i].holds(tier, region, at) {
			m |= 1 << i
		}
	}
	return m
}

// resolve makes p what base is under the variants in mask.
func (p *Price) resolve(base *Price, mask uint64) error {
	apply := func(to *Price, over int64) error {
		published := to.base
		*to = *base
		to.base, to.long, to.excess = published, nil, nil
		for i := range base.variants {
			v := &base.variants[i]
			if mask&(1<<i) == 0 || v.Excess || v.OverInput > over {
				continue
			}
			for u, r := range v.Rates {
				to.rates[u], to.set = r, to.set|1<<u
			}
			factor := &to.tokenFactor
			if v.whole {
				factor = &to.factor
			}
			if (v.Multiplier != Ratio{}) {
				var err error
				if *factor, err = factor.or1().times(v.Multiplier); err != nil {
					return &VariantError{base.Model, i, "has a multiplier that is too fine"}
				}
			}
		}
		return nil
	}
	var overs []int64
	for i := range base.variants {
		if v := &base.variants[i]; mask&(1<<i) != 0 && v.OverInput > 0 && !slices.Contains(overs, v.OverInput) {
			overs = append(overs, v.OverInput)
		}
	}
	slices.Sort(overs)
	var longs []long
	var excess []excess
	whole := false
	for _, over := range overs {
		for i := range base.variants {
			v := &base.variants[i]
			switch {
			case mask&(1<<i) == 0 || v.OverInput != over:
			case v.Excess:
				e := excessOf(over, v.Rates)
				excess = append(excess, e)
			default:
				whole = true
			}
		}
	}
	if err := apply(p, 0); err != nil {
		return err
	}
	if whole {
		for _, over := range overs {
			l := new(Price)
			if err := apply(l, over); err != nil {
				return err
			}
			l.excess, l.variants, l.conditional = excess, nil, false
			longs = append(longs, long{over, l})
		}
	}
	slices.Reverse(longs) // the highest first
	p.variants, p.conditional, p.long, p.excess = base.variants, base.conditional, longs, excess
	return nil
}

// For gives what the price is under some terms; a price without variants is itself. It does not allocate. Error:
// *UnpricedError for a service tier that the price does not know, which may be dearer.
func (p *Price) For(t Terms) (*Price, error) {
	if StandardTier(t.ServiceTier) {
		t.ServiceTier = ""
	} else if !slices.ContainsFunc(p.variants, func(v Variant) bool { return v.ServiceTier == t.ServiceTier }) {
		return nil, &UnpricedError{Model: p.Model, Unit: "service_tier/" + strings.Clone(t.ServiceTier)}
	}
	if !p.conditional {
		return p, nil
	}
	at := t.Time.UTC()
	ofDay := time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute + time.Duration(at.Second())*time.Second
	return p.resolved[p.mask(t.ServiceTier, t.Region, moment{at.Weekday(), ofDay})], nil
}
