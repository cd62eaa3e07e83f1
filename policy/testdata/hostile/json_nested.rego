# expect: too costly: json.unmarshal: the JSON is nested
package chartergate.routing

open := concat("", ["[" | some _ in numbers.range(1, 5000)])

decision := {"effect": "deny"} if json.unmarshal(open) != null

default decision := {"effect": "deny"}
