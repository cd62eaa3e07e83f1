package policy

import (
	"math/big"
	"math/bits"
)

// float is a number as OPA calculates with those that are not whole: (-1)^neg * mant * 2^exp, 64 bits that start with a
// one, rounded to the nearest and half to even, as a big.Float of that precision.
type float struct {
	neg  bool
	exp  int32
	mant uint64
}

// maxExp bounds the exponents that are taken here: beyond it OPA calculates.
const maxExp = 900

func floatOf(n int64) float {
	u := uint64(n)
	if n < 0 {
		u = -u
	}
	shift := bits.LeadingZeros64(u)
	return float{n < 0, -int32(shift), u << shift}
}

// round makes 64 bits of 128, where sticky stands for ones behind them.
func round(neg bool, exp int32, hi, lo uint64, sticky bool) float {
	if hi == 0 {
		hi, lo, exp = lo, 0, exp-64
	}
	if shift := bits.LeadingZeros64(hi); shift > 0 {
		hi, lo, exp = hi<<shift|lo>>(64-shift), lo<<shift, exp-int32(shift)
	}
	const half = 1 << 63
	if lo > half || lo == half && (sticky || hi&1 == 1) {
		if hi++; hi == 0 {
			hi, exp = half, exp+1
		}
	}
	return float{neg, exp, hi}
}

func (a float) mul(b float) float {
	hi, lo := bits.Mul64(a.mant, b.mant)
	return round(a.neg != b.neg, a.exp+b.exp+64, hi, lo, false)
}

func (a float) quo(b float) float {
	hi, lo, exp := a.mant, uint64(0), a.exp-b.exp-64
	if a.mant >= b.mant {
		hi, lo, exp = a.mant>>1, a.mant<<63, exp+1
	}
	q, rest := bits.Div64(hi, lo, b.mant)
	tail := uint64(0)
	switch over := b.mant - rest; {
	case rest > over:
		tail = 1<<63 + 1
	case rest == over:
		tail = 1 << 63
	}
	return round(a.neg != b.neg, exp, q, tail, false)
}

// add is false where the sum is zero.
func (a float) add(b float) (float, bool) {
	if a.exp < b.exp || a.exp == b.exp && a.mant < b.mant {
		a, b = b, a
	}
	hi, lo, sticky := b.mant, uint64(0), false
	switch d := uint(a.exp - b.exp); {
	case d == 0:
	case d < 64:
		hi, lo = hi>>d, hi<<(64-d)
	case d < 128:
		lo, hi, sticky = hi>>(d-64), 0, d > 64 && hi<<(128-d) != 0
	default:
		hi, lo, sticky = 0, 0, true
	}
	if a.neg == b.neg {
		sum, carry := bits.Add64(a.mant, hi, 0)
		if carry == 0 {
			return round(a.neg, a.exp, sum, lo, sticky), true
		}
		return round(a.neg, a.exp+1, 1<<63|sum>>1, sum<<63|lo>>1, sticky || lo&1 == 1), true
	}
	low, borrow := bits.Sub64(0, lo, 0)
	high, _ := bits.Sub64(a.mant, hi, borrow)
	if sticky { // a little less
		low, borrow = bits.Sub64(low, 1, 0)
		high -= borrow
	}
	if high|low == 0 {
		return float{}, false
	}
	return round(a.neg, a.exp, high, low, sticky), true
}

// whole gives the number if it is whole and fits; fits is false if it is whole and does not.
func (a float) whole() (n int64, whole, fits bool) {
	switch {
	case a.exp >= 0:
		return 0, true, false
	case a.exp <= -64 || bits.TrailingZeros64(a.mant) < int(-a.exp):
		return 0, false, false
	}
	u := a.mant >> uint(-a.exp)
	if u >= 1<<63 {
		return 0, true, false
	}
	if a.neg {
		return -int64(u), true, true
	}
	return int64(u), true, true
}

// compare is false where OPA's answer depends on how the numbers are written.
func (a float) compare(b float) (int, bool) {
	if a == b {
		return 0, true
	}
	if a.neg != b.neg {
		return sign(!a.neg), true
	}
	greater := a.exp > b.exp || a.exp == b.exp && a.mant > b.mant
	big, small := a, b
	if !greater {
		big, small = b, a
	}
	const near = 1 << 13 // some units of a float64's last place
	switch big.exp - small.exp {
	case 0:
		if big.mant-small.mant < near {
			return 0, false
		}
	case 1:
		if big.mant-1<<63 < near && -small.mant < near {
			return 0, false
		}
	}
	return sign(greater != a.neg), true
}

func sign(positive bool) int {
	if positive {
		return 1
	}
	return -1
}

func (a float) big() *big.Float {
	f := new(big.Float).SetUint64(a.mant)
	f.SetMantExp(f, int(a.exp))
	if a.neg {
		f.Neg(f)
	}
	return f
}

// floatOfBig is false where the number is zero, or too large or small.
func floatOfBig(f *big.Float) (float, bool) {
	if f.Sign() == 0 || f.IsInf() || f.Prec() > 64 {
		return float{}, false
	}
	var mant big.Float
	exp := f.MantExp(&mant) // 0.5 <= |mant| < 1
	if exp > maxExp || exp < -maxExp {
		return float{}, false
	}
	u, exact := mant.SetMantExp(mant.Abs(&mant), 64).Uint64()
	return float{f.Signbit(), int32(exp - 64), u}, exact == big.Exact
}
