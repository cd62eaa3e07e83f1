package routing

import (
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
)

// RevisionSeparator stands between the revisions of a combined plan.
const RevisionSeparator = ", "

// Combine gives what the policies of several levels say together. Plans are in the order of their levels, the
// organisation's first, and each can only narrow those before it:
//
//   - effect: the strictest, in the order allow, downgrade, throttle, deny;
//   - choices: those of the last plan that names any, in its order, without what a plan before it that names any does not
//     permit. A tier permits all of its models; models above cut a tier below to them, in the catalog's order. Where
//     nothing is left, or no plan names anything, a call that was to run is denied, and one that was to be throttled too
//     where nothing is left;
//   - limits: the lowest that is set;
//   - prompt cache: `off` if any plan says so, else what the last says that says something;
//   - reasons and revisions: all.
//
// One plan is given back as it is.
func Combine(catalog *charter.Catalog, plans ...*Plan) *Plan {
	if len(plans) == 1 {
		return plans[0]
	}
	all := new(Plan)
	var revisions []string
	var naming []*Plan // those that name any choices
	for _, p := range plans {
		all.Effect = max(all.Effect, p.Effect)
		all.MaxInputTokens = lower(all.MaxInputTokens, p.MaxInputTokens)
		all.MaxOutputTokens = lower(all.MaxOutputTokens, p.MaxOutputTokens)
		all.TrimContextToTokens = lower(all.TrimContextToTokens, p.TrimContextToTokens)
		if p.PromptCache != CacheUnspecified && all.PromptCache != CacheOff {
			all.PromptCache = p.PromptCache
		}
		all.Reasons = append(all.Reasons, p.Reasons...)
		if p.Revision != "" {
			revisions = append(revisions, p.Revision)
		}
		if p.names() {
			naming = append(naming, p)
		}
	}
	all.Revision = strings.Join(revisions, RevisionSeparator)
	if n := len(naming) - 1; n >= 0 {
		all.Models, all.Tiers = narrow(naming[n], naming[:n], catalog)
	}
	switch {
	case all.names() || all.Effect == Deny:
	case len(naming) > 0:
		all.Effect, all.Reasons = Deny, append(all.Reasons, nothingLeft(naming))
	case all.Effect <= Downgrade:
		all.Effect, all.Reasons = Deny, append(all.Reasons, "No policy names a tier or a model.")
	}
	return all
}

// LeavesChoice reports whether a call is to run, and the plan names no tier and no model for it.
func (p *Plan) LeavesChoice() bool { return p.Effect <= Downgrade && !p.names() }

func (p *Plan) names() bool { return len(p.Models)+len(p.Tiers) > 0 }

// lower is the lower of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// narrow gives the choices of a plan that all plans above permit: tiers where tiers alone are named and each is permitted
// whole or not at all, else models.
func narrow(p *Plan, above []*Plan, catalog *charter.Catalog) (models, tiers []string) {
	refused := func(model string) bool {
		m := catalog.Model(model)
		return slices.ContainsFunc(above, func(a *Plan) bool {
			return !slices.Contains(a.Models, model) && (m == nil || !slices.Contains(a.Tiers, m.Tier))
		})
	}
	add := func(model string) {
		if !refused(model) && !slices.Contains(models, model) {
			models = append(models, model)
		}
	}
	for _, id := range p.Models {
		add(id)
	}
	inPart := len(p.Models) > 0
	for _, t := range p.Tiers {
		if !slices.ContainsFunc(above, func(a *Plan) bool { return !slices.Contains(a.Tiers, t) }) {
			tiers = append(tiers, t)
		} else if slices.ContainsFunc(modelsOf(catalog, t), func(m string) bool { return !refused(m) }) {
			inPart = true
		}
	}
	if !inPart {
		return nil, tiers
	}
	for _, t := range p.Tiers {
		for _, m := range modelsOf(catalog, t) {
			add(m)
		}
	}
	return models, nil
}

func modelsOf(catalog *charter.Catalog, tier string) (ids []string) {
	if catalog == nil {
		return nil
	}
	for i := range catalog.Models {
		if catalog.Models[i].Tier == tier {
			ids = append(ids, catalog.Models[i].ID)
		}
	}
	return ids
}

func nothingLeft(naming []*Plan) string {
	levels := make([]string, len(naming))
	for i, p := range naming {
		levels[i] = p.level()
	}
	return "No tier or model is left that these policies all permit: " + strings.Join(levels, ", ") + "."
}

// level says what the policy of the plan is attached to.
func (p *Plan) level() string {
	for _, level := range []string{"team", "feature"} {
		if strings.HasPrefix(p.Revision, "policies/"+level+".") {
			return level
		}
	}
	return "organisation"
}
