# expect: too costly: it took longer than 10ms
package chartergate.routing

x0 := [1]

y0 := [1]

x1 := [v | some _ in [1, 2]; v := x0]

y1 := [v | some _ in [1, 2]; v := y0]

x2 := [v | some _ in [1, 2]; v := x1]

y2 := [v | some _ in [1, 2]; v := y1]

x3 := [v | some _ in [1, 2]; v := x2]

y3 := [v | some _ in [1, 2]; v := y2]

x4 := [v | some _ in [1, 2]; v := x3]

y4 := [v | some _ in [1, 2]; v := y3]

x5 := [v | some _ in [1, 2]; v := x4]

y5 := [v | some _ in [1, 2]; v := y4]

x6 := [v | some _ in [1, 2]; v := x5]

y6 := [v | some _ in [1, 2]; v := y5]

x7 := [v | some _ in [1, 2]; v := x6]

y7 := [v | some _ in [1, 2]; v := y6]

x8 := [v | some _ in [1, 2]; v := x7]

y8 := [v | some _ in [1, 2]; v := y7]

x9 := [v | some _ in [1, 2]; v := x8]

y9 := [v | some _ in [1, 2]; v := y8]

x10 := [v | some _ in [1, 2]; v := x9]

y10 := [v | some _ in [1, 2]; v := y9]

x11 := [v | some _ in [1, 2]; v := x10]

y11 := [v | some _ in [1, 2]; v := y10]

x12 := [v | some _ in [1, 2]; v := x11]

y12 := [v | some _ in [1, 2]; v := y11]

x13 := [v | some _ in [1, 2]; v := x12]

y13 := [v | some _ in [1, 2]; v := y12]

x14 := [v | some _ in [1, 2]; v := x13]

y14 := [v | some _ in [1, 2]; v := y13]

x15 := [v | some _ in [1, 2]; v := x14]

y15 := [v | some _ in [1, 2]; v := y14]

x16 := [v | some _ in [1, 2]; v := x15]

y16 := [v | some _ in [1, 2]; v := y15]

x17 := [v | some _ in [1, 2]; v := x16]

y17 := [v | some _ in [1, 2]; v := y16]

x18 := [v | some _ in [1, 2]; v := x17]

y18 := [v | some _ in [1, 2]; v := y17]

x19 := [v | some _ in [1, 2]; v := x18]

y19 := [v | some _ in [1, 2]; v := y18]

x20 := [v | some _ in [1, 2]; v := x19]

y20 := [v | some _ in [1, 2]; v := y19]

x21 := [v | some _ in [1, 2]; v := x20]

y21 := [v | some _ in [1, 2]; v := y20]

x22 := [v | some _ in [1, 2]; v := x21]

y22 := [v | some _ in [1, 2]; v := y21]

x23 := [v | some _ in [1, 2]; v := x22]

y23 := [v | some _ in [1, 2]; v := y22]

x24 := [v | some _ in [1, 2]; v := x23]

y24 := [v | some _ in [1, 2]; v := y23]

x25 := [v | some _ in [1, 2]; v := x24]

y25 := [v | some _ in [1, 2]; v := y24]

x26 := [v | some _ in [1, 2]; v := x25]

y26 := [v | some _ in [1, 2]; v := y25]

x27 := [v | some _ in [1, 2]; v := x26]

y27 := [v | some _ in [1, 2]; v := y26]

x28 := [v | some _ in [1, 2]; v := x27]

y28 := [v | some _ in [1, 2]; v := y27]

x29 := [v | some _ in [1, 2]; v := x28]

y29 := [v | some _ in [1, 2]; v := y28]

x30 := [v | some _ in [1, 2]; v := x29]

y30 := [v | some _ in [1, 2]; v := y29]

x31 := [v | some _ in [1, 2]; v := x30]

y31 := [v | some _ in [1, 2]; v := y30]

x32 := [v | some _ in [1, 2]; v := x31]

y32 := [v | some _ in [1, 2]; v := y31]

x33 := [v | some _ in [1, 2]; v := x32]

y33 := [v | some _ in [1, 2]; v := y32]

x34 := [v | some _ in [1, 2]; v := x33]

y34 := [v | some _ in [1, 2]; v := y33]

x35 := [v | some _ in [1, 2]; v := x34]

y35 := [v | some _ in [1, 2]; v := y34]

x36 := [v | some _ in [1, 2]; v := x35]

y36 := [v | some _ in [1, 2]; v := y35]

x37 := [v | some _ in [1, 2]; v := x36]

y37 := [v | some _ in [1, 2]; v := y36]

x38 := [v | some _ in [1, 2]; v := x37]

y38 := [v | some _ in [1, 2]; v := y37]

x39 := [v | some _ in [1, 2]; v := x38]

y39 := [v | some _ in [1, 2]; v := y38]

decision := {"effect": "deny"} if x39 == y39

default decision := {"effect": "deny"}
