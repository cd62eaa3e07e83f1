# The routing policy that ships with Chartergate: the cheapest tier that is good enough for the task, one tier cheaper
# while a budget is over its alert threshold, and no further than the budgets go.
#
# Copy it to start a policy of your own; docs/policies.md is the reference of `input` and `decision`. The gate enforces
# ceilings, permitted models and required capabilities whatever a policy says: a policy only chooses among what is
# permitted, and in which order.
package chartergate.routing

import data.chartergate.routing.tasks

decision := object.union_n([{"effect": effect, "reasons": reasons}, choice, advice])

# --- What the call may do ---------------------------------------------------------------------------------------------

# The first that applies.
effect := "deny" if {
	input.charter.stage == "retired"
} else := "deny" if {
	count(input.charter.permitted_tiers) == 0
} else := "throttle" if {
	used_up
	input.charter.exhausted.mode in {"downgrade", "trickle"} # the charter pays some calls from its overflow allowance
} else := "deny" if {
	used_up
} else := "downgrade" if {
	eased < start
} else := "downgrade" if {
	rank[tiers[0]] < rank[asked_tier]
} else := "allow"

default choice := {}

choice := {"models": models} if {
	effect in {"allow", "downgrade"}
	asked_model_fits
} else := {"tiers": tiers} if {
	effect in {"allow", "downgrade"}
} else := {"tiers": [ladder[0]]} if {
	effect == "throttle"
}

# A prompt that was cached before, or is long enough to be cached by every large provider, is worth caching.
default advice := {}

advice := {"prompt_cache": "5m"} if input.request.cached_input_tokens > 0

advice := {"prompt_cache": "5m"} if input.request.input_tokens >= 1024

# --- What the task needs ----------------------------------------------------------------------------------------------

complexity_known if input.request.complexity > 0

class_known if tasks.base > 0

# Where the complexity stands among the cut-offs 25, 30, 50, 70 and 75: of the call itself, which says more than the class
# of its task, or else of the class and the length. Comparing it with literals lets the gate remember decisions by bands.
band := known_band if {
	complexity_known
} else := band_of(tasks.complexity)

known_band := 0 if {
	input.request.complexity <= 25
} else := 1 if {
	input.request.complexity <= 30
} else := 2 if {
	input.request.complexity <= 50
} else := 3 if {
	input.request.complexity <= 70
} else := 4 if {
	input.request.complexity <= 75
} else := 5

band_of(complexity) := count([cut | some cut in [25, 30, 50, 70, 75]; complexity > cut])

# The place of a tier in the catalog, 0 for the cheapest.
rank[tier] := i if some i, tier in input.catalog.tiers

# The rank that each band needs. Of two tiers the cheaper one serves up to 50, of three up to 30 and the middle one up to
# 70; of more the cheapest up to 25, the dearest above 75, and two at thirds in between.
ranks := [0, 0, 0, 0, 0, 0] if {
	tier_count <= 1
} else := [0, 0, 0, 1, 1, 1] if {
	tier_count == 2
} else := [0, 0, 1, 1, 2, 2] if {
	tier_count == 3
} else := [0, third, third, two_thirds, two_thirds, tier_count - 1]

tier_count := count(input.catalog.tiers)

third := floor(tier_count / 3)

two_thirds := floor((2 * tier_count) / 3)

# Where neither complexity nor class is known, the caller's wish is taken for the need, and the middle tier where there is
# no wish.
need := ranks[band] if {
	band >= 0
} else := rank[asked_tier] if {
	asked_tier
} else := ranks[3]

# The tier that the caller wishes: that of the model asked for, if it can serve the call, or else the tier asked for.
asked_tier := tier if {
	some tier, models in input.able.models
	input.request.model in models
} else := input.request.tier if {
	input.request.tier in input.catalog.tiers
}

# A wish can be cheaper than the need, but not dearer.
wanted := min([need, rank[asked_tier]]) if {
	asked_tier
} else := need

# --- Which tiers can serve it -----------------------------------------------------------------------------------------

# Cheapest first. Where nothing is able the gate refuses the call, with a reason of its own.
ladder := input.able.tiers if {
	count(input.able.tiers) > 0
} else := input.charter.permitted_tiers

# The lowest rung that is high enough, or else the highest.
start := min(high_enough) if {
	count(high_enough) > 0
} else := count(ladder) - 1

high_enough := [rung | some rung, tier in ladder; rank[tier] >= wanted]

# One rung lower while a budget is over its alert threshold.
eased := max([start - 1, 0]) if {
	alerted
} else := start

# The rung to start at, then cheaper ones in case the money left does not pay for it.
tiers := array.reverse(array.slice(ladder, 0, eased + 1))

# A model that was asked for goes first, if it is on these rungs.
asked_model_fits if {
	some tier in tiers
	input.request.model in input.able.models[tier]
}

asked_model_able if input.request.model in input.able.models[_]

models := array.slice(array.concat([input.request.model], other_models), 0, 64)

other_models := [id |
	some tier in tiers
	some id in input.able.models[tier]
	id != input.request.model
]

# --- How the budgets stand --------------------------------------------------------------------------------------------

# Reading only these fields, not `utilization`, lets the gate remember decisions for longer.
used_up if input.budgets[_].exhausted

alerted if input.budgets[_].over_alert

used_up_budget := [input.budgets[i].id | some i; input.budgets[i].exhausted][0]

alerted_budget := [input.budgets[i].id | some i; input.budgets[i].over_alert][0]

# --- Why --------------------------------------------------------------------------------------------------------------

may_run if effect in {"allow", "downgrade"}

reasons contains "The feature is retired." if input.charter.stage == "retired"

reasons contains "The charter permits no tier of the catalog." if count(input.charter.permitted_tiers) == 0

reasons contains sprintf("Budget %s is used up.", [used_up_budget]) if not may_run

reasons contains sprintf("%s starts at the %s tier.", [task, ladder[start]]) if may_run

reasons contains sprintf("Budget %s is over its alert threshold: the %s tier serves instead.", [alerted_budget, tiers[0]]) if {
	may_run
	eased < start
}

reasons contains sprintf("Budget %s is over its alert threshold, but no cheaper tier can serve the call.", [alerted_budget]) if {
	may_run
	eased == start
}

reasons contains sprintf("The %s tier was asked for, which is more than the task needs.", [asked_tier]) if {
	may_run
	rank[asked_tier] > need
}

reasons contains sprintf("The %s tier was asked for, but has no model that is permitted and able.", [asked_tier]) if {
	may_run
	not asked_tier in ladder
}

reasons contains "The model that was asked for is not permitted, or not able to serve the call." if {
	may_run
	input.request.model != ""
	not asked_model_able
}

reasons contains sprintf("%s was asked for.", [input.request.model]) if {
	may_run
	asked_model_fits
}

task := "A call for a cheaper tier than the task needs" if {
	rank[asked_tier] < need
} else := sprintf("A task of %s complexity", [["low", "low", "medium", "medium", "high", "high"][known_band]]) if {
	complexity_known
} else := sprintf("A task of class %s", [input.request.task_class]) if {
	class_known
} else := "A call that says nothing of its task but the tier" if {
	asked_tier
} else := "A call that says nothing of its task"
