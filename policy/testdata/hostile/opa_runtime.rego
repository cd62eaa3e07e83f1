# expect: refused: undefined function opa.runtime
package chartergate.routing

decision := {"effect": "deny", "reasons": [opa.runtime().env.CHARTERGATE_ETCD_PASSWORD]}
