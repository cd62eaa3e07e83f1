package policy

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

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
	in.Budgets[0].Budget, in.Budgets[0].Start, in.Budgets[0].End = supportBudget, in.Now.Unix()-3600, in.Now.Unix()+3*3600
	in.Charter.ApprovedEscalations[0].Budget = "leaf"
	wantJSON(t, "budget", see(t, in, "budget"), `{"id":"mid","per":"","owner":"","period":"window","limit_nanos":0,"currency":"","start_unix":0,"end_unix":0,
		"utilization":1.25,"forecast":1.25,"alert":0.8,"over_alert":true,"exhausted":true,"escalated":false}`)
	wantJSON(t, "the leaf", see(t, in, "budgets").([]any)[0], `{"id":"leaf","per":"","owner":"Lena","period":"month","limit_nanos":40000000000,"currency":"USD",
		"start_unix":1795425330,"end_unix":1795439730,"utilization":0.812,"forecast":3.248,"alert":0.9,"over_alert":false,"exhausted":false,"escalated":true}`)
}

func TestPricesAndTimeInRego(t *testing.T) {
	in := supportInput(t)
	in.Prices = testPrices(t)
	wantJSON(t, "time", see(t, in, "time"), `{"unix":1795428900,"weekday":"Monday","hour":10}`)
	models := see(t, in, "catalog", "models").([]any)
	wantJSON(t, "mini", models[0], `{"id":"mini","provider":"openai","tier":"economy","capabilities":["chat","tools"],"context_tokens":128000,"max_output_tokens":16384,"regions":["eu"],"evaluations":[],"input_nanos_per_mtok":1000,"output_nanos_per_mtok":4000}`)
	if _, ok := models[1].(map[string]any)["output_nanos_per_mtok"]; ok {
		t.Error("a rate that has no price is there")
	}
	in.Now = priceChange
	models = see(t, in, "catalog", "models").([]any)
	wantJSON(t, "the later price", models[0].(map[string]any)["input_nanos_per_mtok"], `2000`)
}

func TestEvaluationsInRego(t *testing.T) {
	in := supportInput(t)
	in.Charter.Escalation = []charter.EscalationStep{{Owner: charter.Owner{Name: "Lena"}}, {Owner: charter.Owner{Name: "Ines"}, After: time.Hour}}
	in.Charter.Evaluations = []charter.Evaluation{{Capability: "chat", Model: "mini", Passed: true, ScorePermille: 930, Expires: escalationEnd}}
	want := `{"capability":"chat","passed":true,"score_permille":930,"expire_unix":1795429200}`
	wantJSON(t, "of the model", see(t, in, "catalog", "models").([]any)[0].(map[string]any)["evaluations"], "["+want+"]")
	wantJSON(t, "of another", see(t, in, "catalog", "models").([]any)[1].(map[string]any)["evaluations"], "[]")
	wantJSON(t, "of the charter", see(t, in, "charter", "capability_evaluations"), "["+want[:1]+`"model":"mini",`+want[1:]+"]")
	wantJSON(t, "escalation", see(t, in, "charter", "escalation"), `[{"owner":"Lena","after_seconds":0},{"owner":"Ines","after_seconds":3600}]`)
	wantJSON(t, "approved", see(t, in, "charter", "approved_escalations").([]any)[0], `{"id":"launch","budget":"support","approver":"","approve_unix":-62135596800,"expire_unix":1795429200,"reason":""}`)
}

// TestAbleNeedsEvidence names a model: a smaller one is able with an evaluation that passed and has not expired. The
// decider remembers, and still notices that it expires.
func TestAbleNeedsEvidence(t *testing.T) {
	in := supportInput(t)
	in.Call.Model = "base"
	all, without := `["economy","standard","premium"]`, `["standard","premium"]`
	wantJSON(t, "able without evidence", see(t, in, "able", "tiers"), without)
	in.Charter.Evaluations = []charter.Evaluation{{Capability: "chat", Model: "mini", Passed: true, Expires: escalationEnd}}
	in.Epoch++
	wantJSON(t, "able with evidence", see(t, in, "able", "tiers"), all)
	d := decider(t, echo("input.able"))
	for _, now := range []time.Time{in.Now, escalationEnd.Add(-time.Nanosecond), escalationEnd} {
		in.Now = now
		if diff := compare(d, in); diff != "" {
			t.Errorf("at %s: %s", now, diff)
		}
	}
	wantJSON(t, "able when it has expired", see(t, in, "able", "tiers"), without)
}
