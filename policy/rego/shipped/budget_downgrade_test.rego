package chartergate.shipped.budget_downgrade_test

import data.chartergate.shipped.budget_downgrade

call := {
	"request": {"task_class": "prove", "complexity": 0, "model": "", "tier": ""},
	"charter": {"stage": "production", "permitted_tiers": ["economy", "standard", "premium"]},
	"budgets": [{"id": "acme", "over_alert": true, "exhausted": false}],
	"catalog": {"tiers": ["economy", "standard", "premium"]},
	"able": {"tiers": ["economy", "standard", "premium"], "models": {"economy": ["mini"], "standard": ["base"], "premium": ["large"]}},
}

decide(change) := decision if {
	decision := budget_downgrade.decision with input as object.union(call, change)
}

test_one_tier_lower if {
	decide({}) == {
		"effect": "downgrade",
		"tiers": ["standard", "economy"],
		"reasons": ["Budget acme is over its alert threshold: the standard tier serves instead."],
	}
}

test_a_model_on_the_lower_rungs_goes_first if decide({"request": {"tier": "premium", "model": "nobody"}}).tiers == ["standard", "economy"]

test_no_lower_tier if {
	decision := decide({"request": {"task_class": "classify"}})
	decision.effect == "allow"
	not decision.tiers
	decision.reasons == ["Budget acme is over its alert threshold, but no cheaper tier can serve the call."]
}

test_no_alert if decide({"budgets": [{"id": "acme", "over_alert": false, "exhausted": false}]}) == {"effect": "allow"}

test_used_up_is_not_its_business if decide({"budgets": [{"id": "acme", "over_alert": true, "exhausted": true}]}) == {"effect": "allow"}
