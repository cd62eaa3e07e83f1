# The cases stand in policy/testdata/combine.json, which Go's combination is tested with too.
package chartergate.lib.combine_test

import data.chartergate.lib.combine

names := ["organisation", "team", "feature"]

levels(decisions) := [{"name": names[i], "decision": decision} | some i, decision in decisions]

test_reasons_end_at_16 if {
	many := {"effect": "deny", "reasons": [sprintf("r%d", [i]) | some i in numbers.range(1, 12)]}
	count(combine.decision(levels([many, many]), {"tiers": [], "models": []}).reasons) == 16
}

test_reasons_can_be_a_set if {
	combine.decision(levels([{"effect": "deny", "reasons": {"b", "a"}}]), {"tiers": [], "models": []}).reasons == ["a", "b"]
}
