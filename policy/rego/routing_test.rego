# Tests of the shipped policy: `opa test policy/rego`.
package chartergate.routing_test

import data.chartergate.routing

calm := {
	"request": {
		"task_class": "",
		"complexity": 0,
		"input_tokens": 200,
		"cached_input_tokens": 0,
		"model": "",
		"tier": "",
	},
	"charter": {
		"stage": "production",
		"permitted_tiers": ["economy", "standard", "premium"],
		"exhausted": {"mode": "deny"},
	},
	"budgets": [
		{"id": "support-emea", "over_alert": false, "exhausted": false},
		{"id": "acme", "over_alert": false, "exhausted": false},
	],
	"catalog": {
		"tiers": ["economy", "standard", "premium"],
		"models": [
			{"id": "nano", "tier": "economy"},
			{"id": "mini", "tier": "economy"},
			{"id": "base", "tier": "standard"},
			{"id": "eyes", "tier": "standard"},
			{"id": "large", "tier": "premium"},
		],
	},
	"able": all_able,
}

all_able := {
	"tiers": ["economy", "standard", "premium"],
	"models": {"economy": ["nano", "mini"], "standard": ["base", "eyes"], "premium": ["large"]},
}

# What can serve the call where a tier or two cannot.
up_to_standard := {
	"tiers": ["economy", "standard"],
	"models": object.remove(all_able.models, ["premium"]),
}

from_standard := {
	"tiers": ["standard", "premium"],
	"models": {"standard": ["eyes"], "premium": ["large"]},
}

only_premium := {"tiers": ["premium"], "models": {"premium": ["large"]}}

# The decision on the calm input with some of it replaced.
decide(change) := decision if {
	able := {"able": object.get(change, "able", all_able)} # replaced as a whole
	decision := routing.decision with input as object.union_n([object.remove(calm, ["able"]), change, able])
}

ask(request) := decide({"request": request})

alert := [
	{"id": "support-emea", "over_alert": false, "exhausted": false},
	{"id": "acme", "over_alert": true, "exhausted": false},
]

used_up := [
	{"id": "support-emea", "over_alert": true, "exhausted": true},
	{"id": "acme", "over_alert": true, "exhausted": false},
]

# --- What the task needs ---

test_simple_classes_start_at_the_cheapest_tier if {
	every class in ["classify", "extract", "moderate", "route", "summarize", "translate", "rewrite"] {
		ask({"task_class": class}).tiers == ["economy"]
	}
}

test_conversation_starts_in_the_middle if {
	every class in ["chat", "rag", "qa", "write"] {
		ask({"task_class": class}).tiers == ["standard", "economy"]
	}
}

test_hard_classes_start_at_the_dearest_tier if {
	every class in ["prove", "olympiad", "expert", "plan", "competitive programming"] {
		ask({"task_class": class}).tiers == ["premium", "standard", "economy"]
	}
}

test_agents_and_code_start_in_the_middle if {
	every class in ["code", "math", "debug", "agent", "reason"] {
		ask({"task_class": class, "input_tokens": 8000}).tiers[0] == "standard"
	}
	ask({"task_class": "debug", "input_tokens": 32001}).tiers[0] == "premium"
}

test_long_texts_need_more if {
	ask({"task_class": "summarize", "input_tokens": 8000}).tiers[0] == "economy"
	ask({"task_class": "translate", "input_tokens": 32001}).tiers[0] == "standard"
}

test_classes_by_other_names if {
	every class in ["Classification", "sentiment", "intent detection", "json-extraction", "SUMMARIZATION", "news/summary"] {
		ask({"task_class": class}).tiers == ["economy"]
	}
	every class in ["question_answering", "customer-support chat", "code_generation", "math word problem"] {
		ask({"task_class": class}).tiers[0] == "standard"
	}
	every class in ["theorem-prover proof", "deep research", "city planning"] {
		ask({"task_class": class}).tiers[0] == "premium"
	}
}

test_unknown_class_starts_in_the_middle if {
	decision := ask({"task_class": "haiku"})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
	decision.reasons == ["A call that says nothing of its task starts at the standard tier."]
}

test_complexity_has_three_levels if {
	every case in [[1, "economy"], [30, "economy"], [31, "standard"], [70, "standard"], [71, "premium"], [100, "premium"]] {
		ask({"complexity": case[0]}).tiers[0] == case[1]
	}
}

test_complexity_overrides_the_class if {
	ask({"task_class": "code", "complexity": 10}).tiers == ["economy"]
	ask({"task_class": "classify", "complexity": 90}).tiers[0] == "premium"
}

test_the_reason_names_the_class if {
	ask({"task_class": "chat"}).reasons == ["A task of class chat starts at the standard tier."]
}

test_the_reason_names_the_complexity if {
	ask({"task_class": "chat", "complexity": 80}).reasons == ["A task of high complexity starts at the premium tier."]
}

test_two_tiers if {
	two := {"catalog": {"tiers": ["economy", "premium"]}, "able": {"tiers": ["economy", "premium"], "models": {}}}
	decide(object.union(two, {"request": {"task_class": "classify"}})).tiers == ["economy"]
	decide(object.union(two, {"request": {"task_class": "chat"}})).tiers == ["economy"]
	decide(object.union(two, {"request": {"task_class": "qa"}})).tiers == ["premium", "economy"]
	decide(object.union(two, {"request": {"task_class": "haiku"}})).tiers == ["premium", "economy"]
	decide(object.union(two, {"request": {"task_class": "code"}})).tiers == ["premium", "economy"]
}

test_four_tiers if {
	ids := ["mini", "small", "base", "large"]
	four := {"catalog": {"tiers": ids}, "able": {"tiers": ids, "models": {}}}
	every case in [[1, "mini"], [25, "mini"], [26, "small"], [50, "small"], [51, "base"], [75, "base"], [76, "large"]] {
		decide(object.union(four, {"request": {"complexity": case[0]}})).tiers[0] == case[1]
	}
	decide(object.union(four, {"request": {"task_class": "classify"}})).tiers[0] == "mini"
	decide(object.union(four, {"request": {"task_class": "prove"}})).tiers[0] == "large"
}

test_one_tier if {
	one := {"catalog": {"tiers": ["economy"]}, "able": {"tiers": ["economy"], "models": {}}}
	every class in ["classify", "chat", "code"] {
		decide(object.union(one, {"request": {"task_class": class}})).tiers == ["economy"]
	}
}

# --- What is permitted and able ---

test_the_lowest_able_tier_where_the_need_is_below if {
	decision := decide({"able": from_standard, "request": {"task_class": "classify"}})
	decision.effect == "allow"
	decision.tiers == ["standard"]
}

test_a_tier_that_is_not_able_is_no_fallback if {
	decide({"able": from_standard, "request": {"task_class": "prove"}}).tiers == ["premium", "standard"]
}

test_the_highest_able_tier_where_the_need_is_above if {
	decision := decide({"able": up_to_standard, "request": {"task_class": "prove"}})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
}

test_a_gap_is_skipped if {
	gap := {"tiers": ["economy", "premium"], "models": {}}
	decide({"able": gap, "request": {"task_class": "chat"}}).tiers == ["premium", "economy"]
}

test_nothing_able_is_left_to_the_gate if {
	decision := decide({"able": {"tiers": [], "models": {}}, "request": {"task_class": "chat"}})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
}

test_nothing_permitted_is_denied if {
	decision := decide({"able": {"tiers": [], "models": {}}, "charter": {"permitted_tiers": []}})
	decision.effect == "deny"
	decision.reasons == ["The charter permits no tier of the catalog."]
}

test_retired_is_denied if {
	decision := decide({"charter": {"stage": "retired"}})
	decision.effect == "deny"
	not decision.tiers
	decision.reasons == ["The feature is retired."]
}

# --- What the caller wishes ---

test_a_cheaper_wish_is_granted if {
	decision := ask({"task_class": "prove", "tier": "economy"})
	decision.effect == "allow"
	decision.tiers == ["economy"]
}

test_a_dearer_wish_is_cut_to_the_need if {
	decision := ask({"task_class": "classify", "tier": "premium"})
	decision.effect == "downgrade"
	decision.tiers == ["economy"]
	"The premium tier was asked for, which is more than the task needs." in decision.reasons
}

test_a_wish_is_the_need_where_nothing_else_is_known if {
	decision := ask({"tier": "premium"})
	decision.effect == "allow"
	decision.tiers == ["premium", "standard", "economy"]
}

test_a_wish_that_is_not_able_gets_the_best_that_is if {
	decision := decide({"able": up_to_standard, "request": {"tier": "premium"}})
	decision.effect == "downgrade"
	decision.tiers == ["standard", "economy"]
	"The premium tier was asked for, but has no model that is permitted and able." in decision.reasons
}

test_an_unknown_wish_is_none if {
	decision := ask({"task_class": "chat", "tier": "platinum", "model": "gpt-0"})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
}

test_an_asked_model_goes_first if {
	decision := ask({"task_class": "chat", "model": "eyes"})
	decision.effect == "allow"
	decision.models == ["eyes", "base", "nano", "mini"]
	not decision.tiers
}

test_an_asked_model_is_enough_of_a_wish if {
	ask({"model": "mini"}).models == ["mini", "nano"]
}

test_an_asked_model_that_is_too_dear_is_not_taken if {
	decision := ask({"task_class": "classify", "model": "large"})
	decision.effect == "downgrade"
	decision.tiers == ["economy"]
	not decision.models
}

test_an_asked_model_that_is_not_able_is_not_taken if {
	decision := decide({"able": up_to_standard, "request": {"task_class": "chat", "model": "large"}})
	decision.effect == "allow"
	decision.tiers == ["standard", "economy"]
	"The model that was asked for is not permitted, or not able to serve the call." in decision.reasons
}

test_at_most_64_models if {
	many := {"tiers": ["economy"], "models": {"economy": [sprintf("m%d", [i]) | some i in numbers.range(1, 100)]}}
	decision := decide({"able": many, "request": {"task_class": "classify", "model": "m70"}})
	decision.models[0] == "m70"
	count(decision.models) == 64
}

# --- How the budgets stand ---

test_alert_starts_one_tier_lower if {
	decision := decide({"budgets": alert, "request": {"task_class": "prove"}})
	decision.effect == "downgrade"
	decision.tiers == ["standard", "economy"]
	"Budget acme is over its alert threshold: the standard tier serves instead." in decision.reasons
}

test_alert_skips_tiers_that_are_not_able if {
	decision := decide({"budgets": alert, "able": from_standard, "request": {"task_class": "prove"}})
	decision.effect == "downgrade"
	decision.tiers == ["standard"]
}

test_alert_at_the_only_able_tier_changes_nothing if {
	decision := decide({"budgets": alert, "able": only_premium, "request": {"task_class": "prove"}})
	decision.effect == "allow"
	decision.tiers == ["premium"]
}

test_alert_at_the_lowest_tier_changes_nothing if {
	decision := decide({"budgets": alert, "request": {"task_class": "classify"}})
	decision.effect == "allow"
	decision.tiers == ["economy"]
	"Budget acme is over its alert threshold, but no cheaper tier can serve the call." in decision.reasons
}

test_alert_passes_over_an_asked_model if {
	decision := decide({"budgets": alert, "request": {"task_class": "chat", "model": "base"}})
	decision.effect == "downgrade"
	decision.models == ["nano", "mini"]
	not decision.tiers
}

test_used_up_is_denied if {
	decision := decide({"budgets": used_up, "request": {"task_class": "chat"}})
	decision.effect == "deny"
	decision.reasons == ["Budget support-emea is used up."]
}

test_used_up_is_throttled_where_the_charter_pays_some if {
	every mode in ["downgrade", "trickle"] {
		decision := decide({
			"budgets": used_up,
			"charter": {"exhausted": {"mode": mode}},
			"able": from_standard,
			"request": {"task_class": "prove"},
		})
		decision.effect == "throttle"
		decision.tiers == ["standard"]
	}
}

test_retired_goes_before_used_up if {
	decide({"budgets": used_up, "charter": {"stage": "retired", "exhausted": {"mode": "trickle"}}}).effect == "deny"
}

# --- Advice ---

test_prompts_worth_caching if {
	ask({"input_tokens": 1024}).prompt_cache == "5m"
	ask({"input_tokens": 10, "cached_input_tokens": 1}).prompt_cache == "5m"
	not ask({"input_tokens": 1023}).prompt_cache
}
