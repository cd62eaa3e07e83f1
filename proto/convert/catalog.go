package convert

import (
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// CatalogToProto converts the catalog with its meta.
func CatalogToProto(c *charter.Catalog) *chartergatev1.Catalog {
	p := &chartergatev1.Catalog{Name: c.Name(), Etag: etag(c.Meta), UpdateTime: TimeToProto(c.Updated)}
	for _, t := range c.Tiers {
		p.Tiers = append(p.Tiers, &chartergatev1.Tier{Id: t.ID, Description: t.Description})
	}
	for _, m := range c.Models {
		p.Models = append(p.Models, &chartergatev1.Model{
			Id: m.ID, Provider: m.Provider, Tier: m.Tier, Capabilities: slices.Clone(m.Capabilities),
			ContextTokens: m.ContextTokens, MaxOutputTokens: m.MaxOutputTokens, Regions: slices.Clone(m.Regions),
		})
	}
	return p
}

// CatalogFromProto converts the catalog, ready for look-ups.
func CatalogFromProto(p *chartergatev1.Catalog) (*charter.Catalog, error) {
	c := &charter.Catalog{}
	for _, t := range p.GetTiers() {
		c.Tiers = append(c.Tiers, charter.Tier{ID: t.Id, Description: t.Description})
	}
	for _, m := range p.GetModels() {
		c.Models = append(c.Models, charter.Model{
			ID: m.Id, Provider: m.Provider, Tier: m.Tier, Capabilities: m.Capabilities,
			ContextTokens: m.ContextTokens, MaxOutputTokens: m.MaxOutputTokens, Regions: m.Regions,
		})
	}
	return charter.WithMeta(c, charter.Meta{}).(*charter.Catalog), nil
}
