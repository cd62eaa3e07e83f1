# Windows of time in a time zone. Times are Unix seconds, as `input.time.unix`; hours are "HH:MM", from "00:00" to "24:00";
# zones are IANA names such as "Europe/Zurich".
package chartergate.lib.windows

# minute(unix, zone) is the minute of the day there, 0 to 1439.
minute(unix, zone) := (60 * clock[0]) + clock[1] if clock := time.clock([unix * 1000000000, zone])

# weekday(unix, zone) is the day there, such as "Monday".
weekday(unix, zone) := time.weekday([unix * 1000000000, zone])

# within(unix, zone, days, from, to) holds from `from` until before `to` of one of the days, as the clocks there show it.
# Where `to` is not after `from` the window ends on the next day.
within(unix, zone, days, from, to) if {
	at(from) < at(to)
	weekday(unix, zone) in days
	at(from) <= minute(unix, zone)
	minute(unix, zone) < at(to)
}

within(unix, zone, days, from, to) if {
	at(from) >= at(to)
	weekday(unix, zone) in days
	at(from) <= minute(unix, zone)
}

within(unix, zone, days, from, to) if {
	at(from) >= at(to)
	day_before[weekday(unix, zone)] in days
	minute(unix, zone) < at(to)
}

# at(hours) is the minute of the day of "HH:MM". Undefined for anything else.
at(hours) := (60 * to_number(substring(hours, 0, 2))) + to_number(substring(hours, 3, 2)) if {
	regex.match(`^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$`, hours)
}

day_before := {
	"Monday": "Sunday",
	"Tuesday": "Monday",
	"Wednesday": "Tuesday",
	"Thursday": "Wednesday",
	"Friday": "Thursday",
	"Saturday": "Friday",
	"Sunday": "Saturday",
}
