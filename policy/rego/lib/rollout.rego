# Rollouts to a share of users, runs or whatever else has an id: always the same ones, and more of them as the share grows.
package chartergate.lib.rollout

# place(name, key) is where a key stands in the rollout of that name: 0 to 999,999, each as likely.
place(name, key) := number % 1000000 if {
	digits := crypto.sha256(concat("/", [name, key]))
	number := sum([part | some i, weight in weights; part := indexof("0123456789abcdef", substring(digits, i, 1)) * weight])
}

# includes(name, key, percent) holds for that share of the keys, 0 to 100, to a ten-thousandth of a percent.
includes(name, key, percent) if place(name, key) < percent * 10000

weights := [268435456, 16777216, 1048576, 65536, 4096, 256, 16, 1]
