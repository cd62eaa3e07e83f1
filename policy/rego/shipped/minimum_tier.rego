# The router: the cheapest tier that is good enough for the task, then cheaper ones in case the money left does not pay
# for it.
package chartergate.shipped.minimum_tier

import data.chartergate.lib.tasks
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
} else := sprintf("A task of %s complexity", [["low", "low", "medium", "medium", "high", "high"][known_band]]) if {
	complexity_known
} else := sprintf("A task of class %s", [input.request.task_class]) if {
	class_known
} else := "A call that says nothing of its task but the tier" if {
	asked_tier
} else := "A call that says nothing of its task"
