# expect: refused: undefined function http.send
package chartergate.routing

decision := {"effect": "deny"} if http.send({"method": "get", "url": "http://169.254.169.254/"}).status_code == 200
