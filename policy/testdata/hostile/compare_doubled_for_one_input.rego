# expect: cut off: an evaluation of it that was cut off has not ended
package chartergate.routing

x0 := [1]

y0 := [1]

x1 := {v | some _ in [1, 2]; v := [x0, x0]}

y1 := {v | some _ in [1, 2]; v := [y0, y0]}

x2 := {v | some _ in [1, 2]; v := [x1, x1]}

y2 := {v | some _ in [1, 2]; v := [y1, y1]}

x3 := {v | some _ in [1, 2]; v := [x2, x2]}

y3 := {v | some _ in [1, 2]; v := [y2, y2]}

x4 := {v | some _ in [1, 2]; v := [x3, x3]}

y4 := {v | some _ in [1, 2]; v := [y3, y3]}

x5 := {v | some _ in [1, 2]; v := [x4, x4]}

y5 := {v | some _ in [1, 2]; v := [y4, y4]}

x6 := {v | some _ in [1, 2]; v := [x5, x5]}

y6 := {v | some _ in [1, 2]; v := [y5, y5]}

x7 := {v | some _ in [1, 2]; v := [x6, x6]}

y7 := {v | some _ in [1, 2]; v := [y6, y6]}

x8 := {v | some _ in [1, 2]; v := [x7, x7]}

y8 := {v | some _ in [1, 2]; v := [y7, y7]}

x9 := {v | some _ in [1, 2]; v := [x8, x8]}

y9 := {v | some _ in [1, 2]; v := [y8, y8]}

x10 := {v | some _ in [1, 2]; v := [x9, x9]}

y10 := {v | some _ in [1, 2]; v := [y9, y9]}

x11 := {v | some _ in [1, 2]; v := [x10, x10]}

y11 := {v | some _ in [1, 2]; v := [y10, y10]}

x12 := {v | some _ in [1, 2]; v := [x11, x11]}

y12 := {v | some _ in [1, 2]; v := [y11, y11]}

x13 := {v | some _ in [1, 2]; v := [x12, x12]}

y13 := {v | some _ in [1, 2]; v := [y12, y12]}

x14 := {v | some _ in [1, 2]; v := [x13, x13]}

y14 := {v | some _ in [1, 2]; v := [y13, y13]}

x15 := {v | some _ in [1, 2]; v := [x14, x14]}

y15 := {v | some _ in [1, 2]; v := [y14, y14]}

x16 := {v | some _ in [1, 2]; v := [x15, x15]}

y16 := {v | some _ in [1, 2]; v := [y15, y15]}

x17 := {v | some _ in [1, 2]; v := [x16, x16]}

y17 := {v | some _ in [1, 2]; v := [y16, y16]}

x18 := {v | some _ in [1, 2]; v := [x17, x17]}

y18 := {v | some _ in [1, 2]; v := [y17, y17]}

x19 := {v | some _ in [1, 2]; v := [x18, x18]}

y19 := {v | some _ in [1, 2]; v := [y18, y18]}

x20 := {v | some _ in [1, 2]; v := [x19, x19]}

y20 := {v | some _ in [1, 2]; v := [y19, y19]}

x21 := {v | some _ in [1, 2]; v := [x20, x20]}

y21 := {v | some _ in [1, 2]; v := [y20, y20]}

x22 := {v | some _ in [1, 2]; v := [x21, x21]}

y22 := {v | some _ in [1, 2]; v := [y21, y21]}

x23 := {v | some _ in [1, 2]; v := [x22, x22]}

y23 := {v | some _ in [1, 2]; v := [y22, y22]}

x24 := {v | some _ in [1, 2]; v := [x23, x23]}

y24 := {v | some _ in [1, 2]; v := [y23, y23]}

x25 := {v | some _ in [1, 2]; v := [x24, x24]}

y25 := {v | some _ in [1, 2]; v := [y24, y24]}

decision := {"effect": "deny"} if {
	input.request.user == "trigger"
	count({x25, y25}) > 0
} else := {"effect": "allow", "tiers": ["economy"]}
