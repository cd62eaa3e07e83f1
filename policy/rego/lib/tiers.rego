# Tiers are lists of ids from the cheapest to the dearest, as `input.catalog.tiers`.
package chartergate.lib.tiers

# rank(tiers, tier) is the place of a tier, 0 for the cheapest. Undefined for a tier that is not in the list.
rank(tiers, tier) := i if {
	some i, t in tiers
	t == tier
}

# at_least(tiers, tier, low) holds if the tier is as dear as low, or dearer.
at_least(tiers, tier, low) if rank(tiers, tier) >= rank(tiers, low)

# at_most(tiers, tier, high) holds if the tier is as cheap as high, or cheaper.
at_most(tiers, tier, high) if rank(tiers, tier) <= rank(tiers, high)

# cheaper(tiers, tier) lists the cheaper tiers, the dearest of them first. Undefined for a tier that is not in the list.
cheaper(tiers, tier) := array.reverse(array.slice(tiers, 0, rank(tiers, tier)))

# minimum(tiers, able, need) is the cheapest tier of able that is as dear as need or dearer, or else the dearest of able.
# Undefined where nothing is able, and for a need that is not in the list.
minimum(tiers, able, need) := able[minimum_rung(tiers, able, need)]

# minimum_rung(tiers, able, need) is the place of that tier in able, which is in the order of tiers.
minimum_rung(tiers, able, need) := min(enough) if {
	wanted := rank(tiers, need)
	enough := [rung | some rung, tier in able; rank(tiers, tier) >= wanted]
	count(enough) > 0
} else := count(able) - 1 if {
	rank(tiers, need)
	count(able) > 0
}
