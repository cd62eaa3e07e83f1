# The routing policy that ships with Chartergate: the policies of the shipped set, combined. Each can only narrow what
# those before it leave; the last one, the router, proposes.
#
# Copy it to start a policy of your own; docs/policies.md is the reference of `input`, `decision`, the library and the
# set. The gate enforces ceilings, permitted models and required capabilities whatever a policy says: a policy only chooses
# among what is permitted, and in which order.
package chartergate.routing

import data.chartergate.lib.combine
import data.chartergate.shipped.agent_runs
import data.chartergate.shipped.budget_downgrade
import data.chartergate.shipped.business_hours
import data.chartergate.shipped.context_ceilings
import data.chartergate.shipped.exhausted_budgets
import data.chartergate.shipped.minimum_tier
import data.chartergate.shipped.permitted_models
import data.chartergate.shipped.prompt_cache

decision := combine.decision(
	[
		{"name": "permitted models", "decision": permitted_models.decision},
		{"name": "exhausted budgets", "decision": exhausted_budgets.decision},
		{"name": "business hours", "decision": business_hours.decision},
		{"name": "agent runs", "decision": agent_runs.decision},
		{"name": "context ceilings", "decision": context_ceilings.decision},
		{"name": "prompt cache", "decision": prompt_cache.decision},
		{"name": "budget downgrade", "decision": budget_downgrade.decision},
		{"name": "minimum tier", "decision": minimum_tier.decision},
	],
	catalog,
)

# Without the prices, which would have the decision remembered for a minute only.
catalog := {"models": [{"id": input.catalog.models[i].id, "tier": input.catalog.models[i].tier} | some i]}
