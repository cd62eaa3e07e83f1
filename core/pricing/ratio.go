package pricing

import (
	"math/bits"

	"github.com/chartergate/chartergate/core/money"
)

// Ratio is an exact positive factor, in lowest terms.
type Ratio struct{ Num, Den uint64 }

// NewRatio brings n/d into lowest terms. d is not 0.
func NewRatio(n, d uint64) Ratio {
	g := gcd(n, d)
	return Ratio{n / g, d / g}
}

const ppm = 1_000_000

// or1 is r, or 1 where r is zero.
func (r Ratio) or1() Ratio {
	if (r == Ratio{}) {
		return Ratio{1, 1}
	}
	return r
}

// times is r x s in lowest terms. Error: money.ErrOverflow where it does not fit.
func (r Ratio) times(s Ratio) (Ratio, error) {
	a, b := gcd(r.Num, s.Den), gcd(s.Num, r.Den)
	numHi, num := bits.Mul64(r.Num/a, s.Num/b)
	denHi, den := bits.Mul64(r.Den/b, s.Den/a)
	if numHi|denHi != 0 {
		return Ratio{}, money.ErrOverflow
	}
	g := gcd(num, den)
	return Ratio{num / g, den / g}, nil
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return max(a, 1)
}

// total is an exact 128-bit sum in 1/18,000,000 nano, times factor.
type total struct {
	hi, lo uint64
	factor Ratio
	// What tokens and everything else count in the sum.
	tokens, rest uint64
	shown        money.Nanos // what the lines or components add up to
}

func (t *total) add(quantity int64, rate money.Nanos, weight uint64) bool {
	if quantity < 0 || rate < 0 {
		return false
	}
	hi, lo := bits.Mul64(uint64(quantity), uint64(rate))
	wHi, wLo := bits.Mul64(lo, weight)
	over, hiW := bits.Mul64(hi, weight)
	hi, carry := bits.Add64(hiW, wHi, 0)
	if over|carry != 0 {
		return false
	}
	t.lo, carry = bits.Add64(t.lo, wLo, 0)
	t.hi, carry = bits.Add64(t.hi, hi, carry)
	return carry == 0
}

// round is sum x num / (18,000,000 x den), half up. Dividing twice, rounded down, is dividing by the product.
func (t *total) round() (money.Nanos, error) {
	over, hi := bits.Mul64(t.hi, t.factor.Num)
	mid, lo := bits.Mul64(t.lo, t.factor.Num)
	hi, carry := bits.Add64(hi, mid, 0)
	over += carry
	halfHi, half := bits.Mul64(t.factor.Den, common/2)
	lo, carry = bits.Add64(lo, half, 0)
	hi, carry = bits.Add64(hi, halfHi, carry)
	over += carry
	if over >= common {
		return 0, money.ErrOverflow
	}
	hi, rest := bits.Div64(over, hi, common)
	lo, _ = bits.Div64(rest, lo, common)
	if hi >= t.factor.Den {
		return 0, money.ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, t.factor.Den)
	if q > 1<<63-1 {
		return 0, money.ErrOverflow
	}
	return money.Nanos(q), nil
}

// grown is what the rounded total grew by since it was asked last.
func (t *total) grown() (money.Nanos, error) {
	now, err := t.round()
	if err != nil {
		return 0, err
	}
	d := now - t.shown
	t.shown = now
	return d, nil
}

func (t *total) line(lines *[]Line, unit string, quantity int64) error {
	cost, err := t.grown()
	if err != nil {
		return err
	}
	*lines = append(*lines, Line{unit, quantity, cost})
	return nil
}
