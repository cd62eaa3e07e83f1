package policy

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// see gives what Rego sees at a path below input.
func see(t *testing.T, in *routing.Input, path ...string) any {
	t.Helper()
	v, err := ast.JSON((&inputs{prices: true}).build(in))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range path {
		v = v.(map[string]any)[name]
	}
	return v
}

func wantJSON(t *testing.T, what string, got any, want string) {
	t.Helper()
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var a, b any
	if json.Unmarshal(text, &a) != nil || json.Unmarshal([]byte(want), &b) != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("%s is %s, want %s", what, text, want)
	}
}

func TestPermittedIsSpelledOut(t *testing.T) {
	in := supportInput(t)
	in.Call.Capabilities = nil
	for _, c := range []struct {
		name                                string
		tiers, models                       []string
		wantTiers, wantModels, wantAbleTier string
	}{
		{"nothing said", nil, nil, `["economy","standard","premium"]`, `["mini","base","large"]`, `["economy","standard","premium"]`},
		{"tiers, in the catalog's order", []string{"premium", "economy"}, nil, `["economy","premium"]`, `["mini","large"]`, `["economy","premium"]`},
		{"models", nil, []string{"large", "base"}, `["economy","standard","premium"]`, `["base","large"]`, `["standard","premium"]`},
		{"models of other tiers", []string{"economy"}, []string{"large", "mini"}, `["economy"]`, `["mini"]`, `["economy"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in.Charter = &charter.Charter{ID: "f", PermittedTiers: c.tiers, PermittedModels: c.models}
			wantJSON(t, "permitted_tiers", see(t, in, "charter", "permitted_tiers"), c.wantTiers)
			wantJSON(t, "permitted_models", see(t, in, "charter", "permitted_models"), c.wantModels)
			wantJSON(t, "able.tiers", see(t, in, "able", "tiers"), c.wantAbleTier)
		})
	}
	in.Charter, in.Catalog = &charter.Charter{ID: "f"}, nil
	wantJSON(t, "permitted_tiers without a catalog", see(t, in, "charter", "permitted_tiers"), `[]`)
	wantJSON(t, "able without a catalog", see(t, in, "able"), `{"tiers":[],"models":{}}`)
}

func TestAbleHasAllCapabilities(t *testing.T) {
	in := supportInput(t)
	for _, c := range []struct {
		required []string
		want     string
	}{
		{nil, `{"tiers":["economy","standard","premium"],"models":{"economy":["mini"],"standard":["base"],"premium":["large"]}}`},
		{[]string{"vision"}, `{"tiers":["standard","premium"],"models":{"standard":["base"],"premium":["large"]}}`},
		{[]string{"vision", "code"}, `{"tiers":["premium"],"models":{"premium":["large"]}}`},
		{[]string{"audio"}, `{"tiers":[],"models":{}}`},
	} {
		in.Call.Capabilities = c.required
		wantJSON(t, "able", see(t, in, "able"), c.want)
	}
}

func TestBudgetsInRego(t *testing.T) {
	in := supportInput(t)
	in.Budgets = []routing.BudgetState{{ID: "leaf", UtilizationPermille: 812, AlertPermille: 900}, {ID: "mid", UtilizationPermille: 1250, AlertPermille: 800}, {ID: "root", UtilizationPermille: 1250, AlertPermille: 800}}
	wantJSON(t, "budget", see(t, in, "budget"), `{"id":"mid","utilization":1.25,"alert":0.8,"over_alert":true,"exhausted":true}`)
	wantJSON(t, "the leaf", see(t, in, "budgets").([]any)[0], `{"id":"leaf","utilization":0.812,"alert":0.9,"over_alert":false,"exhausted":false}`)
}

func TestPricesAndTimeInRego(t *testing.T) {
	in := supportInput(t)
	in.Prices = testPrices(t)
	wantJSON(t, "time", see(t, in, "time"), `{"unix":1795428900,"weekday":"Monday","hour":10}`)
	models := see(t, in, "catalog", "models").([]any)
	wantJSON(t, "mini", models[0], `{"id":"mini","provider":"openai","tier":"economy","capabilities":["chat","tools"],"context_tokens":128000,"max_output_tokens":16384,"regions":["eu"],"input_nanos_per_mtok":1000,"output_nanos_per_mtok":4000}`)
	if _, ok := models[1].(map[string]any)["output_nanos_per_mtok"]; ok {
		t.Error("a rate that has no price is there")
	}
	in.Now = priceChange
	models = see(t, in, "catalog", "models").([]any)
	wantJSON(t, "the later price", models[0].(map[string]any)["input_nanos_per_mtok"], `2000`)
}
