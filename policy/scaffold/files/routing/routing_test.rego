package chartergate.routing_test

import data.chartergate.routing

# A call on a calm day. Fields that no rule reads are left out.
call := {
	"request": {
		"task_class": "chat",
		"complexity": 0,
		"input_tokens": 200,
		"cached_input_tokens": 0,
		"model": "",
		"tier": "",
		"residency": "",
		"region": "",
	},
	"charter": {
		"stage": "production",
		"permitted_tiers": ["economy", "standard", "premium"],
		"exhausted": {"mode": "deny"},
		"escalation": [{"owner": "Priya Raman"}],
	},
	"budgets": [
		{"id": "support", "over_alert": false, "exhausted": false},
		{"id": "acme", "over_alert": false, "exhausted": false},
	],
	"catalog": {
		"tiers": ["economy", "standard", "premium"],
		"models": [
			{"id": "small", "tier": "economy"},
			{"id": "middle", "tier": "standard"},
			{"id": "large", "tier": "premium"},
		],
	},
	"able": {
		"tiers": ["economy", "standard", "premium"],
		"models": {"economy": ["small"], "standard": ["middle"], "premium": ["large"]},
	},
}

# The decision on that call with some of it replaced. Objects are merged, lists are replaced.
decide(change) := decision if {
	decision := routing.decision with input as object.union(call, change)
}

test_a_chat_starts_at_the_standard_tier if {
	decision := decide({})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
	not decision.max_output_tokens
}

test_a_hard_task_starts_at_the_dearest_tier if {
	decide({"request": {"complexity": 90}}).tiers == ["premium", "standard", "economy"]
}

test_answers_of_an_experiment_are_bounded if {
	decision := decide({"charter": {"stage": "experiment"}}) with data.config.own.experiment_output_tokens as 700
	decision.effect == "allow"
	decision.max_output_tokens == 700
	"Answers of an experiment have at most 700 tokens." in decision.reasons
}

test_no_bound_is_no_limit if {
	decision := decide({"charter": {"stage": "experiment"}}) with data.config.own.experiment_output_tokens as 0
	not decision.max_output_tokens
}

test_over_the_alert_threshold_a_tier_lower if {
	decision := decide({"budgets": [{"id": "acme", "over_alert": true, "exhausted": false}]})
	decision.effect == "downgrade"
	decision.tiers == ["economy"]
}

test_a_used_up_budget_denies_and_says_whom_to_ask if {
	decision := decide({"budgets": [{"id": "acme", "over_alert": true, "exhausted": true}]})
	decision.effect == "deny"
	"Budget acme is used up." in decision.reasons
	"To go on, ask Priya Raman for an escalation." in decision.reasons
}

test_a_retired_feature_is_denied if decide({"charter": {"stage": "retired"}}).effect == "deny"
