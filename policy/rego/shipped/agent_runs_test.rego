package chartergate.shipped.agent_runs_test

import data.chartergate.shipped.agent_runs

call := {
	"request": {"agent": "researcher", "tool_calls": {"search": 3, "fetch": 2}, "retrieval_hops": 4},
	"charter": {"permitted_tiers": ["economy", "premium"]},
	"budgets": [
		{"id": "run", "per": "run", "utilization": 0.85},
		{"id": "acme", "per": "", "utilization": 0.99},
	],
	"able": {"tiers": ["economy", "premium"]},
}

none := {"enabled": true, "max_tool_calls": 0, "max_retrieval_hops": 0, "max_output_tokens": 0, "wind_down_at": 0}

decide(change, config) := decision if {
	decision := agent_runs.decision with input as object.union(call, change)
		with data.config.agent_runs as object.union(none, config)
}

test_no_limits if decide({}, {}) == {"effect": "allow"}

test_not_enabled if decide({}, {"enabled": false, "max_tool_calls": 1, "max_output_tokens": 5, "wind_down_at": 0.1}) == {"effect": "allow"}

test_tool_calls if {
	decide({}, {"max_tool_calls": 5}).effect == "allow"
	decide({}, {"max_tool_calls": 4}) == {"effect": "deny", "reasons": {"The call plans 5 tool calls, an agent's call may have 4."}}
}

test_retrieval_hops if {
	decide({}, {"max_retrieval_hops": 4}).effect == "allow"
	decide({}, {"max_retrieval_hops": 3}).reasons == {"The call plans 4 retrieval hops, an agent's call may have 3."}
}

test_output if decide({}, {"max_output_tokens": 500}) == {"effect": "allow", "max_output_tokens": 500}

test_the_end_of_a_run if {
	decide({}, {"wind_down_at": 0.86}).effect == "allow"
	decide({}, {"wind_down_at": 0.85, "max_output_tokens": 500}) == {
		"effect": "downgrade",
		"tiers": ["economy"],
		"max_output_tokens": 500,
		"reasons": ["Budget run of the agent is nearly used up: the cheapest tier serves it to its end."],
	}
}

test_a_run_without_an_agent_is_one if {
	decide({"request": {"agent": ""}}, {"max_tool_calls": 4}).effect == "deny"
}

test_others_are_not_limited if {
	decide({"request": {"agent": ""}, "budgets": [{"id": "acme", "per": "", "utilization": 0.99}]}, {"max_tool_calls": 4, "wind_down_at": 0.5}) == {"effect": "allow"}
}
