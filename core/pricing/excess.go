package pricing

import "github.com/chartergate/chartergate/core/money"

// excess has the rates of the input tokens beyond over.
type excess struct {
	over  int64
	rates [ImageInput + 1]money.Nanos
	set   uint32
}

func excessOf(over int64, rates map[Unit]money.Nanos) excess {
	e := excess{over: over}
	for u, r := range rates {
		e.rates[u], e.set = r, e.set|1<<u
	}
	return e
}

// promptOrder is the order in which a prompt's tokens are counted against a threshold: a cache holds its beginning.
var promptOrder = [...]Unit{CacheRead, AudioCacheRead, CacheWrite1h, CacheWrite5m, Input, ImageInput, AudioInput}

// addExcess adds the input tokens, each at the rate of where it stands in the prompt.
func (p *Price) addExcess(t *total, quantities *[unitCount]int64, unit Unit) error {
	start := int64(0)
	for _, u := range promptOrder {
		if u == unit {
			break
		}
		start += quantities[u]
	}
	end := start + quantities[unit]
	for i := -1; i < len(p.excess) && start < end; i++ {
		until := end
		if i+1 < len(p.excess) {
			until = min(end, p.excess[i+1].over)
		}
		if until <= start {
			continue
		}
		rate, ok := p.effectiveRate(unit)
		if i >= 0 {
			rate, ok = p.excess[i].rate(p, unit)
		}
		if !ok {
			return &UnpricedError{Model: p.Model, Unit: unit.String()}
		}
		if !t.add(until-start, rate, perMillion*t.tokens) {
			return money.ErrOverflow
		}
		start = until
	}
	return nil
}

// rate is e's where it has one, else p's, before any other unit's.
func (e *excess) rate(p *Price, u Unit) (money.Nanos, bool) {
	for {
		switch {
		case e.set&(1<<u) != 0:
			return e.rates[u], true
		case p.set&(1<<u) != 0:
			return p.rates[u], true
		case fallback[u] == u:
			return 0, false
		}
		u = fallback[u]
	}
}
