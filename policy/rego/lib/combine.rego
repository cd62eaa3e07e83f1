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
	{
		"effect": effect(said, missing),
		"reasons": array.slice(array.concat([reason | some level in levels; some reason in level.decision.reasons], missing), 0, 16),
	},
	caps(levels),
	{field: left | some field, left in chosen; left != []},
	{"prompt_cache": cache | some cache in prompt_cache([level.decision.prompt_cache | some level in levels])},
]) if {
	said := max([strictness[level.decision.effect] | some level in levels])
	choosers := [level | some level in levels; names_any(level.decision)]
	chosen := choice(choosers, catalog)
	missing := lacking(said, choosers, chosen)
}

strictness := {"allow": 0, "downgrade": 1, "throttle": 2, "deny": 3}

effect(said, missing) := "deny" if {
	missing != []
} else := ["allow", "downgrade", "throttle", "deny"][said]

# The reason why a call that would run, or be paid from an overflow allowance, has nothing to run on; none if it has.
lacking(said, [], _) := ["No policy names a tier or a model."] if {
	said < 2
} else := []

lacking(said, choosers, chosen) := [sprintf("No tier or model is left that these policies all permit: %s.", [concat(", ", names)])] if {
	choosers != []
	said < 3
	every left in chosen { left == [] }
	names := [level.name | some level in choosers]
} else := [] if {
	choosers != []
}

caps(levels) := {field: least |
	some field in ["max_input_tokens", "max_output_tokens", "trim_context_to_tokens"]
	least := min([cap | some level in levels; cap := level.decision[field]; cap > 0])
}

names_any(d) if d.tiers

names_any(d) if d.models

choice([], _) := {}

choice([level], _) := object.filter(level.decision, ["tiers", "models"])

choice(choosers, catalog) := narrowed(choosers[count(choosers) - 1].decision, array.slice(choosers, 0, count(choosers) - 1), catalog) if {
	count(choosers) > 1
}

narrowed(lowest, above, catalog) := {"tiers": [tier |
	some tier in lowest.tiers
	every level in above { tier in level.decision.tiers }
]} if {
	not in_part(lowest, above, catalog)
} else := {"models": [model |
	some i, model in spelled_out(lowest, catalog)
	not model in array.slice(spelled_out(lowest, catalog), 0, i)
	every level in above { permits(level.decision, model, catalog) }
]}

in_part(lowest, _, _) if lowest.models

in_part(lowest, above, catalog) if {
	some tier in lowest.tiers
	some level in above
	not tier in object.get(level.decision, "tiers", [])
	some model in catalog.models
	model.tier == tier
	every other in above { permits(other.decision, model.id, catalog) }
}

# The models that a decision names, and those of its tiers.
spelled_out(d, catalog) := array.concat([model | some model in d.models], [model.id |
	some tier in d.tiers
	some model in catalog.models
	model.tier == tier
])

permits(d, model, _) if model in d.models

permits(d, model, catalog) if {
	some m in catalog.models
	m.id == model
	m.tier in d.tiers
}

# At most one element.
prompt_cache(advice) := ["off"] if {
	"off" in advice
} else := array.slice(array.reverse(advice), 0, 1)
