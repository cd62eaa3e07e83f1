# Which models may serve at all, and where data may go. Of `config.models`: `permitted`, if not empty, are the only models;
# `refused` are none; `residency` is where data of calls that say nothing must stay, empty for anywhere; `zones` says
# which regions of models a residency has: those that are named so, or begin with it and a hyphen.
package chartergate.shipped.permitted_models

default decision := {"effect": "allow"}

decision := {"effect": "allow", "models": left} if {
	limited
	count(left) > 0
} else := {"effect": "deny", "reasons": [sprintf("No model that is permitted and able may serve a call%s.", [where])]} if {
	limited
}

limited if data.config.models.permitted != []

limited if data.config.models.refused != []

limited if stay != ""

stay := input.request.residency if {
	input.request.residency != ""
} else := data.config.models.residency

default where := ""

where := sprintf(" whose data stays in %s", [stay]) if stay != ""

left := array.slice(
	[id |
		id := input.catalog.models[i].id
		id in input.able.models[input.catalog.models[i].tier]
		named(id)
		resident(input.catalog.models[i].regions)
	],
	0, 64,
)

named(id) if {
	listed(id)
	not id in data.config.models.refused
}

listed(_) if data.config.models.permitted == []

listed(id) if id in data.config.models.permitted

resident(_) if stay == ""

resident(regions) if {
	some region in regions
	within(region)
	called_within
}

# The region of the provider that the call will use, if it says one.
called_within if input.request.region == ""

called_within if within(input.request.region)

within(region) if {
	some start in object.get(data.config.models.zones, stay, [stay])
	startswith(sprintf("%s-", [region]), sprintf("%s-", [start]))
}
