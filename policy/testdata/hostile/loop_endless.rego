# expect: too costly: it took longer than 10ms
package chartergate.routing

ns := numbers.range(1, 20000)

decision := {"effect": "deny"} if {
	some a in ns
	some b in ns
	a * b < 0
}

default decision := {"effect": "deny"}
