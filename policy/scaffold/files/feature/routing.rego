# The policy of a feature. It decides together with the organisation's and the team's, and can only narrow what they leave:
# a call that one of them denies is denied, whatever this says.
package chartergate.routing

import data.chartergate.lib.rollout

# Prompts and answers are bounded; data.json says how, 0 is no limit.
decision := object.union(
	{
		"effect": effect,
		"max_input_tokens": data.config.feature.max_input_tokens,
		"max_output_tokens": data.config.feature.max_output_tokens,
		"reasons": reasons,
	},
	choice,
)

effect := "downgrade" if {
	choice != {}
} else := "allow"

# A share of the users tries the cheapest tier that can serve the call, always the same users, and more as the share grows.
# For all others no tier is named: the choice is that of the policies above.
default choice := {}

choice := {"tiers": [input.able.tiers[0]]} if {
	data.config.feature.trial_percent > 0
	rollout.includes("cheapest-tier", input.request.user, data.config.feature.trial_percent)
}

reasons contains sprintf("This user tries the %s tier.", [choice.tiers[0]])
