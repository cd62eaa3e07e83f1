# expect: refused: undefined function net.lookup_ip_addr
package chartergate.routing

decision := {"effect": "deny"} if count(net.lookup_ip_addr("localhost")) > 0
