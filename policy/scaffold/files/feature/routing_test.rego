package chartergate.routing_test

import data.chartergate.routing

# Fields of the call that no rule reads are left out.
call := {"request": {"user": "ada"}, "able": {"tiers": ["economy", "standard"]}}

calm := {"max_input_tokens": 8000, "max_output_tokens": 900, "trial_percent": 0}

# The decision on that call with some of the configuration replaced.
decide(config) := decision if {
	decision := routing.decision with input as call
		with data.config.feature as object.union(calm, config)
}

test_prompts_and_answers_are_bounded if {
	decide({}) == {"effect": "allow", "max_input_tokens": 8000, "max_output_tokens": 900, "reasons": set()}
}

test_users_of_the_trial_get_the_cheapest_tier if {
	decision := decide({"trial_percent": 100})
	decision.effect == "downgrade"
	decision.tiers == ["economy"]
	decision.reasons == {"This user tries the economy tier."}
}

test_a_share_of_the_users_is_in_the_trial if {
	tries := {user |
		some i in numbers.range(1, 200)
		user := sprintf("user-%d", [i])
		routing.decision.tiers with input as object.union(call, {"request": {"user": user}})
			with data.config.feature as object.union(calm, {"trial_percent": 25})
	}
	count(tries) > 25
	count(tries) < 75
}
