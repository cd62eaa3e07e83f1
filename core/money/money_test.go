package money

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func addSub(t *rapid.T) {
	a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
	check := func(name string, got Nanos, err error, want *big.Int) {
		if want.IsInt64() != (err == nil) || (err == nil && int64(got) != want.Int64()) {
			t.Fatalf("%s(%d, %d) = %d, %v; want %s", name, a, b, got, err, want)
		}
	}
	sum, err := Add(Nanos(a), Nanos(b))
	check("Add", sum, err, new(big.Int).Add(big.NewInt(a), big.NewInt(b)))
	diff, err := Sub(Nanos(a), Nanos(b))
	check("Sub", diff, err, new(big.Int).Sub(big.NewInt(a), big.NewInt(b)))
}

func TestAddSubAgreeWithBigIntegers(t *testing.T) { rapid.Check(t, addSub) }

func mulDiv(t *rapid.T) {
	a := rapid.Int64Min(0).Draw(t, "a")
	b := rapid.Int64Min(0).Draw(t, "b")
	c := rapid.Int64Min(1).Draw(t, "c")
	want := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
	want.Div(want, big.NewInt(c))
	got, err := MulDiv(a, b, c)
	if want.IsInt64() != (err == nil) || (err == nil && got != want.Int64()) {
		t.Fatalf("MulDiv(%d, %d, %d) = %d, %v; want %s", a, b, c, got, err, want)
	}
}

func TestMulDivAgreesWithBigIntegers(t *testing.T) { rapid.Check(t, mulDiv) }

func parseString(t *rapid.T) {
	n := Nanos(rapid.Int64Min(math.MinInt64+1).Draw(t, "n"))
	back, err := Parse(n.String())
	if err != nil || back != n {
		t.Fatalf("Parse(%q) = %d, %v; want %d", n.String(), back, err, n)
	}
}

func TestStringAndParseAreInverse(t *testing.T) { rapid.Check(t, parseString) }

func TestParse(t *testing.T) {
	for in, want := range map[string]Nanos{
		"0": 0, "12.5": 12_500_000_000, "0.000000001": 1, "1_000": 1000 * Unit, "-2.50": -2_500_000_000,
		"9223372036.854775807": math.MaxInt64,
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "1.", ".5", "1e3", "+1", "--1", "1.-5", "$5", "0.0000000001", "NaN"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d; want an error", in, got)
		}
	}
	for _, in := range []string{"9223372036.854775808", "99999999999999999999999"} {
		if _, err := Parse(in); !errors.Is(err, ErrOverflow) {
			t.Errorf("Parse(%q): %v; want ErrOverflow", in, err)
		}
	}
}

func TestPermilleRoundsDown(t *testing.T) {
	for _, c := range []struct {
		part, whole Nanos
		want        int32
	}{{0, 100, 0}, {7999, 10000, 799}, {8000, 10000, 800}, {9999, 10000, 999}, {5, 0, 0}, {math.MaxInt64, 1, math.MaxInt32}} {
		if got := Permille(c.part, c.whole); got != c.want {
			t.Errorf("Permille(%d, %d) = %d; want %d", c.part, c.whole, got, c.want)
		}
	}
}

// FuzzArithmetic looks for amounts at which the checked arithmetic differs from that of big integers.
func FuzzArithmetic(f *testing.F) {
	f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) {
		addSub(t)
		mulDiv(t)
		parseString(t)
	}))
}
