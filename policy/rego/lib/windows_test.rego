package chartergate.lib.windows_test

import data.chartergate.lib.windows

zurich := "Europe/Zurich"

workdays := ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"]

unix(text) := time.parse_rfc3339_ns(text) / 1000000000

office(text) if windows.within(unix(text), zurich, workdays, "08:00", "18:00")

night(text) if windows.within(unix(text), zurich, ["Friday"], "22:00", "06:00")

test_from_counts_and_to_does_not if {
	not office("2026-11-23T07:59:59+01:00")
	office("2026-11-23T08:00:00+01:00")
	office("2026-11-23T17:59:59+01:00")
	not office("2026-11-23T18:00:00+01:00")
}

test_days_are_those_of_the_zone if {
	not office("2026-11-22T12:00:00+01:00")
	windows.weekday(unix("2026-11-22T23:30:00Z"), zurich) == "Monday"
	windows.weekday(unix("2026-11-22T23:30:00Z"), "UTC") == "Sunday"
}

test_over_midnight if {
	not night("2026-11-27T21:59:00+01:00")
	night("2026-11-27T22:00:00+01:00")
	night("2026-11-28T05:59:00+01:00")
	not night("2026-11-28T06:00:00+01:00")
	not night("2026-11-28T22:30:00+01:00")
	not night("2026-11-27T03:00:00+01:00")
}

test_a_whole_day if {
	windows.within(unix("2026-11-23T23:59:00+01:00"), zurich, ["Monday"], "00:00", "24:00")
	not windows.within(unix("2026-11-24T00:00:00+01:00"), zurich, ["Monday"], "00:00", "24:00")
}

test_summer_time if {
	# 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
	windows.minute(unix("2026-03-29T00:59:00Z"), zurich) == (60 * 1) + 59
	windows.minute(unix("2026-03-29T01:00:00Z"), zurich) == 60 * 3
	windows.minute(unix("2026-10-25T00:30:00Z"), zurich) == (60 * 2) + 30
	windows.minute(unix("2026-10-25T01:30:00Z"), zurich) == (60 * 2) + 30
	office("2026-03-30T06:00:00Z")
	not office("2026-03-27T06:59:00Z")
}

test_hours_are_two_digits_each if {
	windows.at("24:00") == 1440
	every text in ["8:00", "08.00", "24:01", "25:00", "08:60", ""] { not windows.at(text) }
}
