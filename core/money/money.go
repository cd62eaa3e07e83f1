// Package money counts money in int64 nanos (10^-9 of a currency's unit) with checked arithmetic. No floats.
package money

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// Nanos is an amount in billionths of one currency's unit: 1 USD is 1_000_000_000. The largest amount is about
// 9.2 billion units.
type Nanos int64

// Unit is one unit of a currency in nanos.
const Unit Nanos = 1_000_000_000

// ErrOverflow says that an amount does not fit int64 nanos.
var ErrOverflow = errors.New("amount does not fit 64 bits of nanos (about 9.2 billion currency units)")

// Add returns a+b, or ErrOverflow.
func Add(a, b Nanos) (Nanos, error) {
	c := a + b
	if (c > a) != (b > 0) && b != 0 {
		return 0, ErrOverflow
	}
	return c, nil
}

// Sub returns a-b, or ErrOverflow.
func Sub(a, b Nanos) (Nanos, error) {
	c := a - b
	if (c < a) != (b > 0) && b != 0 {
		return 0, ErrOverflow
	}
	return c, nil
}

// MulDiv returns a*b/c rounded down, for a, b >= 0 and c > 0, without overflow in between.
func MulDiv(a, b, c int64) (int64, error) {
	if a < 0 || b < 0 || c <= 0 {
		return 0, fmt.Errorf("MulDiv(%d, %d, %d): out of range", a, b, c)
	}
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return 0, ErrOverflow
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	if q > 1<<63-1 {
		return 0, ErrOverflow
	}
	return int64(q), nil
}

// Permille returns part/whole in per mille, rounded down, at least 0. 0 where whole is not positive.
func Permille(part, whole Nanos) int32 {
	if whole <= 0 || part <= 0 {
		return 0
	}
	p, err := MulDiv(int64(part), 1000, int64(whole))
	if err != nil || p > 1<<31-1 {
		return 1<<31 - 1
	}
	return int32(p)
}

// Parse reads a decimal amount in currency units, such as `12.50`, `1_000_000` or `-0.000000001`. At most nine
// decimals: nothing is rounded.
func Parse(s string) (Nanos, error) {
	t := strings.ReplaceAll(strings.TrimSpace(s), "_", "")
	neg := strings.HasPrefix(t, "-")
	t = strings.TrimPrefix(t, "-")
	whole, frac, point := strings.Cut(t, ".")
	if whole == "" || (point && frac == "") || strings.ContainsAny(t, "+-") {
		return 0, fmt.Errorf("%q is not a decimal amount such as 12.50", s)
	}
	if len(frac) > 9 {
		return 0, fmt.Errorf("%q has more than nine decimals", s)
	}
	w, err := strconv.ParseUint(whole, 10, 64)
	if errors.Is(err, strconv.ErrRange) || (err == nil && w > 9_223_372_036) {
		return 0, fmt.Errorf("%q: %w", s, ErrOverflow)
	}
	f := uint64(0)
	if err == nil && frac != "" {
		f, err = strconv.ParseUint((frac + "000000000")[:9], 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a decimal amount such as 12.50", s)
	}
	n := w*uint64(Unit) + f
	if n > 1<<63-1 {
		return 0, fmt.Errorf("%q: %w", s, ErrOverflow)
	}
	if neg {
		return -Nanos(n), nil
	}
	return Nanos(n), nil
}

// String gives the exact decimal in currency units with at least two decimals, such as `12.50` or `0.000000001`.
func (n Nanos) String() string {
	u, sign := uint64(n), ""
	if n < 0 {
		u, sign = -u, "-"
	}
	frac := fmt.Sprintf("%09d", u%uint64(Unit))
	frac = frac[:2] + strings.TrimRight(frac[2:], "0")
	return sign + strconv.FormatUint(u/uint64(Unit), 10) + "." + frac
}
