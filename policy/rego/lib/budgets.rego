# Budgets are those of `input.budgets`, from the feature's own to the root. What is handed to these functions counts as
# read whole: where a decision depends only on `over_alert` or `exhausted`, read these yourself and it is remembered longer.
package chartergate.lib.budgets

# over(budgets, share) holds if the utilization of any is at least that share, such as 0.8.
over(budgets, share) if {
	some b in budgets
	b.utilization >= share
}

# heading_over(budgets, share) holds if the forecast of any is at least that share.
heading_over(budgets, share) if {
	some b in budgets
	b.forecast >= share
}

# most_utilized(budgets) is the one with the highest utilization, of several the first. Undefined for none.
most_utilized(budgets) := budgets[min(places)] if {
	highest := max([b.utilization | some b in budgets])
	places := [i | some i, b in budgets; b.utilization == highest]
}

# of_kind(budgets, per) lists those that are kept per `user`, `cohort`, `agent` or `run`; for "" those that are not.
of_kind(budgets, per) := [b | some b in budgets; b.per == per]
