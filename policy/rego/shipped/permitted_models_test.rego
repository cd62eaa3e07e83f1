package chartergate.shipped.permitted_models_test

import data.chartergate.shipped.permitted_models

call := {
	"request": {"residency": "", "region": ""},
	"catalog": {"models": [
		{"id": "nano", "tier": "economy", "regions": ["us", "eu"]},
		{"id": "flash", "tier": "economy", "regions": ["europe-west4"]},
		{"id": "base", "tier": "standard", "regions": ["us-east-1"]},
		{"id": "own", "tier": "standard", "regions": []},
		{"id": "other", "tier": "standard", "regions": ["eu"]},
	]},
	"able": {"models": {"economy": ["nano", "flash"], "standard": ["base", "own"]}},
}

zones := {"eu": ["eu", "europe"]}

none := {"permitted": [], "refused": [], "residency": "", "zones": zones}

decide(request, config) := decision if {
	decision := permitted_models.decision with input as object.union(call, {"request": request})
		with data.config.models as object.union(none, config)
}

test_nothing_said_nothing_limited if decide({}, {}) == {"effect": "allow"}

test_residency_of_the_call if decide({"residency": "eu"}, {}) == {"effect": "allow", "models": ["nano", "flash"]}

test_residency_of_the_configuration if {
	decide({}, {"residency": "eu"}).models == ["nano", "flash"]
	decide({"residency": "us"}, {"residency": "eu"}).models == ["nano", "base"]
}

test_a_region_begins_with_the_zone_and_a_hyphen if {
	decide({"residency": "us-east"}, {}).models == ["base"]
	decide({"residency": "us-ea"}, {}).effect == "deny"
}

test_the_region_of_the_call_counts if {
	decide({"residency": "eu", "region": "eu-central-1"}, {}).models == ["nano", "flash"]
	decide({"residency": "eu", "region": "us-east-1"}, {}).effect == "deny"
}

test_nowhere if {
	decide({"residency": "ch"}, {}) == {
		"effect": "deny",
		"reasons": ["No model that is permitted and able may serve a call whose data stays in ch."],
	}
}

test_permitted if decide({}, {"permitted": ["own", "flash", "other"]}).models == ["flash", "own"]

test_refused if decide({}, {"refused": ["own", "nano"]}).models == ["flash", "base"]

test_none_left if {
	decide({}, {"permitted": ["other"]}) == {"effect": "deny", "reasons": ["No model that is permitted and able may serve a call."]}
}
