# The router: the cheapest tier that is good enough for the task, then cheaper ones in case the money left does not pay
# for it.
package chartergate.shipped.minimum_tier

import data.chartergate.lib.tiers

decision := object.union({"effect": effect, "reasons": reasons}, choice)

# The first that applies.
effect := "deny" if {
	input.charter.stage == "retired"
} else := "deny" if {
	count(input.charter.permitted_tiers) == 0
} else := "downgrade" if {
	rank[ladder[start]] < rank[asked_tier]
} else := "allow"

default choice := {}

choice := choice_from(start) if effect != "deny"

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

start := tiers.minimum_rung(input.catalog.tiers, ladder, input.catalog.tiers[wanted])

# The tiers from a rung of the ladder down or, if a model that was asked for is on one of these rungs, it and the others.
choice_from(rung) := {"models": array.slice(array.concat([input.request.model], others), 0, 64)} if {
	some tier in down_from(rung)
	input.request.model in input.able.models[tier]
	others := [id |
		some other in down_from(rung)
		some id in input.able.models[other]
		id != input.request.model
	]
} else := {"tiers": down_from(rung)}

down_from(rung) := array.reverse(array.slice(ladder, 0, rung + 1))

# --- Why --------------------------------------------------------------------------------------------------------------

may_run if {
	effect != "deny"
	not used_up
}

# What happens then is the business of exhausted_budgets.
used_up if input.budgets[_].exhausted

reasons contains "The feature is retired." if input.charter.stage == "retired"

reasons contains "The charter permits no tier of the catalog." if count(input.charter.permitted_tiers) == 0

reasons contains sprintf("%s starts at the %s tier.", [task, ladder[start]]) if may_run

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
	choice.models[0] == input.request.model
}

asked_model_able if input.request.model in input.able.models[_]

task := "A call for a cheaper tier than the task needs" if {
	rank[asked_tier] < need
} else := sprintf("A task of %s complexity", [["low", "medium", "high"][complexity_level]]) if {
	complexity_known
} else := sprintf("A task of class %s", [input.request.task_class]) if {
	class_known
} else := "A call that says nothing of its task but the tier" if {
	asked_tier
} else := "A call that says nothing of its task"
