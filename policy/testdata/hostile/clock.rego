# expect: refused: undefined function time.now_ns
package chartergate.routing

decision := {"effect": "deny"} if time.now_ns() % 2 == 0
