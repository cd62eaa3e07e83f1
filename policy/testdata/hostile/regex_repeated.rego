# expect: too costly: regex.match: an expression of
package chartergate.routing

text := concat("", ["xxxxxxxxxx" | some _ in numbers.range(1, 2000)])

decision := {"effect": "deny"} if regex.match("(x{1,50}){1,20}y", text)

default decision := {"effect": "deny"}
