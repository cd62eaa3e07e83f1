package chartergate.lib.budgets_test

import data.chartergate.lib.budgets

path := [
	{"id": "run", "per": "run", "utilization": 0.2, "forecast": 0.2},
	{"id": "agents", "per": "", "utilization": 0.81, "forecast": 1.3},
	{"id": "acme", "per": "", "utilization": 0.81, "forecast": 0.9},
]

test_over if {
	budgets.over(path, 0.81)
	not budgets.over(path, 0.82)
	not budgets.over([], 0)
}

test_heading_over if {
	budgets.heading_over(path, 1.3)
	not budgets.heading_over(path, 1.301)
}

test_most_utilized_is_the_one_nearest_to_the_leaf if {
	budgets.most_utilized(path).id == "agents"
	not budgets.most_utilized([])
}

test_of_kind if {
	[b.id | some b in budgets.of_kind(path, "run")] == ["run"]
	[b.id | some b in budgets.of_kind(path, "")] == ["agents", "acme"]
	budgets.of_kind(path, "user") == []
}
