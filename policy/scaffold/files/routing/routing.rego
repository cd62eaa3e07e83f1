# The organisation's routing policy: rules of your own, and the set that ships with Chartergate. Each of the list can only
# narrow what those before it leave; the last one, the router, proposes. The gate enforces ceilings, permitted models and
# required capabilities whatever a policy says.
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
		{"name": "own rules", "decision": own},
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

# Rules of your own. It names no tiers, which leaves the choice to the others.
own := {"effect": "allow", "max_output_tokens": longest, "reasons": reasons}

# Answers of features that are still experiments are bounded; data.json says how. 0 is no limit.
default longest := 0

longest := data.config.own.experiment_output_tokens if input.charter.stage == "experiment"

reasons contains sprintf("Answers of an experiment have at most %d tokens.", [longest]) if longest > 0
