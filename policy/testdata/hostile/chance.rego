# expect: refused: undefined function rand.intn
package chartergate.routing

decision := {"effect": "deny"} if rand.intn("x", 2) == 0
