//go:build mutants

package sim

import (
	"maps"
	"slices"
	"testing"

	"github.com/chartergate/chartergate/core/guard"
)

// Each guard that is switched off lets something go wrong, and the oracle sees it.
func TestEachGuardIsNeeded(t *testing.T) {
	seeds := number(t, "CHARTERGATE_SIM_SEEDS", 30000)
	guards := guard.All()
	for _, name := range slices.Sorted(maps.Keys(guards)) {
		t.Run(name, func(t *testing.T) {
			*guards[name] = false
			defer func() { *guards[name] = true }()
			all, bad := campaign(0, seeds, func(result) bool { return true })
			if len(bad) == 0 {
				t.Fatalf("%d runs without it, and nothing went wrong", all.Runs)
			}
			t.Logf("found within %d runs, by seed %d: %.300v", all.Runs, bad[0].seed, bad[0].violation)
		})
	}
}
