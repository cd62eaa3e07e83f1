package chartergate.lib.tiers_test

import data.chartergate.lib.tiers

all := ["economy", "standard", "premium"]

test_rank if {
	[tiers.rank(all, tier) | some tier in all] == [0, 1, 2]
	not tiers.rank(all, "platinum")
}

test_at_least if {
	tiers.at_least(all, "premium", "standard")
	tiers.at_least(all, "standard", "standard")
	not tiers.at_least(all, "economy", "standard")
	not tiers.at_least(all, "platinum", "economy")
}

test_at_most if {
	tiers.at_most(all, "economy", "standard")
	tiers.at_most(all, "standard", "standard")
	not tiers.at_most(all, "premium", "standard")
	not tiers.at_most(all, "economy", "platinum")
}

test_cheaper if {
	tiers.cheaper(all, "premium") == ["standard", "economy"]
	tiers.cheaper(all, "economy") == []
	not tiers.cheaper(all, "platinum")
}

test_minimum if {
	tiers.minimum(all, all, "standard") == "standard"
	tiers.minimum(all, ["economy", "premium"], "standard") == "premium"
	tiers.minimum(all, ["economy"], "premium") == "economy"
	tiers.minimum_rung(all, ["economy", "premium"], "standard") == 1
}

test_minimum_of_nothing if {
	not tiers.minimum(all, [], "standard")
	not tiers.minimum(all, all, "platinum")
}
