package bill

import (
	"errors"
	"fmt"
	"math/big"
	"math/bits"
	"strings"

	"github.com/chartergate/chartergate/core/money"
)

// Decimal is an exact decimal number with at most maxDecimals decimals: what a bill says, before any rounding.
type Decimal struct {
	nanos int64    // whole nanos, towards zero
	atto  int64    // the rest in 10^-18, below 10^9, of the sign of nanos
	rest  *big.Int // what is below that in 10^-60, or the whole number where nanos cannot hold it; nil for nothing
}

const (
	perNano     = 1_000_000_000 // atto in a nano, and nanos in a unit
	maxDecimals = 60
	maxDigits   = 128 // characters of a number
)

var (
	errNumber = errors.New("is not a decimal number such as 12.50")
	restScale = new(big.Int).Exp(big.NewInt(10), big.NewInt(maxDecimals-18), nil) // of rest in an atto
)

// ParseDecimal reads a decimal number, with an exponent or without: `12.50`, `-0.000000001`, `5.64902E-05`. It does not
// round. Errors: not a number, more than 60 decimals, money.ErrOverflow for more than 10^140.
func ParseDecimal(s string) (Decimal, error) {
	s = strings.TrimSpace(s)
	if len(s) == 0 || len(s) > maxDigits {
		return Decimal{}, fmt.Errorf("%s %w", quote(s), errNumber)
	}
	i, neg := 0, false
	if s[0] == '-' || s[0] == '+' {
		neg, i = s[0] == '-', 1
	}
	// Digits are collected without the point; scale is how many of them are decimals.
	var coef uint64
	scale, digits, point, over := 0, 0, false, false
	start := i
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && !point {
			point = true
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		digits++
		if point {
			scale++
		}
		hi, lo := bits.Mul64(coef, 10)
		sum, carry := bits.Add64(lo, uint64(c-'0'), 0)
		over = over || hi|carry != 0
		coef = sum
	}
	mantissa := s[start:i]
	if digits == 0 {
		return Decimal{}, fmt.Errorf("%s %w", quote(s), hint(s))
	}
	if i < len(s) {
		exp, ok := exponent(s[i:])
		if !ok {
			return Decimal{}, fmt.Errorf("%s %w", quote(s), hint(s))
		}
		scale -= exp
	}
	if !over && scale >= 0 && scale <= 18 {
		if d, ok := small(coef, scale, neg); ok {
			return d, nil
		}
	}
	return large(s, mantissa, scale, neg)
}

func hint(s string) error {
	if strings.Contains(s, ",") {
		return fmt.Errorf("%w: it has a comma; export numbers with a decimal point and without thousands separators", errNumber)
	}
	return errNumber
}

func exponent(s string) (int, bool) {
	if s[0] != 'e' && s[0] != 'E' || len(s) < 2 {
		return 0, false
	}
	s, neg := s[1:], false
	if s[0] == '-' || s[0] == '+' {
		neg, s = s[0] == '-', s[1:]
	}
	if s == "" || len(s) > 4 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	if neg {
		n = -n
	}
	return n, true
}

var pow10 = func() (p [20]uint64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

func small(coef uint64, scale int, neg bool) (Decimal, bool) {
	var d Decimal
	if scale <= 9 {
		hi, lo := bits.Mul64(coef, pow10[9-scale])
		if hi != 0 || lo > 1<<63-1 {
			return Decimal{}, false
		}
		d.nanos = int64(lo)
	} else {
		p := pow10[scale-9]
		n := coef / p
		if n > 1<<63-1 {
			return Decimal{}, false
		}
		d.nanos, d.atto = int64(n), int64(coef%p*pow10[18-scale])
	}
	if neg {
		d.nanos, d.atto = -d.nanos, -d.atto
	}
	return d, true
}

func large(s, mantissa string, scale int, neg bool) (Decimal, error) {
	n, ok := new(big.Int).SetString(strings.Replace(mantissa, ".", "", 1), 10)
	if !ok {
		return Decimal{}, fmt.Errorf("%s %w", quote(s), errNumber)
	}
	if n.Sign() == 0 {
		return Decimal{}, nil
	}
	shift := int64(maxDecimals - scale)
	if shift > 200 {
		return Decimal{}, fmt.Errorf("%s: %w", quote(s), money.ErrOverflow)
	}
	if shift >= 0 {
		n.Mul(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(shift), nil))
	} else {
		left := new(big.Int)
		n.QuoRem(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(-shift), nil), left)
		if left.Sign() != 0 {
			return Decimal{}, fmt.Errorf("%s has more than %d decimals", quote(s), maxDecimals)
		}
	}
	if neg {
		n.Neg(n)
	}
	return fromScaled(n), nil
}

// fromScaled splits a number in 10^-60.
func fromScaled(n *big.Int) Decimal {
	rest, atto := new(big.Int), new(big.Int)
	q, _ := new(big.Int).QuoRem(n, restScale, rest)
	q.QuoRem(q, big.NewInt(perNano), atto)
	if !q.IsInt64() {
		return Decimal{rest: n}
	}
	d := Decimal{nanos: q.Int64(), atto: atto.Int64()}
	if rest.Sign() != 0 {
		d.rest = rest
	}
	return d
}

func (d Decimal) scaled() *big.Int {
	n := new(big.Int).Mul(big.NewInt(d.nanos), big.NewInt(perNano))
	n.Add(n, big.NewInt(d.atto)).Mul(n, restScale)
	if d.rest != nil {
		n.Add(n, d.rest)
	}
	return n
}

// Plus is the exact sum.
func (d Decimal) Plus(e Decimal) Decimal {
	if e == (Decimal{}) {
		return d
	}
	return fromScaled(new(big.Int).Add(d.scaled(), e.scaled()))
}

// Minus is the exact difference.
func (d Decimal) Minus(e Decimal) Decimal {
	e.nanos, e.atto = -e.nanos, -e.atto
	if e.rest != nil {
		e.rest = new(big.Int).Neg(e.rest)
	}
	return d.Plus(e)
}

// Times is the product with a whole number rounded to a whole number, half away from zero; false where it does not fit.
func (d Decimal) Times(n int64) (int64, bool) {
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(maxDecimals), nil)
	x := new(big.Int).Mul(d.scaled(), big.NewInt(n))
	return quoHalfAway(x, unit)
}

func quoHalfAway(x, y *big.Int) (int64, bool) {
	left := new(big.Int)
	q, _ := new(big.Int).QuoRem(x, y, left)
	if left.Abs(left).Lsh(left, 1).CmpAbs(y) >= 0 {
		q.Add(q, big.NewInt(int64(x.Sign()*y.Sign())))
	}
	return q.Int64(), q.IsInt64()
}

// Amount is a decimal rounded to a nano, half away from zero so that a refund cancels its charge, and what the rounding
// took off: Nanos + Atto/10^9 is the decimal to 18 decimals.
type Amount struct {
	Nanos money.Nanos
	Atto  int64 // -500,000,000 to 500,000,000
}

// Decimal is the rounded amount, without what the rounding took off.
func (a Amount) Decimal() Decimal { return Decimal{nanos: int64(a.Nanos)} }

// Amount rounds. Error: money.ErrOverflow.
func (d Decimal) Amount() (Amount, error) {
	n, a := d.nanos, d.atto
	if d.rest != nil {
		if d.rest.CmpAbs(restScale) >= 0 {
			return Amount{}, money.ErrOverflow
		}
		if two := new(big.Int).Lsh(d.rest, 1); two.CmpAbs(restScale) >= 0 {
			a += int64(two.Sign())
		}
	}
	switch {
	case a >= perNano/2:
		n, a = n+1, a-perNano
		if n < d.nanos {
			return Amount{}, money.ErrOverflow
		}
	case a <= -perNano/2:
		n, a = n-1, a+perNano
		if n > d.nanos {
			return Amount{}, money.ErrOverflow
		}
	}
	return Amount{money.Nanos(n), a}, nil
}

// Units gives whole units and the rest in nanos, of the number rounded to a nano; false where the units do not fit.
func (d Decimal) Units() (units, nanos int64, ok bool) {
	if a, err := d.Amount(); err == nil {
		return int64(a.Nanos) / perNano, int64(a.Nanos) % perNano, true
	}
	left := new(big.Int)
	q, _ := new(big.Int).QuoRem(d.scaled(), new(big.Int).Mul(restScale, big.NewInt(perNano*perNano)), left)
	n, _ := quoHalfAway(left, new(big.Int).Mul(restScale, big.NewInt(perNano)))
	return q.Int64(), n, q.IsInt64()
}

// Zero says whether it is 0.
func (d Decimal) Zero() bool { return d.nanos == 0 && d.atto == 0 && d.rest == nil }

// String gives every decimal, without trailing zeros: `0.00001605990` is `0.0000160599`.
func (d Decimal) String() string { return decimalText(d.scaled()) }

func decimalText(scaled *big.Int) string {
	s, sign := new(big.Int).Abs(scaled).String(), ""
	if scaled.Sign() < 0 {
		sign = "-"
	}
	if len(s) <= maxDecimals {
		s = strings.Repeat("0", maxDecimals+1-len(s)) + s
	}
	whole, frac := s[:len(s)-maxDecimals], strings.TrimRight(s[len(s)-maxDecimals:], "0")
	if frac == "" {
		return sign + whole
	}
	return sign + whole + "." + frac
}

// Sum adds decimals up exactly; its zero value is 0. It does not overflow.
type Sum struct {
	nanos, atto int64
	more        *big.Int // in 10^-60
}

// Add adds d.
func (s *Sum) Add(d Decimal) {
	n, err := money.Add(money.Nanos(s.nanos), money.Nanos(d.nanos))
	if err != nil || s.atto > 1<<62 || s.atto < -1<<62 {
		s.spill()
		n = money.Nanos(d.nanos)
	}
	s.nanos = int64(n)
	s.atto += d.atto
	if d.rest != nil {
		if s.more == nil {
			s.more = new(big.Int)
		}
		s.more.Add(s.more, d.rest)
	}
}

func (s *Sum) spill() {
	if s.more == nil {
		s.more = new(big.Int)
	}
	s.more.Add(s.more, Decimal{nanos: s.nanos, atto: s.atto}.scaled())
	s.nanos, s.atto = 0, 0
}

func (s *Sum) scaled() *big.Int {
	n := Decimal{nanos: s.nanos, atto: s.atto}.scaled()
	if s.more != nil {
		n.Add(n, s.more)
	}
	return n
}

// String gives every decimal.
func (s *Sum) String() string { return decimalText(s.scaled()) }

// Nanos is the sum, rounded once, half away from zero. Error: money.ErrOverflow.
func (s *Sum) Nanos() (money.Nanos, error) {
	n, ok := quoHalfAway(s.scaled(), new(big.Int).Mul(restScale, big.NewInt(perNano)))
	if !ok {
		return 0, money.ErrOverflow
	}
	return money.Nanos(n), nil
}

// quote shows a value of a file, cut to a length that fits a message.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// AddParts adds whole units, nanos and 10^-18, each a sum that a database made of the same sign or not.
func (s *Sum) AddParts(units, nanos, atto int64) {
	if s.more == nil {
		s.more = new(big.Int)
	}
	n := new(big.Int).Mul(big.NewInt(units), big.NewInt(perNano))
	n.Add(n, big.NewInt(nanos)).Mul(n, big.NewInt(perNano))
	s.more.Add(s.more, n.Add(n, big.NewInt(atto)).Mul(n, restScale))
}

// AddMillions adds millions of units.
func (s *Sum) AddMillions(n int64) {
	m := new(big.Int).Mul(big.NewInt(n), big.NewInt(1_000_000))
	if s.more == nil {
		s.more = new(big.Int)
	}
	s.more.Add(s.more, m.Mul(m, new(big.Int).Exp(big.NewInt(10), big.NewInt(maxDecimals), nil)))
}

// Plus adds another sum.
func (s *Sum) Plus(t *Sum) {
	if s.more == nil {
		s.more = new(big.Int)
	}
	s.more.Add(s.more, t.scaled())
}
