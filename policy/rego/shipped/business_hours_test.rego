package chartergate.shipped.business_hours_test

import data.chartergate.shipped.business_hours

# Monday, 23 November 2026, 07:59 in Zurich.
early := 1795417140

call := {
	"time": {"unix": early},
	"charter": {"stage": "pilot", "permitted_tiers": ["economy", "premium"]},
	"able": {"tiers": ["economy", "premium"]},
}

hours := {
	"zone": "Europe/Zurich",
	"days": ["Monday"],
	"from": "08:00",
	"to": "18:00",
	"outside": "downgrade",
	"stages": ["experiment", "pilot"],
}

decide(change, config) := decision if {
	decision := business_hours.decision with input as object.union(call, change)
		with data.config.business_hours as object.union(hours, config)
}

test_outside if {
	decide({}, {}) == {
		"effect": "downgrade",
		"tiers": ["economy"],
		"reasons": ["It is outside business hours (08:00 to 18:00, Europe/Zurich): the economy tier serves."],
	}
}

test_inside if decide({"time": {"unix": early + 60}}, {}) == {"effect": "allow"}

test_no_hours if decide({}, {"zone": ""}) == {"effect": "allow"}

test_stages if {
	decide({"charter": {"stage": "production"}}, {}) == {"effect": "allow"}
	decide({"charter": {"stage": "production"}}, {"stages": []}).effect == "downgrade"
}

test_not_at_all if {
	decide({}, {"outside": "throttle"}) == {
		"effect": "throttle",
		"reasons": ["It is outside business hours (08:00 to 18:00, Europe/Zurich)."],
	}
	decide({}, {"outside": "deny"}).effect == "deny"
}
