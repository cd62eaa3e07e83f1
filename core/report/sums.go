package report

import (
	"cmp"
	"math/big"
	"math/bits"
	"slices"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Limits of a question.
const (
	MaxDimensions = 8
	MaxFilters    = 256
	MaxRows       = 10_000
	DefaultRows   = 100
)

// Line is the sum of some rows of one currency.
type Line struct {
	Keys []string // as the dimensions asked for
	usage.Totals
	Total money.Nanos // of all components
	Share int32       // of the table's total, in per mille; the shares of a table's lines add up to 1,000
	Rows  int         // keys that are summed in it
}

// Add counts a row of the store in the line. Errors: money.ErrOverflow, usage.ErrOverflow.
func (l *Line) Add(t *usage.Totals) error {
	cost, err := t.Cost.Total()
	if err != nil {
		return err
	}
	if l.Total, err = money.Add(l.Total, cost); err != nil {
		return err
	}
	l.Rows++
	return l.Totals.Add(t)
}

// ToolCalls is the sum over all tools.
func ToolCalls(t *usage.Totals) (n int64) {
	for _, c := range t.Usage.ToolCalls {
		n += c
	}
	return n
}

// byCurrency parts rows by currency, in the order of the currencies.
func byCurrency(rows []usage.Row) [][]usage.Row {
	if len(rows) > 0 && !slices.ContainsFunc(rows, func(r usage.Row) bool { return r.Currency != rows[0].Currency }) {
		return [][]usage.Row{rows}
	}
	var currencies []string
	parts := map[string][]usage.Row{}
	for i := range rows {
		c := rows[i].Currency
		if _, ok := parts[c]; !ok {
			currencies = append(currencies, c)
		}
		parts[c] = append(parts[c], rows[i])
	}
	slices.Sort(currencies)
	list := make([][]usage.Row, len(currencies))
	for i, c := range currencies {
		list[i] = parts[c]
	}
	return list
}

// Shares parts 1,000 per mille by amounts that add up to total: each share is rounded down, and what is left goes to
// those with the largest remainders, the first of equal ones. All 0 where the total is not above 0.
func Shares(total money.Nanos, parts []money.Nanos) []int32 {
	shares := make([]int32, len(parts))
	if total <= 0 {
		return shares
	}
	const whole = 1000
	left := int64(whole)
	rest := make([]int64, len(parts))
	for i, p := range parts {
		var q int64
		q, rest[i] = floorDiv(int64(p), whole, int64(total))
		shares[i] = int32(max(min(q, 1<<31-1), -1<<31))
		left -= int64(shares[i])
	}
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rest[b], rest[a]) })
	for _, i := range order[:max(0, min(int(left), len(order)))] {
		shares[i]++
	}
	return shares
}

// floorDiv gives a*b/c rounded down and its remainder, for b, c > 0. The quotient is bounded to int64.
func floorDiv(a, b, c int64) (q, r int64) {
	if hi, lo := bits.Mul64(uint64(max(a, 0)), uint64(b)); a >= 0 && hi < uint64(c) {
		n, rem := bits.Div64(hi, lo, uint64(c))
		if n <= 1<<63-1 {
			return int64(n), int64(rem)
		}
	}
	var n, m big.Int
	n.DivMod(n.Mul(big.NewInt(a), big.NewInt(b)), big.NewInt(c), &m)
	if !n.IsInt64() {
		if n.Sign() < 0 {
			return -1 << 63, 0
		}
		return 1<<63 - 1, 0
	}
	return n.Int64(), m.Int64()
}

// Ratio is part*scale/whole, rounded half up; false where whole is not above 0 or the result does not fit.
func Ratio(part, scale, whole int64) (int64, bool) {
	if whole <= 0 {
		return 0, false
	}
	q, r := floorDiv(part, scale, whole)
	if q == 1<<63-1 || q == -1<<63 {
		return 0, false
	}
	if r >= whole-r {
		q++
	}
	return q, true
}

// Change is what an amount grew by, and that in per mille of what it was, rounded half up; nil where that was not above
// 0.
func Change(now, was money.Nanos) (delta money.Nanos, permille *int64, err error) {
	if delta, err = money.Sub(now, was); err != nil {
		return 0, nil, err
	}
	if p, ok := Ratio(int64(delta), 1000, int64(was)); ok {
		permille = &p
	}
	return delta, permille, nil
}
