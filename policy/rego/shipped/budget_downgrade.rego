# One tier lower than the task needs while a budget is over its alert threshold.
package chartergate.shipped.budget_downgrade

import data.chartergate.shipped.minimum_tier

default decision := {"effect": "allow"}

decision := {"effect": "allow", "reasons": [sprintf("Budget %s is over its alert threshold, but no cheaper tier can serve the call.", [alerted])]} if {
	concerned
	minimum_tier.start == 0
}

decision := object.union(minimum_tier.choice_from(lower), {
	"effect": "downgrade",
	"reasons": [sprintf("Budget %s is over its alert threshold: the %s tier serves instead.", [alerted, minimum_tier.ladder[lower]])],
}) if {
	concerned
	lower := minimum_tier.start - 1
	lower >= 0
}

concerned if {
	minimum_tier.may_run
	alerted
}

# Reading only `over_alert`, not `utilization`, lets the gate remember decisions for longer.
alerted := [input.budgets[i].id | some i; input.budgets[i].over_alert][0]
