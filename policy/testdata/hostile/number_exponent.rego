# expect: too costly: to_number: a number has at most 1024 digits
package chartergate.routing

decision := {"effect": "deny"} if round(to_number("1e1000000000")) > 1

default decision := {"effect": "deny"}
