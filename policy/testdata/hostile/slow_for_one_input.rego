# expect: cut off: it took longer than 10ms
package chartergate.routing

ns := numbers.range(1, 20000)

decision := {"effect": "deny"} if {
	input.request.user == "trigger"
	some a in ns
	some b in ns
	a * b < 0
} else := {"effect": "allow", "tiers": ["economy"]}
