package pricing

import (
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// UnitByName gives the unit that Unit.String names.
func UnitByName(name string) (Unit, bool) {
	i := slices.Index(unitNames[:], name)
	return Unit(i), i >= 0
}

// under is the price of a call with this much input.
func (p *Price) under(u *usage.Usage) *Price {
	input := u.AllInput()
	for i := range p.long {
		if input > p.long[i].over {
			return p.long[i].price
		}
	}
	return p
}

// InOut is what the input and the output of u cost, each rounded once, half up, as price lists compute them: apart, they
// may differ from the whole, which Cost rounds, by a nano. Fees of the request and of tools are in neither. It does not
// allocate. Errors as Cost.
func (p *Price) InOut(u *usage.Usage) (input, output money.Nanos, err error) {
	alone := *p.under(u)
	alone.long = nil
	alone.set &^= 1 << Request
	input, err = alone.Cost(&usage.Usage{
		InputTokens: u.InputTokens, CacheReadTokens: u.CacheReadTokens, CacheWrite5mTokens: u.CacheWrite5mTokens,
		CacheWrite1hTokens: u.CacheWrite1hTokens, AudioInputTokens: u.AudioInputTokens,
		AudioCacheReadTokens: u.AudioCacheReadTokens, ImageInputTokens: u.ImageInputTokens,
	})
	if err != nil {
		return 0, 0, err
	}
	output, err = alone.Cost(&usage.Usage{
		OutputTokens: u.OutputTokens, ReasoningTokens: u.ReasoningTokens, AudioOutputTokens: u.AudioOutputTokens,
		ImageOutputTokens: u.ImageOutputTokens,
	})
	return input, output, err
}

// RateFor gives the rate that every quantity of a unit in u costs, as Cost takes it: with fallbacks and for long contexts.
// False where it has none or not one: where multipliers apply, or the excess over a number of input tokens costs more.
func (p *Price) RateFor(u *usage.Usage, unit Unit) (money.Nanos, bool) {
	p = p.under(u)
	if (p.factor != Ratio{} || p.tokenFactor != Ratio{} && unit.tokens()) || len(p.excess) > 0 && unit <= ImageInput {
		return 0, false
	}
	return p.effectiveRate(unit)
}

// Additive says that calls which use u in all cost together what u costs, but for rounding and the fee of each request:
// that u is too little for any rate that depends on how much one call uses.
func (p *Price) Additive(u *usage.Usage) bool {
	return p.under(u) == p && (len(p.excess) == 0 || u.AllInput() <= p.excess[0].over)
}
