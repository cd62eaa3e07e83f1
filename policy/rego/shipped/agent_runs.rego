# Limits of agents: calls that name an agent, or are paid by a budget per run or agent. Of `config.agent_runs`, where `enabled`, 0 for none:
# `max_tool_calls` and `max_retrieval_hops` of one call, `max_output_tokens` of one call, and `wind_down_at`, the
# utilization of the run's or agent's own budget, such as 0.9, from which on only the cheapest tier serves, so that the agent
# can still write down what it has found.
package chartergate.shipped.agent_runs

decision := {"effect": "deny", "reasons": too_many} if {
	count(too_many) > 0
} else := object.union_n([
	{"effect": "downgrade", "tiers": [ladder[0]], "reasons": [winding_down]},
	cap,
]) if {
	winding_down
	count(ladder) > 1
} else := object.union({"effect": "allow"}, cap)

# Reading `per` costs nothing, it is the same for all calls of a charter.
own_budgets contains i if {
	data.config.agent_runs.enabled
	some i
	input.budgets[i].per in {"run", "agent"}
}

is_agent if count(own_budgets) > 0

is_agent if {
	data.config.agent_runs.enabled
	input.request.agent != ""
}

too_many contains sprintf("The call plans %d tool calls, an agent's call may have %d.", [n, data.config.agent_runs.max_tool_calls]) if {
	data.config.agent_runs.max_tool_calls > 0
	data.config.agent_runs.enabled
	is_agent
	n := sum([calls | some calls in input.request.tool_calls])
	n > data.config.agent_runs.max_tool_calls
}

too_many contains sprintf("The call plans %d retrieval hops, an agent's call may have %d.", [input.request.retrieval_hops, data.config.agent_runs.max_retrieval_hops]) if {
	data.config.agent_runs.max_retrieval_hops > 0
	data.config.agent_runs.enabled
	is_agent
	input.request.retrieval_hops > data.config.agent_runs.max_retrieval_hops
}

winding_down := sprintf("Budget %s of the agent is nearly used up: the cheapest tier serves it to its end.", [nearly[0]]) if {
	data.config.agent_runs.enabled
	data.config.agent_runs.wind_down_at > 0
	count(nearly) > 0
}

nearly := [input.budgets[i].id |
	some i in own_budgets
	input.budgets[i].utilization >= data.config.agent_runs.wind_down_at
] if {
	data.config.agent_runs.enabled
	data.config.agent_runs.wind_down_at > 0
}

ladder := input.able.tiers if {
	count(input.able.tiers) > 0
} else := input.charter.permitted_tiers

default cap := {}

cap := {"max_output_tokens": data.config.agent_runs.max_output_tokens} if {
	data.config.agent_runs.max_output_tokens > 0
	is_agent
}
