# The routing policy that ships with Chartergate: the cheapest tier that is good enough for the task, one tier cheaper
# while a budget is over its alert threshold, and no further than the budgets go.
#
# Copy it to start a policy of your own; docs/policies.md is the reference of `input` and `decision`. The gate enforces
# ceilings, permitted models and required capabilities whatever a policy says: a policy only chooses among what is
# permitted, and in which order.
package chartergate.routing

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

# 0: the cheapest tier will do; 1: the middle one; 2: the dearest.
task_levels := {
	"classify": 0,
	"extract": 0,
	"moderate": 0,
	"route": 0,
	"summarize": 0,
	"translate": 0,
	"chat": 1,
	"rag": 1,
	"rewrite": 1,
	"search": 1,
	"agent": 2,
	"code": 2,
	"plan": 2,
	"reason": 2,
	"research": 2,
}

complexity_level := 0 if {
	input.request.complexity <= 30
} else := 1 if {
	input.request.complexity <= 70
} else := 2

complexity_known if input.request.complexity > 0

class_known if task_levels[input.request.task_class] >= 0

# The place of a tier in the catalog, 0 for the cheapest.
rank[tier] := i if some i, tier in input.catalog.tiers

middle := floor(count(input.catalog.tiers) / 2)

level_ranks := [0, middle, count(input.catalog.tiers) - 1]

# The complexity of this very call says more than the class of its task. Where neither is known, the caller's wish is
# taken for the need, and the middle tier where there is no wish.
need := level_ranks[complexity_level] if {
	complexity_known
} else := level_ranks[task_levels[input.request.task_class]] if {
	class_known
} else := rank[asked_tier] if {
	asked_tier
} else := middle

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
} else := sprintf("A task of %s complexity", [["low", "medium", "high"][complexity_level]]) if {
	complexity_known
} else := sprintf("A task of class %s", [input.request.task_class]) if {
	class_known
} else := "A call that says nothing of its task but the tier" if {
	asked_tier
} else := "A call that says nothing of its task"
