# expect: refused: recursive
package chartergate.routing

decision := x

x := y

y := x
