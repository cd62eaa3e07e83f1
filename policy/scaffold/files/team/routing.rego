# The policy of a team. It decides together with the organisation's, above it, and that of the feature, below it, and can
# only narrow what the organisation's leaves: a call that is denied there is denied, whatever this says.
package chartergate.routing

decision := object.union({"effect": effect, "reasons": reasons}, choice)

effect := "downgrade" if {
	choice != {}
} else := "allow"

# Calls that save get the cheapest tier that can serve them. For all others no tier is named: the choice is the
# organisation's.
default choice := {}

choice := {"tiers": [cheapest]} if saves

cheapest := input.able.tiers[0]

# Calls of the cohorts of data.json, and all calls while a budget that pays for them is over its alert threshold.
saves if frugal

saves if input.budgets[_].over_alert

frugal if input.request.cohort in data.config.team.frugal_cohorts

reasons contains sprintf("Cohort %s is served by the %s tier.", [input.request.cohort, cheapest]) if frugal

reasons contains sprintf("Budget %s is over its alert threshold: the %s tier serves.", [input.budgets[i].id, cheapest]) if {
	some i
	input.budgets[i].over_alert
}
