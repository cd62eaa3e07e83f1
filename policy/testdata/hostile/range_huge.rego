# expect: too costly: numbers.range: its result would take more than 4194304 bytes
package chartergate.routing

decision := {"effect": "deny"} if count(numbers.range(1, 1000000000000)) > 0

default decision := {"effect": "deny"}
