package prices

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
)

// Import says what to take from a price list.
type Import struct {
	Providers []string  // ids or other names; empty: all
	Effective time.Time // from when a price holds that has no published date, or one that is over
}

// Kind says what an import does with a model.
type Kind string

// Kinds.
const (
	Added     Kind = "added"
	Changed   Kind = "changed"
	Unchanged Kind = "unchanged"
	Skipped   Kind = "skipped"
)

// Change is what an import does with one model from a time on.
type Change struct {
	Kind            Kind
	Provider, Model string
	Effective       time.Time
	Rates           []RateChange // of Added and Changed
	Why             string       // of Skipped
}

// RateChange is a rate that is not as before, in text; empty where there is none.
type RateChange struct{ Name, Old, New string }

// Into adds the list's prices to those of a price book and says what changed. Prices that have begun are never changed:
// a new rate is a price of its own, from Effective on or from its published date if that is later. What a list says
// nothing of, such as the price of vector queries, stays.
func (imp Import) Into(have []*pricing.Price, list *Book) ([]*pricing.Price, []Change, error) {
	next := slices.Clone(have)
	var changes []Change
	owner := map[string]string{}
	wanted := map[string]bool{}
	for _, p := range list.Providers {
		if len(imp.Providers) > 0 && !slices.ContainsFunc(imp.Providers, func(name string) bool {
			return slices.Contains(list.sellers(strings.ToLower(name), ""), p)
		}) {
			continue
		}
		wanted[p.ID] = true
		for _, m := range p.Models {
			switch other := owner[m.ID]; {
			case len(m.Prices) == 0: // among the skipped
				continue
			case len(m.ID) > 128:
				changes = append(changes, Change{Kind: Skipped, Provider: p.ID, Model: m.ID, Why: "its id has more than 128 characters"})
				continue
			case other != "":
				changes = append(changes, Change{Kind: Skipped, Provider: p.ID, Model: m.ID, Why: "provider " + other + " has a model of the same id: import one of them"})
				continue
			}
			owner[m.ID] = p.ID
			var err error
			if next, changes, err = imp.model(next, changes, m); err != nil {
				return nil, nil, err
			}
		}
	}
	if len(wanted) == 0 {
		return nil, nil, &NotFoundError{Source: list.Source, Provider: strings.Join(imp.Providers, ", "), NoProvider: true}
	}
	for _, s := range list.Skipped {
		if wanted[s.Provider] || s.Provider == "" && len(imp.Providers) == 0 {
			changes = append(changes, Change{Kind: Skipped, Provider: s.Provider, Model: s.Model, Why: s.Why})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Model, b.Model), a.Effective.Compare(b.Effective))
	})
	return next, changes, nil
}

func (imp Import) model(have []*pricing.Price, changes []Change, m *Model) ([]*pricing.Price, []Change, error) {
	known := slices.ContainsFunc(have, func(p *pricing.Price) bool { return p.Model == m.ID })
	changed := false
	for i, p := range m.Prices {
		if i+1 < len(m.Prices) && !m.Prices[i+1].Effective.After(imp.Effective) {
			continue // another is in force
		}
		effective := p.Effective
		if effective.IsZero() || known && effective.Before(imp.Effective) {
			effective = imp.Effective
		}
		old, at := inForce(have, m.ID, effective)
		price, err := merged(p, old, effective)
		if err != nil {
			return nil, nil, err
		}
		rates := differences(old, price)
		if len(rates) == 0 && old != nil {
			continue
		}
		kind := Changed
		if !known && !changed {
			kind = Added
		}
		changed = true
		changes = append(changes, Change{Kind: kind, Provider: m.Provider, Model: m.ID, Effective: effective, Rates: rates})
		if old != nil && old.Effective.Equal(effective) {
			if !effective.After(imp.Effective) && effective.Before(imp.Effective) {
				return nil, nil, fmt.Errorf("model %q has a price from %s already", m.ID, effective.Format(time.RFC3339))
			}
			have[at] = price
		} else {
			have = append(have, price)
		}
	}
	if !changed {
		changes = append(changes, Change{Kind: Unchanged, Provider: m.Provider, Model: m.ID})
	}
	return have, changes, nil
}

// inForce gives the price of a model at a time, and where it is.
func inForce(have []*pricing.Price, model string, at time.Time) (*pricing.Price, int) {
	best := -1
	for i, p := range have {
		if p.Model == model && p.Corrects == nil && !p.Effective.After(at) && (p.Expires.IsZero() || at.Before(p.Expires)) &&
			(best < 0 || p.Effective.After(have[best].Effective)) {
			best = i
		}
	}
	if best < 0 {
		return nil, -1
	}
	return have[best], best
}

// merged is a published price with what only the old one says.
func merged(p, old *pricing.Price, effective time.Time) (*pricing.Price, error) {
	rates := ratesOf(old)
	maps.Copy(rates, ratesOf(p))
	to := pricing.New(p.Model, effective, Currency, rates)
	to.Provider, to.Source = p.Provider, p.Source
	tools, variants := map[string]money.Nanos{}, p.Variants()
	if old != nil {
		to.GPUPerMInput, to.GPUPerMOutput, to.OverheadPPM = old.GPUPerMInput, old.GPUPerMOutput, old.OverheadPPM
		maps.Copy(tools, old.Tools)
		to.Accelerators = old.Accelerators
		if len(variants) == 0 {
			variants = old.Variants()
		}
	}
	maps.Copy(tools, p.Tools)
	if len(tools) > 0 {
		to.Tools = tools
	}
	if len(variants) == 0 {
		return to, nil
	}
	return to, to.SetVariants(variants)
}

func ratesOf(p *pricing.Price) map[pricing.Unit]money.Nanos {
	rates := map[pricing.Unit]money.Nanos{}
	if p != nil {
		for _, u := range pricing.Units() {
			if r, ok := p.Rate(u); ok {
				rates[u] = r
			}
		}
	}
	return rates
}

// differences compares two prices rate by rate.
func differences(old, new *pricing.Price) []RateChange {
	before, after := lines(old), lines(new)
	names := maps.Clone(before)
	maps.Copy(names, after)
	var list []RateChange
	for _, n := range slices.Sorted(maps.Keys(names)) {
		if before[n] != after[n] {
			list = append(list, RateChange{n, before[n], after[n]})
		}
	}
	return list
}

// lines writes a price as names and values.
func lines(p *pricing.Price) map[string]string {
	list := map[string]string{}
	if p == nil {
		return list
	}
	for u, r := range ratesOf(p) {
		list[u.String()] = r.String()
	}
	for tool, r := range p.Tools {
		list["tool_calls/"+tool] = r.String()
	}
	for accelerator, r := range p.Accelerators {
		list["gpu_milliseconds/"+accelerator] = r.String()
	}
	for _, v := range p.Variants() {
		var on []string
		for _, s := range []string{v.ServiceTier, v.Region} {
			if s != "" {
				on = append(on, s)
			}
		}
		if v.From != v.To {
			on = append(on, fmt.Sprintf("%s-%s", ofDay(v.From), ofDay(v.To)))
		}
		if v.Days != 0 {
			on = append(on, fmt.Sprintf("weekdays %07b", v.Days))
		}
		if v.OverInput > 0 {
			on = append(on, fmt.Sprintf("over %d", v.OverInput))
		}
		if v.Excess {
			on = append(on, "excess")
		}
		name := strings.Join(on, ", ") + ": "
		if (v.Multiplier != pricing.Ratio{}) {
			list[name+"multiplier"] = fmt.Sprintf("%d/%d", v.Multiplier.Num, v.Multiplier.Den)
		}
		for u, r := range v.Rates {
			list[name+u.String()] = r.String()
		}
	}
	return list
}

func ofDay(d time.Duration) string { return time.Time{}.Add(d).Format("15:04") }
