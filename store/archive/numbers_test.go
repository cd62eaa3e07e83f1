package archive

import (
	"math/rand/v2"
	"testing"
)

// Whatever the order, the set knows what it lacks, as a plain search finds it.
func TestNumbers(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var s Numbers
		if _, ok := s.First(); ok {
			t.Fatal("an empty set has a first number")
		}
		has := map[uint64]bool{}
		first := uint64(100)
		for range 40 {
			n := r.Uint64N(50)
			if s.Add(n) == has[n] {
				t.Fatalf("seed %d: adding %d, which is in it: %v", seed, n, has[n])
			}
			has[n], first = true, min(first, n)
		}
		if n, ok := s.First(); !ok || n != first {
			t.Fatalf("seed %d: the first is %d (%v), want %d", seed, n, ok, first)
		}
		for range 50 {
			from, to := r.Uint64N(55), r.Uint64N(55)
			want := from
			for has[want] && want <= to {
				want++
			}
			if n, lacks := s.Lacks(from, to); lacks != (want <= to) || lacks && n != want {
				t.Fatalf("seed %d: from %d to %d lacks %d (%v), want %d", seed, from, to, n, lacks, want)
			}
		}
	}
}
