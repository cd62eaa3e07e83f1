package policy

import (
	"math"
	"math/big"
	"strconv"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"pgregory.net/rapid"
)

func drawFloat(r *rapid.T, name string) float {
	n := rapid.OneOf(rapid.Int64Range(-2000, 2000), rapid.Int64(), rapid.Just[int64](math.MinInt64)).
		Filter(func(n int64) bool { return n != 0 }).Draw(r, name)
	f := floatOf(n)
	f.exp += rapid.Int32Range(-140, 10).Draw(r, name+" exp")
	return f
}

// TestFloatIsBigFloat compares each operation with the one of math/big that OPA takes.
func TestFloatIsBigFloat(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		a, b := drawFloat(r, "a"), drawFloat(r, "b")
		x, y := a.big(), b.big()
		check := func(op string, got float, want *big.Float) {
			if got.big().Cmp(want) != 0 {
				r.Fatalf("%s %s %s = %s, want %s", x.Text('g', -1), op, y.Text('g', -1), got.big().Text('g', -1), want.Text('g', -1))
			}
			if back, ok := floatOfBig(want); !ok || back != got {
				r.Fatalf("%s is read as %+v", want.Text('g', -1), back)
			}
		}
		check("*", a.mul(b), new(big.Float).Mul(x, y))
		check("/", a.quo(b), new(big.Float).Quo(x, y))
		if sum, ok := a.add(b); ok {
			check("+", sum, new(big.Float).Add(x, y))
		} else if x.Cmp(new(big.Float).Neg(y)) != 0 {
			r.Fatalf("%s + %s is taken for zero", x, y)
		}
		if n, whole, fits := a.whole(); whole != x.IsInt() {
			r.Fatalf("%s is taken for whole: %v", x, whole)
		} else if want, exact := x.Int64(); whole && fits != (exact == big.Exact && want != math.MinInt64) || fits && n != want {
			r.Fatalf("%s is taken for %d, %v", x, n, fits)
		}
		text := func(f *big.Float) ast.Number { return ast.Number(f.Text('g', -1)) }
		if c, ok := a.compare(b); ok && c != text(x).Compare(text(y)) {
			r.Fatalf("%s compares with %s as %d", x, y, c)
		}
	})
}

// TestPermille shows that utilisations are the numbers that OPA reads.
func TestPermille(t *testing.T) {
	for n := range int32(20_000) {
		want := permille(n).Value
		got := permilleValue(n)
		if got.number() != want || got.kind == isFloat && string(got.number()) != strconv.FormatFloat(float64(n)/1000, 'f', -1, 64) {
			t.Fatalf("%d permille is %v, want %v", n, got.number(), want)
		}
	}
}
