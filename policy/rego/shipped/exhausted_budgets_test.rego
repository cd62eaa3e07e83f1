package chartergate.shipped.exhausted_budgets_test

import data.chartergate.shipped.exhausted_budgets

call := {
	"charter": {
		"exhausted": {"mode": "downgrade"},
		"permitted_tiers": ["economy", "standard"],
		"escalation": [{"owner": "Lena Vogt"}, {"owner": "Priya Raman"}],
		"approved_escalations": [{"id": "launch", "budget": "support", "approver": "Priya Raman"}],
	},
	"budgets": [
		{"id": "support", "exhausted": true, "escalated": true},
		{"id": "acme", "exhausted": false, "escalated": false},
	],
	"able": {"tiers": ["standard"]},
}

escalated_not := [{"id": "support", "exhausted": true, "escalated": false}]

approval := {"approval": true}

decide(change) := decision if {
	decision := exhausted_budgets.decision with input as object.union(call, change)
}

decide_approval(change) := decision if {
	decision := exhausted_budgets.decision with input as object.union(call, change) with data.config.exhausted as approval
}

test_nothing_is_used_up if decide({"budgets": [{"id": "acme", "exhausted": false}]}) == {"effect": "allow"}

test_the_allowance_pays_for_the_cheapest_able_tier if {
	decide({"budgets": escalated_not}) == {"effect": "throttle", "tiers": ["standard"], "reasons": ["Budget support is used up."]}
}

test_without_an_allowance_the_reason_says_whom_to_ask if {
	decide({"charter": {"exhausted": {"mode": "deny"}}}) == {
		"effect": "deny",
		"reasons": ["Budget support is used up.", "To go on, ask Lena Vogt, then Priya Raman for an escalation."],
	}
}

test_nobody_to_ask if {
	decide({"charter": {"exhausted": {"mode": "deny"}, "escalation": []}}).reasons == ["Budget support is used up."]
}

test_an_approved_escalation_goes_on if {
	decide_approval({}) == {
		"effect": "throttle",
		"tiers": ["standard"],
		"reasons": ["Budget support is used up.", "Escalation launch for budget support is approved by Priya Raman."],
	}
}

test_without_approval_it_stops if {
	decision := decide_approval({"budgets": escalated_not})
	decision.effect == "deny"
	"To go on, ask Lena Vogt, then Priya Raman for an escalation." in decision.reasons
}

test_every_budget_that_is_used_up_needs_approval if {
	decide_approval({"budgets": array.concat(call.budgets, [{"id": "org", "exhausted": true, "escalated": false}])}).effect == "deny"
}

test_approval_does_not_make_an_allowance if decide_approval({"charter": {"exhausted": {"mode": "deny"}}}).effect == "deny"
