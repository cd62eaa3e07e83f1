# expect: too costly: it took longer than 10ms
package chartergate.routing

ns := numbers.range(1, 20000)

decision := {"effect": "deny"} if count([x | some a in ns; x := {y: [z | some z in ns] | some y in ns}]) < 0

default decision := {"effect": "deny"}
