# expect: too costly: mul: a number has at most 1024 digits
package chartergate.routing

x0 := 99999999999999999999999999999999

x1 := x0 * x0

x2 := x1 * x1

x3 := x2 * x2

x4 := x3 * x3

x5 := x4 * x4

x6 := x5 * x5

x7 := x6 * x6

x8 := x7 * x7

decision := {"effect": "deny"} if x8 > 1

default decision := {"effect": "deny"}
