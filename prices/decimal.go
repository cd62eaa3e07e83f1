package prices

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/chartergate/chartergate/core/money"
)

var nanosPerMillion = map[int64]*big.Rat{}

func init() {
	for _, per := range []int64{1, 1_000, 1_000_000} {
		nanosPerMillion[per] = big.NewRat(int64(money.Unit)*(1_000_000/per), 1)
	}
}

// rate is the nanos per million of a decimal price in whole currency for per units: 1, 1,000 or 1,000,000. What is finer
// is rounded, half up.
func rate(n json.Number, per int64) (money.Nanos, error) {
	s := n.String()
	if len(s) > 40 {
		return 0, fmt.Errorf("%.40s… has more digits than a price", s)
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(s), "e"); ok {
		if e, err := strconv.Atoi(exponent); err != nil || e < -30 || e > 18 {
			return 0, fmt.Errorf("%s is not a price", s)
		}
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, fmt.Errorf("%s is not a number", s)
	}
	if r.Sign() < 0 {
		return 0, fmt.Errorf("%s is negative", s)
	}
	r.Mul(r, nanosPerMillion[per])
	q := new(big.Int).Div(new(big.Int).Add(new(big.Int).Mul(r.Num(), big.NewInt(2)), r.Denom()), new(big.Int).Mul(r.Denom(), big.NewInt(2)))
	if !q.IsInt64() {
		return 0, fmt.Errorf("%s is too large for a price", s)
	}
	return money.Nanos(q.Int64()), nil
}
