package preflight

import (
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// components says what the amount of an entry is made of, and what was not spent. Prices change, so that it cannot be
// found out later. wanted is the model that a downgrade spared, or empty. Where the amount is not what the price says of the
// usage as a whole, as for a slice of many calls, all is in proportion.
func (s *Service) components(e *ledger.Entry, price *pricing.Price, wanted string, terms pricing.Terms) {
	total, cost, err := price.Split(&e.Usage)
	if err != nil {
		return // then all of it is usage.Cost.Other
	}
	u := e.Usage
	if u.CacheReadTokens > 0 || u.AudioCacheReadTokens > 0 {
		u.InputTokens, u.CacheReadTokens = u.InputTokens+u.CacheReadTokens, 0
		u.AudioInputTokens, u.AudioCacheReadTokens = u.AudioInputTokens+u.AudioCacheReadTokens, 0
		if uncached, err := price.Cost(&u); err == nil {
			e.Saved.CacheRead = uncached - total
		}
	}
	if u = e.Usage; u.CacheWrite5mTokens > 0 || u.CacheWrite1hTokens > 0 {
		u.InputTokens, u.CacheWrite5mTokens, u.CacheWrite1hTokens = u.InputTokens+u.CacheWrite5mTokens+u.CacheWrite1hTokens, 0, 0
		if unwritten, err := price.Cost(&u); err == nil {
			e.Saved.CacheWrite = max(0, total-unwritten)
		}
	}
	if wanted != "" && wanted != price.Model {
		prices := s.Control.Snapshot().Prices()
		dear, err := prices.For(wanted, terms)
		if err == nil && dear.Currency != price.Currency {
			dear, err = prices.In(dear, price.Currency, terms.Time)
		}
		if err == nil {
			if cost, err := dear.Cost(&e.Usage); err == nil {
				e.Saved.Downgrade = cost - total
			}
		}
	}
	if total != e.Amount {
		cost = inProportion(cost, total, e.Amount)
		for _, saved := range []*money.Nanos{&e.Saved.CacheRead, &e.Saved.CacheWrite, &e.Saved.Downgrade} {
			*saved = scale(*saved, total, e.Amount)
		}
	}
	e.Cost = cost
}

// inProportion makes the components, which add up to total, add up to amount.
func inProportion(c usage.Cost, total, amount money.Nanos) usage.Cost {
	if total <= 0 {
		return usage.Cost{Other: amount}
	}
	var sum, shown money.Nanos
	for _, part := range []*money.Nanos{&c.Input, &c.ContextOverhead, &c.Output, &c.Retrieval, &c.Tools, &c.Compute, &c.Other} {
		sum += *part
		now := scale(sum, total, amount)
		*part, shown = now-shown, now
	}
	return c
}

// scale is n x amount / total, towards zero; 0 where it does not fit.
func scale(n, total, amount money.Nanos) money.Nanos {
	if n < 0 {
		return -scale(-n, total, amount)
	}
	if total <= 0 || amount < 0 {
		return 0
	}
	x, err := money.MulDiv(int64(n), int64(amount), int64(total))
	if err != nil {
		return 0
	}
	return money.Nanos(x)
}
