package restate

import (
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// costs is what an entry costs at the corrected price, or why that is not known. An entry that came after the correction was
// settled at it already. That of a slice is the sum of many calls, each rounded for itself, so that it is compared with what their usage
// costs within a nano for each.
func (w *work) costs(e *ledger.Entry, call *ledger.Call, currency string) (is money.Nanos, problem string, err error) {
	if e.Kind == ledger.KindExpiryCharge {
		return 0, "charged when the hold expired: the usage is not known", nil
	}
	corrected, err := w.at(w.prices, call, currency)
	if err != nil {
		return 0, err.Error(), nil
	}
	old, err := w.at(w.before, call, currency)
	if err != nil {
		return 0, "without the correction: " + err.Error(), nil
	}
	grown, _, err := pricing.Restate(&e.Usage, old, corrected)
	if err == nil {
		is, err = corrected.Cost(&e.Usage)
	}
	if err != nil {
		return 0, err.Error(), nil
	}
	within := money.Nanos(0)
	if e.Call.Leased || e.Calls != 1 {
		if e.Calls == 0 && e.Amount == 0 {
			return 0, "", nil
		}
		if !old.Additive(&e.Usage) || !corrected.Additive(&e.Usage) {
			return 0, "slices of many calls, and the price depends on the size of each", nil
		}
		fee, err := perCall(corrected)
		if err != nil {
			return 0, err.Error(), nil
		}
		oldFee, err := perCall(old)
		if err != nil {
			return 0, err.Error(), nil
		}
		if is, err = plus(is, fee, e.Calls-1); err != nil {
			return 0, "", err
		}
		if grown, err = plus(grown, fee-oldFee, e.Calls-1); err != nil {
			return 0, "", err
		}
		within = money.Nanos(e.Calls + 1)
	}
	near := func(x money.Nanos) bool { return x-e.Amount <= within && e.Amount-x <= within }
	switch {
	case near(is):
		return e.Amount, "", nil
	case near(is - grown):
		is, err = money.Add(e.Amount, grown)
		return is, "", err
	case w.snap.Budget(e.Path[0].Budget) == nil:
		return 0, "the budget is deleted, and with it the currency", nil
	}
	return is, "", nil // settled at a third price, such as an earlier correction
}

// at is the price of a call in a book.
func (w *work) at(b *pricing.Book, call *ledger.Call, currency string) (*pricing.Price, error) {
	p, err := b.For(call.Model, pricing.Terms{ServiceTier: call.ServiceTier, Region: call.Region, Time: call.Time})
	if err == nil && currency != "" {
		p, err = b.In(p, currency, call.Time)
	}
	return p, err
}

// perCall is what a request costs that uses nothing.
func perCall(p *pricing.Price) (money.Nanos, error) {
	if _, ok := p.Rate(pricing.Request); !ok {
		return 0, nil
	}
	return p.Cost(&usage.Usage{})
}

// plus is a + n times b.
func plus(a, b money.Nanos, n int64) (money.Nanos, error) {
	product, err := money.MulDiv(max(int64(b), -int64(b)), max(n, -n), 1)
	if err != nil {
		return 0, err
	}
	if (b < 0) != (n < 0) {
		product = -product
	}
	return money.Add(a, money.Nanos(product))
}
