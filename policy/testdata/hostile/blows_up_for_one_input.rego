# expect: cut off: sprintf: it would make a text of more than 262144 bytes
package chartergate.routing

decision := {"effect": "deny", "reasons": [sprintf("%0900000d", [1])]} if {
	input.request.user == "trigger"
} else := {"effect": "allow", "tiers": ["economy"]}
