package chartergate.lib.cohorts_test

import data.chartergate.lib.cohorts

lists := {"beta": ["u-1", "u-2"], "staff": ["u-2"]}

test_includes if {
	cohorts.includes(lists, "beta", "u-1")
	not cohorts.includes(lists, "staff", "u-1")
	not cohorts.includes(lists, "nobody", "u-1")
}

test_of if {
	cohorts.of(lists, "u-2") == {"beta", "staff"}
	cohorts.of(lists, "u-3") == set()
}
