# What happens outside business hours, to charters of certain stages. Of `config.business_hours`: `zone` is the time zone,
# empty for no such hours; `days`, `from` and `to` are the hours; `outside` is `downgrade` (the cheapest tier serves),
# `throttle` or `deny`; `stages` are the stages that are concerned, none for all.
package chartergate.shipped.business_hours

import data.chartergate.lib.windows

default decision := {"effect": "allow"}

decision := {"effect": "downgrade", "tiers": [ladder[0]], "reasons": [sprintf("%s: the %s tier serves.", [closed, ladder[0]])]} if {
	data.config.business_hours.zone != ""
	data.config.business_hours.outside == "downgrade"
	outside
} else := {"effect": data.config.business_hours.outside, "reasons": [sprintf("%s.", [closed])]} if {
	data.config.business_hours.zone != ""
	data.config.business_hours.outside in ["throttle", "deny"]
	outside
}

outside if {
	data.config.business_hours.zone != ""
	concerned
	not inside
}

concerned if data.config.business_hours.stages == []

concerned if input.charter.stage in data.config.business_hours.stages

inside if {
	data.config.business_hours.zone != ""
	windows.within(
		input.time.unix,
		data.config.business_hours.zone,
		data.config.business_hours.days,
		data.config.business_hours.from,
		data.config.business_hours.to,
	)
}

closed := sprintf("It is outside business hours (%s to %s, %s)", [
	data.config.business_hours.from,
	data.config.business_hours.to,
	data.config.business_hours.zone,
])

ladder := input.able.tiers if {
	count(input.able.tiers) > 0
} else := input.charter.permitted_tiers
