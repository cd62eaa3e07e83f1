# expect: cut off: eval_conflict_error
package chartergate.routing

decision := {"effect": "deny"}

decision := {"effect": "allow", "tiers": ["economy"]}
