package bill

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Every decimal is read as big.Rat reads it, rounded half away from zero, and summed exactly.
func TestDecimalsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sum Sum
		want, lines := new(big.Rat), new(big.Rat)
		for range rapid.IntRange(1, 10).Draw(t, "n") {
			text := rapid.StringMatching(`[-+]?([0-9]{1,9}(\.[0-9]{0,30})?|\.[0-9]{1,25})([eE][-+]?[0-9])?`).Draw(t, "text")
			d, err := ParseDecimal(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			r, ok := new(big.Rat).SetString(text)
			if !ok {
				t.Fatal(text)
			}
			if got, _ := new(big.Rat).SetString(d.String()); got.Cmp(r) != 0 {
				t.Fatalf("%s is read as %s", text, d.String())
			}
			sum.Add(d)
			want.Add(want, r)
			a, err := d.Amount()
			nanos := roundRat(r, 9)
			if nanos.IsInt64() != (err == nil) {
				t.Fatalf("%s: %v", text, err)
			}
			if err == nil {
				if int64(a.Nanos) != nanos.Int64() {
					t.Fatalf("%s is %d nanos, not %s", text, a.Nanos, nanos)
				}
				all := new(big.Int).Mul(big.NewInt(int64(a.Nanos)), big.NewInt(1e9))
				if all.Add(all, big.NewInt(a.Atto)).Cmp(roundRat(r, 18)) != 0 || a.Atto > 5e8 || a.Atto < -5e8 {
					t.Fatalf("%s is %+v", text, a)
				}
			}
			lines.Add(lines, r)
		}
		if got, _ := new(big.Rat).SetString(sum.String()); got.Cmp(want) != 0 {
			t.Fatalf("the sum is %s, not %s", sum.String(), want.FloatString(40))
		}
	})
}

func roundRat(r *big.Rat, decimals int64) *big.Int {
	x := new(big.Rat).Mul(r, new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(decimals), nil)))
	half := big.NewRat(int64(x.Sign()), 2)
	x.Add(x, half)
	return new(big.Int).Quo(x.Num(), x.Denom())
}

func TestWhatIsNoDecimal(t *testing.T) {
	for text, says := range map[string]string{
		"": "not a decimal number", "abc": "not a decimal number", "1,5": "comma", "1,234.56": "comma", "$5": "not a decimal number", "1e": "not a decimal number", "1e99999": "not a decimal",
		"NaN": "not a decimal number", "Inf": "not a decimal number", "--1": "not a decimal", "1.2.3": "not a decimal", "0x10": "not a decimal", ".": "not a decimal", "-": "not a decimal",
		"1e-61": "60 decimals", "1e300": "does not fit",
	} {
		if _, err := ParseDecimal(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestUnits(t *testing.T) {
	for text, want := range map[string][2]int64{"12.5": {12, 500_000_000}, "-0.25": {0, -250_000_000}, "100000000000000000.5": {100_000_000_000_000_000, 500_000_000}, "0.0000000005": {0, 1}} {
		d, err := ParseDecimal(text)
		if err != nil {
			t.Fatal(err)
		}
		if u, n, ok := d.Units(); !ok || u != want[0] || n != want[1] {
			t.Errorf("%s is %d and %d (%v)", text, u, n, ok)
		}
	}
}
