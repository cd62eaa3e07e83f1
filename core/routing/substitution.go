package routing

import (
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/charter"
)

// EveryCapability is the capability of an evaluation that counts for each that has none of its own.
const EveryCapability = "*"

// Substitutes says whether a model would serve a call in place of a larger one: one of a dearer tier, that the call asks
// for by name. A name that the catalog does not have is of no tier.
func Substitutes(call *Call, catalog *charter.Catalog, m *charter.Model) bool {
	if call.Model == "" || call.Model == m.ID {
		return false
	}
	asked := catalog.Model(call.Model)
	return asked != nil && catalog.Rank(m.Tier) < catalog.Rank(asked.Tier)
}

// Unproven names the evaluation of a model that a charter lacks for it to serve a call in place of a larger one; empty if
// it lacks none. Needed is the call's task class or, where it has none, each capability that it requires or, where it
// requires none, EveryCapability.
func Unproven(call *Call, c *charter.Charter, model string, now time.Time) string {
	switch {
	case call.TaskClass != "":
		if !proven(c, model, call.TaskClass, now) {
			return call.TaskClass
		}
	case len(call.Capabilities) == 0:
		if !proven(c, model, EveryCapability, now) {
			return EveryCapability
		}
	default:
		for _, need := range call.Capabilities {
			if !proven(c, model, need, now) {
				return need
			}
		}
	}
	return ""
}

// proven wants an unexpired evaluation of the need that passed and none that failed or, where there is none of either
// kind, such evaluations of EveryCapability.
func proven(c *charter.Charter, model, need string, now time.Time) bool {
	for _, capability := range [2]string{need, EveryCapability} {
		passed, failed := false, false
		for i := range c.Evaluations {
			if e := &c.Evaluations[i]; e.Model == model && e.Capability == capability && e.Counts(now) {
				passed, failed = passed || e.Passed, failed || !e.Passed
			}
		}
		if passed || failed {
			return !failed
		}
	}
	return false
}

// Evidence counts the evaluations of a charter that have not expired. While the charter stays the same, so do all answers
// of Unproven for which the count is the same.
func Evidence(c *charter.Charter, now time.Time) int {
	n := 0
	for i := range c.Evaluations {
		if c.Evaluations[i].Counts(now) {
			n++
		}
	}
	return n
}

// Escalated says whether a charter has leave to go on after a budget is used up.
func Escalated(c *charter.Charter, budget string, now time.Time) bool {
	return slices.ContainsFunc(c.ApprovedEscalations, func(e charter.ApprovedEscalation) bool {
		return e.Budget == budget && !now.Before(e.Approved) && now.Before(e.Expires)
	})
}

// Forecast is the utilisation that a budget would have at the end of its window if the rest of it went on as the part
// until now: utilisation x length / elapsed, in minutes, rounded down. Less than a hundredth of the window counts as a
// hundredth. It is the utilisation itself where the window is not known.
func (b *BudgetState) Forecast(now time.Time) int64 {
	length := b.End/60 - b.Start/60
	if length <= 0 {
		return int64(b.UtilizationPermille)
	}
	elapsed := min(max(now.Unix()/60-b.Start/60, 1, (length+99)/100), length)
	return int64(b.UtilizationPermille) * length / elapsed
}
