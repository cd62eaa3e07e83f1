package chartergate.lib.rollout_test

import data.chartergate.lib.rollout

keys := [sprintf("user-%d", [i]) | some i in numbers.range(1, 2000)]

included(name, percent) := {key | some key in keys; rollout.includes(name, key, percent)}

# sha256("beta/user-1") begins with 60d93d21.
test_a_place_is_stable if {
	rollout.place("beta", "user-1") == 1624849697 % 1000000
	rollout.place("beta", "user-1") != rollout.place("beta", "user-2")
}

test_all_and_none if {
	count(included("beta", 0)) == 0
	count(included("beta", 100)) == 2000
}

# Each of ten equal parts of 2,000 keys has 200, give or take four standard deviations of 13.4.
test_uniform if {
	every part in numbers.range(0, 9) {
		n := count([key | some key in keys; floor(rollout.place("beta", key) / 100000) == part])
		n > 146
		n < 254
	}
}

test_a_larger_share_has_all_of_a_smaller_one if {
	included("beta", 10) & included("beta", 25) == included("beta", 10)
}

test_rollouts_differ_by_name if {
	both := included("beta", 50) & included("gamma", 50)
	count(both) > 400
	count(both) < 600
}
