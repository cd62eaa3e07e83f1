# More is tested where the set is combined: routing_test.rego.
package chartergate.shipped.minimum_tier_test

import data.chartergate.shipped.minimum_tier

call := {
	"request": {"task_class": "chat", "complexity": 0, "model": "", "tier": ""},
	"charter": {"stage": "production", "permitted_tiers": ["economy", "standard"]},
	"budgets": [{"id": "acme", "exhausted": false}],
	"catalog": {"tiers": ["economy", "standard", "premium"]},
	"able": {"tiers": ["economy", "standard"], "models": {"economy": ["mini"], "standard": ["base"]}},
}

decide(request) := decision if {
	decision := minimum_tier.decision with input as object.union(call, {"request": request})
}

test_the_need_first_then_cheaper if {
	decide({}) == {"effect": "allow", "tiers": ["standard", "economy"], "reasons": {"A task of class chat starts at the standard tier."}}
}

test_a_known_complexity_goes_first if decide({"complexity": 20}).tiers == ["economy"]

test_a_model_goes_first_on_its_rung if decide({"model": "base"}).models == ["base", "mini"]

test_no_reason_for_a_call_that_does_not_run if {
	decision := minimum_tier.decision with input as object.union(call, {"budgets": [{"id": "acme", "exhausted": true}]})
	decision.reasons == set()
}

test_retired if {
	decision := minimum_tier.decision with input as object.union(call, {"charter": {"stage": "retired"}})
	decision == {"effect": "deny", "reasons": {"The feature is retired."}}
}
