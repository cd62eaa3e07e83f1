# One decision of several: what the gate does with the policies of the organisation, the team and the feature. Each level
# can only narrow what those above it leave.
package chartergate.lib.combine

# decision(levels, catalog) combines decisions. Levels are objects with `name` and `decision`, from the one above all to
# the lowest; catalog is `input.catalog`.
#
# - The effect is the strictest: deny, throttle, downgrade, allow.
# - Tiers and models are those of the lowest level that names any, in its order, without those that a level above which
#   names any does not permit. A tier permits all models of it. Tiers are the result where that level names only tiers and
#   each is permitted whole or not at all, else models. Nothing left is denied, as is a call that was to run where nothing
#   is named.
# - A cap is the lowest that is set.
# - The prompt cache is the lowest level's that says one, but `off` stays off.
# - Reasons are joined, at most 16.
decision(levels, catalog) := object.union_n([
	{"effect": effect(levels, catalog), "reasons": array.slice(all_reasons(levels, catalog), 0, 16)},
	{field: least |
		some field in ["max_input_tokens", "max_output_tokens", "trim_context_to_tokens"]
		caps := [cap | some level in levels; cap := level.decision[field]; cap > 0]
		count(caps) > 0
		least := min(caps)
	},
	{field: left |
		some field, left in choice(levels, catalog)
		count(left) > 0
	},
	{"prompt_cache": cache | some cache in prompt_cache(levels)},
])

strictness := {"allow": 0, "downgrade": 1, "throttle": 2, "deny": 3}

said(levels) := ["allow", "downgrade", "throttle", "deny"][max([strictness[level.decision.effect] | some level in levels])]

effect(levels, catalog) := "deny" if {
	lacking(levels, catalog)
} else := said(levels)

# A call that would run, or be paid from an overflow allowance, has nothing to run on.
lacking(levels, catalog) if {
	said(levels) != "deny"
	nothing_left(levels, catalog)
}

nothing_left(levels, _) if {
	count(choosers(levels)) == 0
	said(levels) != "throttle"
}

nothing_left(levels, catalog) if {
	count(choosers(levels)) > 0
	every left in choice(levels, catalog) { left == [] }
}

all_reasons(levels, catalog) := array.concat(
	[reason | some level in levels; some reason in object.get(level.decision, "reasons", [])],
	[sentence(choosers(levels)) | lacking(levels, catalog)],
)

sentence(names) := "No policy names a tier or a model." if {
	count(names) == 0
} else := sprintf("No tier or model is left that these policies all permit: %s.", [concat(", ", [level.name | some level in names])])

choosers(levels) := [level | some level in levels; names_any(level.decision)]

names_any(d) if count(object.get(d, "tiers", [])) > 0

names_any(d) if count(object.get(d, "models", [])) > 0

names_models(d) if count(object.get(d, "models", [])) > 0

choice(levels, catalog) := {} if {
	count(choosers(levels)) == 0
} else := object.filter(choosers(levels)[0].decision, ["tiers", "models"]) if {
	count(choosers(levels)) == 1
} else := {"tiers": [tier |
	some tier in lowest(levels).tiers
	every level in above(levels) { tier in object.get(level.decision, "tiers", []) }
]} if {
	not in_part(levels, catalog)
} else := {"models": unique([model |
	some model in spelled_out(lowest(levels), catalog)
	every level in above(levels) { permits(level.decision, model, catalog) }
])}

in_part(levels, _) if names_models(lowest(levels))

in_part(levels, catalog) if {
	some tier in lowest(levels).tiers
	some level in above(levels)
	not tier in object.get(level.decision, "tiers", [])
	some model in catalog.models
	model.tier == tier
	every other in above(levels) { permits(other.decision, model.id, catalog) }
}

lowest(levels) := choosers(levels)[count(choosers(levels)) - 1].decision

above(levels) := array.slice(choosers(levels), 0, count(choosers(levels)) - 1)

# The models that a decision names, and those of its tiers.
spelled_out(d, catalog) := array.concat(object.get(d, "models", []), [model.id |
	some tier in object.get(d, "tiers", [])
	some model in catalog.models
	model.tier == tier
])

permits(d, model, _) if model in object.get(d, "models", [])

permits(d, model, catalog) if {
	some m in catalog.models
	m.id == model
	m.tier in object.get(d, "tiers", [])
}

unique(list) := [x | some i, x in list; not x in array.slice(list, 0, i)]

# At most one element.
prompt_cache(levels) := ["off"] if {
	"off" in advice(levels)
} else := array.slice(array.reverse(advice(levels)), 0, 1)

advice(levels) := [level.decision.prompt_cache | some level in levels]
