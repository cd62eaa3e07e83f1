package routing_test

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// decision is a plan as a policy writes it.
type decision struct {
	Effect              string   `json:"effect"`
	Models              []string `json:"models"`
	Tiers               []string `json:"tiers"`
	MaxInputTokens      int64    `json:"max_input_tokens"`
	MaxOutputTokens     int64    `json:"max_output_tokens"`
	TrimContextToTokens int64    `json:"trim_context_to_tokens"`
	PromptCache         string   `json:"prompt_cache"`
	Reasons             []string `json:"reasons"`
}

var promptCaches = []string{"", "off", "5m", "1h"}

func (d *decision) plan(revision string) *routing.Plan {
	p := &routing.Plan{
		Models: d.Models, Tiers: d.Tiers, MaxInputTokens: d.MaxInputTokens, MaxOutputTokens: d.MaxOutputTokens,
		TrimContextToTokens: d.TrimContextToTokens, PromptCache: routing.PromptCache(slices.Index(promptCaches, d.PromptCache)),
		Reasons: d.Reasons, Revision: revision,
	}
	for p.Effect.String() != d.Effect {
		p.Effect++
	}
	return p
}

func decisionOf(p *routing.Plan) decision {
	return decision{p.Effect.String(), p.Models, p.Tiers, p.MaxInputTokens, p.MaxOutputTokens, p.TrimContextToTokens,
		promptCaches[p.PromptCache], p.Reasons}
}

// Cases in the file are the specification of how decisions are combined.
func TestCombine(t *testing.T) {
	data, err := os.ReadFile("../../policy/testdata/combine.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Catalog struct {
			Tiers  []string
			Models []struct{ ID, Tier string }
		}
		Cases []struct {
			Name   string
			Levels []decision
			Want   decision
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	catalog := &charter.Catalog{}
	for _, tier := range file.Catalog.Tiers {
		catalog.Tiers = append(catalog.Tiers, charter.Tier{ID: tier})
	}
	for _, m := range file.Catalog.Models {
		catalog.Models = append(catalog.Models, charter.Model{ID: m.ID, Tier: m.Tier})
	}
	catalog = charter.WithMeta(catalog, charter.Meta{}).(*charter.Catalog)
	revisions := []string{"policies/routing/revisions/5f2a77c0", "policies/team.support/revisions/5f2a77c1", "policies/feature.chat/revisions/5f2a77c2"}
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			var plans []*routing.Plan
			for i := range c.Levels {
				plans = append(plans, c.Levels[i].plan(revisions[i]))
			}
			before := make([]routing.Plan, len(plans))
			for i, p := range plans {
				before[i] = *p
			}
			if got := decisionOf(routing.Combine(catalog, plans...)); !reflect.DeepEqual(got, c.Want) {
				t.Errorf("got  %+v\nwant %+v", got, c.Want)
			}
			for i, p := range plans {
				if !reflect.DeepEqual(before[i], *p) {
					t.Errorf("the plan of level %d was changed to %+v", i, *p)
				}
			}
		})
	}
	if len(file.Cases) < 20 {
		t.Errorf("%d cases only", len(file.Cases))
	}
}

// What is combined names all revisions, and one plan is not copied: plans are compared by their pointers.
func TestCombineRevisions(t *testing.T) {
	a := &routing.Plan{Effect: routing.Allow, Tiers: []string{"economy"}, Revision: "builtin/5f2a77c0"}
	b := &routing.Plan{Effect: routing.Allow, Tiers: []string{"economy"}, Revision: "policies/feature.chat/revisions/5f2a77c1"}
	if got := routing.Combine(nil, a); got != a {
		t.Errorf("one plan became %+v", got)
	}
	if got := routing.Combine(nil, a, b); got.Revision != a.Revision+routing.RevisionSeparator+b.Revision {
		t.Errorf("the revision is %q", got.Revision)
	}
}
