# expect: cut off: decision.reasons has 1000 entries, at most 16 are allowed
package chartergate.routing

decision := {"effect": "deny", "reasons": [sprintf("reason %d", [i]) | some i in numbers.range(1, 1000)]}
