package oracle

import (
	"maps"
	"math/big"
	"slices"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// CheckRecords checks the records of one revision against each other.
func CheckRecords(r *Records) []Violation {
	var bad violations
	for key, a := range r.Accounts {
		b := a.Budget
		if b == nil {
			// Where the outcome of the first grant was unknown, its place is taken by one of nothing.
			granted := slices.ContainsFunc(slices.Collect(maps.Values(a.Grants)), func(g *storev1.Grant) bool { return g.GetAlloc() != 0 || g.GetSpent() != 0 })
			if granted || len(a.Alerts) > 0 {
				bad.add("I1", "%s has grants or alerts and no record", key)
			}
			continue
		}
		alloc := b.GetBase()
		for owner, g := range a.Grants {
			alloc += g.GetAlloc()
			if g.GetSpent() < 0 || g.GetSpent() > g.GetAlloc() {
				bad.add("I3", "%s: owner %s has spent %d of %d", key, owner, g.GetSpent(), g.GetAlloc())
			}
		}
		if alloc != b.GetAlloc() {
			bad.add("I1", "%s: alloc is %d; base and the grants are %d", key, b.GetAlloc(), alloc)
		}
	}
	for owner := range r.Owners["own"] {
		if _, ok := r.Owners["tk"][owner]; ok {
			bad.add("I5", "owner %s lives and is taken over", owner)
		}
		if _, ok := r.Owners["cl"][owner]; ok {
			bad.add("I5", "owner %s lives and is closed", owner)
		}
	}
	return bad
}

// CheckBudget checks one version of an account's record: no more is granted than its ceiling and what was forced (I2),
// except that where a ceiling was lowered below what is granted, no more may be granted than in the version before. That is
// nil for the first.
func CheckBudget(before, b *storev1.BudgetAccount) []Violation {
	var bad violations
	most := max(b.GetCeil(), before.GetAlloc()-before.GetForced())
	if b.GetAlloc()-b.GetForced() > most {
		bad.add("I2", "%s: alloc is %d with %d forced, over a ceiling of %d that leaves at most %d",
			KeyOf(b.GetAccount()), b.GetAlloc(), b.GetForced(), b.GetCeil(), most)
	}
	return bad
}

// CheckSums checks the records against the journal: every nano that is settled is journalled and the other way round
// (I7), and so is what is forced (FORCED).
func CheckSums(r *Records, j *Journal) []Violation {
	var bad violations
	for key, a := range r.Accounts {
		settled := a.Budget.GetBase()
		for _, g := range a.Grants {
			settled += g.GetSpent()
		}
		sum := j.Sums[key]
		if settled != sum.Amount {
			bad.add("I7", "%s: %d is settled, %d is journalled", key, settled, sum.Amount)
		}
		if a.Budget.GetForced() != sum.Forced {
			bad.add("FORCED", "%s: %d is recorded as forced, %d is journalled", key, a.Budget.GetForced(), sum.Forced)
		}
	}
	for key, sum := range j.Sums {
		if r.Accounts[key] == nil && sum.Amount != 0 {
			bad.add("I7", "%s has %d in the journal and no record", key, sum.Amount)
		}
	}
	return bad
}

// CheckAlerts checks that settled spend that stands at a threshold of the budget, in per mille, has exactly one alert, and
// that no alert came too early.
func CheckAlerts(r *Records, j *Journal, thresholds func(AccountKey) []int32) []Violation {
	var bad violations
	for key, a := range r.Accounts {
		told := map[int32]int{}
		for _, alert := range a.Alerts {
			told[alert.GetThresholdPermille()]++
			if below(alert.GetSettled(), alert.GetLimit(), alert.GetThresholdPermille()) {
				bad.add("ALERT", "%s: at %d of %d, too early for %d per mille", key, alert.GetSettled(), alert.GetLimit(), alert.GetThresholdPermille())
			}
		}
		for _, t := range thresholds(key) {
			if n := told[t]; n > 1 || n == 0 && a.Budget != nil && a.Budget.GetCeil() > 0 && !below(j.Sums[key].Amount, a.Budget.GetCeil(), t) {
				bad.add("ALERT", "%s: %d alerts at %d per mille of %d with %d settled", key, n, t, a.Budget.GetCeil(), j.Sums[key].Amount)
			}
			delete(told, t)
		}
		for t, n := range told {
			bad.add("ALERT", "%s: %d alerts at %d per mille, which is no threshold of it", key, n, t)
		}
	}
	return bad
}

func below(settled, limit int64, permille int32) bool {
	share := new(big.Int).Mul(big.NewInt(limit), big.NewInt(int64(permille)))
	return new(big.Int).Mul(big.NewInt(settled), big.NewInt(1000)).Cmp(share) < 0
}

// Rates are prices in nanos per million tokens.
type Rates struct{ Input, Cached, Output int64 }

// Cost is the price of tokens, rounded once half up to a nano.
func (r Rates) Cost(t Tokens) int64 {
	sum := new(big.Rat)
	for _, x := range [][2]int64{{t.Input, r.Input}, {t.Cached, r.Cached}, {t.Output, r.Output}} {
		sum.Add(sum, new(big.Rat).Mul(big.NewRat(x[0], 1_000_000), big.NewRat(x[1], 1)))
	}
	sum.Add(sum, big.NewRat(1, 2))
	return new(big.Int).Div(sum.Num(), sum.Denom()).Int64()
}
