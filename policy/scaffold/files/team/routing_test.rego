package chartergate.routing_test

import data.chartergate.routing

# A call on a calm day. Fields that no rule reads are left out.
call := {
	"request": {"cohort": "employees"},
	"budgets": [{"id": "support", "over_alert": false}, {"id": "acme", "over_alert": false}],
	"able": {"tiers": ["economy", "standard"]},
}

# The decision on that call with some of it replaced. Objects are merged, lists are replaced.
decide(change) := decision if {
	decision := routing.decision with input as object.union(call, change)
		with data.config.team.frugal_cohorts as ["interns"]
}

test_the_choice_is_the_organisations if decide({}) == {"effect": "allow", "reasons": set()}

test_a_frugal_cohort_gets_the_cheapest_tier if {
	decide({"request": {"cohort": "interns"}}) == {
		"effect": "downgrade",
		"tiers": ["economy"],
		"reasons": {"Cohort interns is served by the economy tier."},
	}
}

test_over_the_alert_threshold_all_get_the_cheapest_tier if {
	decision := decide({"budgets": [{"id": "support", "over_alert": false}, {"id": "acme", "over_alert": true}]})
	decision.tiers == ["economy"]
	decision.reasons == {"Budget acme is over its alert threshold: the economy tier serves."}
}

test_the_cheapest_tier_is_one_that_can_serve_the_call if {
	decide({"request": {"cohort": "interns"}, "able": {"tiers": ["standard"]}}).tiers == ["standard"]
}

# The gate refuses such a call itself.
test_no_tier_can_serve_the_call if {
	decide({"request": {"cohort": "interns"}, "able": {"tiers": []}}).effect == "allow"
}
