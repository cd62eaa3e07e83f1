# What happens at 100%. A charter that has an overflow allowance goes on with the cheapest tier, as far as the allowance
# goes; with `config.exhausted.approval` only while an escalation for each budget that is used up is approved. All others
# are denied until the next period, and told whom to ask.
package chartergate.shipped.exhausted_budgets

default decision := {"effect": "allow"}

decision := {"effect": "throttle", "tiers": [ladder[0]], "reasons": array.concat(why, escalations)} if {
	used_up
	goes_on
} else := {"effect": "deny", "reasons": array.concat(why, path)} if {
	used_up
}

used_up := [id | some i; input.budgets[i].exhausted; id := input.budgets[i].id] if input.budgets[_].exhausted

goes_on if {
	input.charter.exhausted.mode in {"downgrade", "trickle"} # it has an allowance
	count(ladder) > 0
	approved
}

approved if not data.config.exhausted.approval

approved if {
	data.config.exhausted.approval
	count([i | some i; input.budgets[i].exhausted; not input.budgets[i].escalated]) == 0
}

ladder := input.able.tiers if {
	count(input.able.tiers) > 0
} else := input.charter.permitted_tiers

why := [sprintf("Budget %s is used up.", [used_up[0]])]

default escalations := []

escalations := [sprintf("Escalation %s for budget %s is approved by %s.", [e.id, e.budget, e.approver]) |
	some i
	input.budgets[i].exhausted
	input.budgets[i].escalated
	some e in input.charter.approved_escalations
	e.budget == input.budgets[i].id
] if {
	data.config.exhausted.approval
}

path := [sprintf("To go on, ask %s for an escalation.", [concat(", then ", names)]) |
	names := [step.owner | some step in input.charter.escalation]
	count(names) > 0
]
