package routing_test

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

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

// Whatever levels say, a combined plan can serve a call on nothing that one of them does not permit, is as strict as the
// strictest, and combining it once more with a plan of its own changes nothing.
func TestCombineOnlyNarrows(t *testing.T) {
	catalog := charter.WithMeta(&charter.Catalog{
		Tiers:  []charter.Tier{{ID: "t0"}, {ID: "t1"}, {ID: "t2"}},
		Models: []charter.Model{{ID: "m0", Tier: "t0"}, {ID: "m1", Tier: "t0"}, {ID: "m2", Tier: "t1"}, {ID: "m3", Tier: "t2"}, {ID: "m4", Tier: "t2"}},
	}, charter.Meta{}).(*charter.Catalog)
	// serve is what a plan can serve on, in its order; all where it names nothing.
	serve := func(p *routing.Plan) (models []string) {
		add := func(id string) {
			if !slices.Contains(models, id) {
				models = append(models, id)
			}
		}
		for _, id := range p.Models {
			add(id)
		}
		for _, m := range catalog.Models {
			if len(p.Models)+len(p.Tiers) == 0 {
				add(m.ID)
			}
		}
		for _, tier := range p.Tiers {
			for _, m := range catalog.Models {
				if m.Tier == tier {
					add(m.ID)
				}
			}
		}
		return models
	}
	rapid.Check(t, func(t *rapid.T) {
		plan := rapid.Custom(func(t *rapid.T) *routing.Plan {
			return &routing.Plan{
				Effect: routing.Effect(rapid.IntRange(1, 4).Draw(t, "effect")),
				Models: rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"m0", "m1", "m2", "m3", "m4"}), 0, 4, rapid.ID).Draw(t, "models"),
				Tiers:  rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"t0", "t1", "t2"}), 0, 3, rapid.ID).Draw(t, "tiers"),

				MaxOutputTokens: rapid.Int64Range(0, 3).Draw(t, "output"), PromptCache: routing.PromptCache(rapid.IntRange(0, 3).Draw(t, "cache")),
			}
		})
		plans := rapid.SliceOfN(plan, 2, 3).Draw(t, "plans")
		all := routing.Combine(catalog, plans...)
		last := -1
		for i, p := range plans {
			if all.Effect < p.Effect {
				t.Fatalf("%s, but level %d says %s", all.Effect, i, p.Effect)
			}
			if p.MaxOutputTokens > 0 && (all.MaxOutputTokens == 0 || all.MaxOutputTokens > p.MaxOutputTokens) {
				t.Fatalf("%d tokens, but level %d allows %d", all.MaxOutputTokens, i, p.MaxOutputTokens)
			}
			if p.PromptCache == routing.CacheOff && all.PromptCache != routing.CacheOff {
				t.Fatalf("a prompt cache, but level %d has it off", i)
			}
			if len(p.Models)+len(p.Tiers) > 0 {
				last = i
			}
		}
		if all.Effect == routing.Deny || last < 0 {
			return
		}
		// Taken the other way: the models of the last that names any, one by one, that all others permit.
		var want []string
		for _, id := range serve(plans[last]) {
			if !slices.ContainsFunc(plans, func(p *routing.Plan) bool { return !slices.Contains(serve(p), id) }) {
				want = append(want, id)
			}
		}
		if got := serve(all); len(want) == 0 || !slices.Equal(got, want) {
			t.Fatalf("serves %v, want %v", got, want)
		}
		if again := routing.Combine(catalog, all, all); !slices.Equal(serve(again), serve(all)) || again.Effect != all.Effect {
			t.Fatalf("combined with itself it is %+v, was %+v", again, all)
		}
	})
}
