package evaluate

import (
	"strings"

	"github.com/chartergate/chartergate/core/charter"
)

// otherNames are what others call the tiers of the example company.
var otherNames = map[string][]string{
	"economy":  {"small", "cheap", "cheapest", "mini", "nano", "lite", "fast", "weak", "basic", "low", "tier1", "tier-1"},
	"standard": {"medium", "middle", "mid", "balanced", "base", "tier2", "tier-2"},
	"premium":  {"large", "big", "strong", "expensive", "frontier", "flagship", "pro", "high", "max", "tier3", "tier-3"},
}

// RenameTiers lets the first case name tiers of the catalog as others do, such as small and large for economy and premium.
func (e *Evaluator) RenameTiers() { e.rename = true }

// renamed gives the catalog with the tiers as a case names them; as it is where the case's names are not known.
func renamed(all *charter.Catalog, c *Case) *charter.Catalog {
	names := map[string]string{} // the catalog's to the case's
	for _, given := range []map[string]bool{c.Sufficient, keysOf(c.OutputTokens)} {
		for name := range given {
			tier := tierOf(name)
			if all.Rank(name) >= 0 {
				tier = name
			}
			if before, twice := names[tier]; all.Rank(tier) < 0 || twice && before != name {
				return all
			}
			names[tier] = name
		}
	}
	next := new(charter.Catalog)
	for _, t := range all.Tiers {
		if name, ok := names[t.ID]; ok {
			t.ID = name
		}
		next.Tiers = append(next.Tiers, t)
	}
	for _, m := range all.Models {
		if name, ok := names[m.Tier]; ok {
			m.Tier = name
		}
		next.Models = append(next.Models, m)
	}
	return charter.WithMeta(next, charter.Meta{}).(*charter.Catalog)
}

func tierOf(name string) string {
	for tier, others := range otherNames {
		for _, other := range others {
			if strings.EqualFold(name, other) {
				return tier
			}
		}
	}
	return ""
}

func keysOf[V any](m map[string]V) map[string]bool {
	keys := make(map[string]bool, len(m))
	for k := range m {
		keys[k] = true
	}
	return keys
}
