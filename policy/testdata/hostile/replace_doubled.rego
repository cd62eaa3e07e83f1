# expect: too costly: replace: it would make a text of more than 262144 bytes
package chartergate.routing

x0 := "xxxxxxxxxx"

x1 := replace(x0, "x", x0)

x2 := replace(x1, "x", x1)

x3 := replace(x2, "x", x2)

decision := {"effect": "deny", "reasons": [x3]}
