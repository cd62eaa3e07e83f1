# expect: too costly: array.slice: the evaluation makes more than 16777216 bytes of texts and collections
package chartergate.routing

ns := numbers.range(1, 20000)

decision := {"effect": "deny"} if count([array.slice(ns, i, 20000) | some i in numbers.range(1, 100)]) > 0

default decision := {"effect": "deny"}
