# expect: too costly: regex.replace: it would make a text of more than 262144 bytes
package chartergate.routing

text := concat("", ["xxxxxxxxxx" | some _ in numbers.range(1, 200)])

decision := {"effect": "deny", "reasons": [regex.replace(text, "x", text)]}
