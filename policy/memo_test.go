package policy

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

// plain evaluates without the memo, without what is kept built, and with all of the input.
func plain(p *Policy, in *routing.Input) (*routing.Plan, error) {
	return p.evaluate(context.Background(), (&inputs{prices: true}).build(in), time.Minute)
}

// compare says how the remembered decision differs from a plain evaluation; empty if it does not.
func compare(d *Decider, in *routing.Input) string {
	got, err := d.Decide(context.Background(), in)
	want, wantErr := plain(inUse(d).policy, in)
	if err != nil || wantErr != nil {
		if err == nil || wantErr == nil || !strings.HasSuffix(err.Error(), oneLine(wantErr.Error())) {
			return fmt.Sprintf("error %v, plain %v", err, wantErr)
		}
		return ""
	}
	want.Revision = got.Revision
	if !reflect.DeepEqual(got, want) {
		return fmt.Sprintf("%+v, plain %+v", got, want)
	}
	return ""
}

var priceChange = time.Date(2026, 11, 23, 10, 16, 0, 0, time.UTC)

func testPrices(t testing.TB) *pricing.Book {
	t.Helper()
	var prices []*pricing.Price
	for i, effective := range []time.Time{{}, priceChange} {
		rate := money.Nanos(1000 * (i + 1))
		prices = append(prices, pricing.New("mini", effective, "USD", map[pricing.Unit]money.Nanos{pricing.Input: rate, pricing.Output: 4 * rate}),
			pricing.New("base", effective, "USD", map[pricing.Unit]money.Nanos{pricing.Input: 5 * rate}))
	}
	book, err := pricing.NewBook(prices)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// echo answers with what it reads: any two inputs that differ there have different plans.
func echo(expression string) map[string]string {
	return module(`decision := {"effect": "deny", "reasons": [crypto.sha256(json.marshal(` + expression + `))]}`)
}

// changes has for every leaf a change of it alone.
var changes = map[leaf]func(*routing.Input){
	feature:           func(in *routing.Input) { in.Call.Feature = "other" },
	taskClass:         func(in *routing.Input) { in.Call.TaskClass = "code" },
	complexity:        func(in *routing.Input) { in.Call.Complexity = 55 },
	capabilityList:    func(in *routing.Input) { in.Call.Capabilities = []string{"tools", "vision"} },
	inputTokens:       func(in *routing.Input) { in.Call.Estimate.InputTokens++ },
	cachedInputTokens: func(in *routing.Input) { in.Call.Estimate.CachedInputTokens = 9 },
	maxOutputTokens:   func(in *routing.Input) { in.Call.Estimate.MaxOutputTokens = 9 },
	retrievalHops:     func(in *routing.Input) { in.Call.Estimate.RetrievalHops = 9 },
	toolCalls:         func(in *routing.Input) { in.Call.Estimate.ToolCalls = map[string]int64{"search": 1} },
	user:              func(in *routing.Input) { in.Call.User = "u-2" },
	cohort:            func(in *routing.Input) { in.Call.Cohort = "beta" },
	agent:             func(in *routing.Input) { in.Call.Agent = "a-1" },
	run:               func(in *routing.Input) { in.Call.Run = "r-1" },
	promptPattern:     func(in *routing.Input) { in.Call.PromptPattern = "p-1" },
	model:             func(in *routing.Input) { in.Call.Model = "mini" },
	tier:              func(in *routing.Input) { in.Call.Tier = "economy" },
	labels:            func(in *routing.Input) { in.Call.Labels = map[string]string{"region": "eu"} },
	ableModels:        func(in *routing.Input) { in.Call.Capabilities = []string{"code"} },
	topID:             func(in *routing.Input) { in.Budgets[0].ID = "other" },
	topUtilization:    func(in *routing.Input) { in.Budgets[0].UtilizationPermille++ },
	topAlert:          func(in *routing.Input) { in.Budgets[0].AlertPermille++ },
	topOverAlert:      func(in *routing.Input) { in.Budgets[0].UtilizationPermille = 950 },
	topExhausted:      func(in *routing.Input) { in.Budgets[0].UtilizationPermille = 1000 },
	pathID:            func(in *routing.Input) { in.Budgets[1].ID = "other" },
	pathUtilization:   func(in *routing.Input) { in.Budgets[1].UtilizationPermille++ },
	pathAlert:         func(in *routing.Input) { in.Budgets[1].AlertPermille++ },
	pathOverAlert:     func(in *routing.Input) { in.Budgets[1].AlertPermille = 100 },
	pathExhausted:     func(in *routing.Input) { in.Budgets[1].UtilizationPermille = 1001 },
	inputPrice:        func(in *routing.Input) { in.Now = priceChange },
	outputPrice:       func(in *routing.Input) { in.Now = priceChange },
	timeUnix:          func(in *routing.Input) { in.Now = in.Now.Add(time.Minute) },
	timeWeekday:       func(in *routing.Input) { in.Now = in.Now.AddDate(0, 0, 1) },
	timeHour:          func(in *routing.Input) { in.Now = in.Now.Add(time.Hour) },
}

// expression reads a leaf in Rego.
func expression(l leaf) string {
	path := "input." + strings.Replace(leafPaths[l], ".*.", "[i].", 1)
	if strings.Contains(path, "[i]") {
		return "[" + path + " | some i]"
	}
	return path
}

// TestEveryLeafIsInTheKey changes every field in turn under policies that read it, and shows by leaving it out of the
// key that the comparison would find a fault.
func TestEveryLeafIsInTheKey(t *testing.T) {
	input := func() *routing.Input {
		in := supportInput(t)
		in.Prices = testPrices(t)
		return in
	}
	for l := range leafCount {
		read := expression(l)
		parent := "input." + strings.Split(leafPaths[l], ".")[0]
		for _, how := range []string{read, parent, "input", `input["` + strings.Split(leafPaths[l], ".")[0] + `"]`, "[v | v := input[_]]"} {
			p := compile(t, echo(how))
			faulty := *p
			faulty.fields = slices.DeleteFunc(slices.Clone(p.fields), func(f field) bool { return f.leaf == l })
			if len(faulty.fields) == len(p.fields) {
				t.Errorf("%s: the key of a policy that reads %s lacks it", leafPaths[l], how)
			}
			for policy, fault := range map[*Policy]bool{p: false, &faulty: how == read} {
				d := using(policy)
				if diff := compare(d, input()); diff != "" {
					t.Fatalf("%s by %s, before the change: %s", leafPaths[l], how, diff)
				}
				changed := input()
				changes[l](changed)
				diff := compare(d, changed)
				if fault && diff == "" {
					t.Errorf("%s by %s: nobody notices that it is not in the key", leafPaths[l], how)
				}
				if policy == p && diff != "" {
					t.Errorf("%s by %s: %s", leafPaths[l], how, diff)
				}
			}
		}
	}
}

// TestKeyHasOnlyWhatIsRead pins what the analysis finds: too much costs speed, too little is a stale decision.
func TestKeyHasOnlyWhatIsRead(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{allowAll, ""},
		{`decision := input.charter.team`, ""},
		{`decision := [input.catalog.models[i].tier | some i]`, ""},
		{`decision := input.catalog.models[0].input_nanos_per_mtok`, "catalog.models.*.input_nanos_per_mtok"},
		{`decision := input.catalog`, "catalog.models.*.input_nanos_per_mtok catalog.models.*.output_nanos_per_mtok"},
		{`decision := input.request.labels.region`, "request.labels:region"},
		{`decision := input.request.labels[input.request.user]`, "request.user request.labels"},
		{`decision := [input.request.labels, input.request.labels.region]`, "request.labels"},
		{`decision := input.request.tool_calls.search > 3`, "request.tool_calls:search"},
		{`decision := input.request.input_tokens > 4000`, "request.input_tokens[4000]"},
		{"decision if {\n\tinput.request.input_tokens > 4000\n\t100 >= input.request.input_tokens\n\tnot input.request.input_tokens == 7\n}", "request.input_tokens[7 100 4000]"},
		{`decision := [input.request.input_tokens > 4000, input.request.input_tokens]`, "request.input_tokens"},
		{`decision := input.request.input_tokens + 1 > 4000`, "request.input_tokens"},
		{`decision := input.request.input_tokens > 4000.5`, "request.input_tokens"},
		{`decision := input.request.input_tokens > input.request.max_output_tokens`, "request.input_tokens request.max_output_tokens"},
		{`decision := input.budget.utilization >= 0.85`, "budget.utilization[850]"},
		{`decision := input.budget.utilization >= 0.8505`, "budget.utilization"},
		{`decision if input.budgets[_].utilization < 1`, "budgets.*.utilization[1000]"},
		{`decision if input.budgets[_].over_alert`, "budgets.*.over_alert"},
		{"decision if {\n\tsome b in input.budgets\n\tb.over_alert\n}", "budgets.*.over_alert"},
		{`decision := [input.budgets[i].id | some i; input.budgets[i].exhausted][0]`, "budgets.*.id budgets.*.exhausted"},
		{`decision := [i | some i; input.catalog.models[i].tier == "premium"]`, ""},
		{`decision := [i | some i, _ in input.budgets]`, "budgets.*.id budgets.*.utilization budgets.*.alert budgets.*.over_alert budgets.*.exhausted"},
		{`decision := count(input.budgets)`, "budgets.*.id budgets.*.utilization budgets.*.alert budgets.*.over_alert budgets.*.exhausted"},
		{`decision := object.get(input.request.labels, "region", "eu")`, "request.labels:region"},
		{"import input.request as r\n\ndecision := r.tier", "request.tier"},
		{"decision := f(input.request.tier)\n\nf(x) := x", "request.tier"},
		{"decision := 1 if input.request.complexity > 3\nelse := input.request.cohort", "request.complexity[3] request.cohort"},
		{"x[input.request.agent] := input.request.run\n\ndecision := x", "request.agent request.run"},
		{"x.y[input.request.agent] := 1\n\ndecision := x", "request.agent"},
		{"s contains input.request.user\n\ndecision := s", "request.user"},
		{"decision := {x | some x in [1]; x == input.request.complexity}", "request.complexity"},
		{"decision if every c in input.request.required_capabilities { c == input.request.model }", "request.required_capabilities request.model"},
		{"decision := $\"{input.request.user}\"", "request.user"},
		{"f(x) := input.time.hour > x\n\ndecision := f(3)", "time.hour"},
		{"never(_, _) := false\n\nlong if input.request.input_tokens > 4000\n\ndecision if long with input.request.tier as \"x\"", "request.input_tokens[4000]"},
	} {
		var got []string
		for _, f := range compile(t, module(c.body)).fields {
			text := leafPaths[f.leaf]
			if f.name != "" {
				text += ":" + f.name
			}
			if f.cuts != nil {
				text += fmt.Sprint(f.cuts)
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s\nreads %s\nwant  %s", c.body, text, c.want)
		}
	}
}

var readers = map[string]map[string]string{
	"shipped":     Builtin(),
	"tokens":      echo("[input.request.input_tokens, input.request.tool_calls]"),
	"thresholds":  echo("[input.request.input_tokens > 2, input.request.input_tokens <= 4, input.request.complexity == 3, input.budget.utilization >= 0.9, [x | x := input.budgets[_].utilization < 0.5]]"),
	"one label":   echo(`object.get(input.request.labels, "region", "none")`),
	"label":       module(`decision := {"effect": "deny", "reasons": [input.request.labels.region]}`),
	"labels":      echo("input.request.labels"),
	"cohort":      echo("[input.request.cohort, input.request.user]"),
	"time":        echo("[input.time.hour >= 10, input.time.weekday]"),
	"minute":      echo("input.time.unix"),
	"booleans":    echo("[input.budget.over_alert, input.budget.exhausted]"),
	"most used":   echo("input.budget"),
	"path":        echo("[x | x := input.budgets[_].exhausted]"),
	"charter":     echo("[input.charter, input.catalog.tiers]"),
	"prices":      echo("[x | x := input.catalog.models[_].input_nanos_per_mtok]"),
	"any element": echo("[x | x := input.request[k]; startswith(k, \"t\")]"),
	"whole":       echo("input"),
	"walk":        echo("[[p, v] | walk(input, [p, v])]"),
	"undefined":   module(`decision := {"effect": "deny"} if input.request.tier == "economy"`),
}

// TestRememberedEqualsPlain asks deciders the same generated questions as plain evaluations. The questions are of a
// small world, so that many are asked twice, and twice with a difference in one field.
func TestRememberedEqualsPlain(t *testing.T) {
	prices, catalog := testPrices(t), testCatalog(t)
	for name, modules := range readers {
		t.Run(name, func(t *testing.T) {
			d := decider(t, modules)
			rapid.Check(t, func(r *rapid.T) {
				in := drawInput(r, catalog, prices)
				if diff := compare(d, in); diff != "" {
					r.Fatalf("%+v %+v: %s", in, in.Call, diff)
				}
				changes[leaf(rapid.IntRange(0, int(leafCount)-1).Draw(r, "changed"))](in)
				if diff := compare(d, in); diff != "" {
					r.Fatalf("%+v %+v: %s", in, in.Call, diff)
				}
			})
			if inUse(d).memo.size() == 0 {
				t.Error("nothing is remembered")
			}
		})
	}
}

func drawInput(r *rapid.T, catalog *charter.Catalog, prices *pricing.Book) *routing.Input {
	pick := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(r, name) }
	count := func(name string, most int64) int64 { return rapid.Int64Range(0, most).Draw(r, name) }
	epoch := count("epoch", 2)
	// What the epoch and the charter's id decide.
	c := &charter.Charter{ID: pick("charter", "a", "b"), Team: fmt.Sprint("team-", epoch), Stage: charter.StageProduction,
		Exhausted: charter.Exhausted{Mode: charter.ExhaustedMode(epoch)}}
	if c.ID == "b" {
		c.PermittedTiers = []string{"premium", "economy"}
	}
	if epoch == 2 {
		catalog = charter.WithMeta(&charter.Catalog{Tiers: catalog.Tiers, Models: catalog.Models[:2]}, charter.Meta{}).(*charter.Catalog)
	}
	in := &routing.Input{
		Now:   time.Date(2026, 11, 23, 9, 58, 0, 0, time.UTC).Add(time.Duration(count("seconds", 1200)) * time.Second),
		Epoch: epoch, Charter: c, Catalog: catalog, Prices: prices,
		Call: &routing.Call{
			Feature: c.ID, TaskClass: pick("class", "", "chat", "code"), Complexity: int32(count("complexity", 4)),
			Capabilities: rapid.SliceOfN(rapid.SampledFrom([]string{"tools", "vision"}), 0, 2).Draw(r, "capabilities"),
			Estimate: routing.Estimate{InputTokens: count("input", 5), CachedInputTokens: count("cached", 1),
				ToolCalls: rapid.MapOfN(rapid.SampledFrom([]string{"search", "fetch"}), rapid.Int64Range(0, 2), 0, 2).Draw(r, "tools")},
			User: pick("user", "", "u"), Cohort: pick("cohort", "", "beta"), Model: pick("model", "", "mini", "large"),
			Tier:   pick("tier", "", "economy", "premium"),
			Labels: rapid.MapOfN(rapid.SampledFrom([]string{"region", "x"}), rapid.SampledFrom([]string{"", "eu"}), 0, 2).Draw(r, "labels"),
		},
	}
	for i := range 2 {
		in.Budgets = append(in.Budgets, routing.BudgetState{ID: fmt.Sprint("b", i), AlertPermille: 800,
			UtilizationPermille: rapid.SampledFrom([]int32{0, 499, 500, 799, 800, 900, 999, 1000, 1700}).Draw(r, "utilization")})
	}
	return in
}

// TestInputFitsTheSchema validates what Rego sees against the schema that policies are checked against.
func TestInputFitsTheSchema(t *testing.T) {
	prices, catalog := testPrices(t), testCatalog(t)
	rapid.Check(t, func(r *rapid.T) {
		in := drawInput(r, catalog, prices)
		in.Charter.Labels = map[string]string{"line": "b2b"}
		in.Charter.Evaluations = []charter.Evaluation{{Capability: "chat", Model: "mini", Passed: true, ScorePermille: 930},
			{Capability: "code", Model: "mini", Expires: priceChange}}
		if problems := matchSchema(t, in); problems != "" {
			r.Fatal(problems)
		}
	})
}

func TestDecideDoesNotAllocate(t *testing.T) {
	all := echo(`[input.request.tier, input.request.required_capabilities, input.request.labels, input.request.tool_calls, input.budgets, input.budget, input.time]`)
	for name, modules := range map[string]map[string]string{"shipped": Builtin(), "all": all} {
		d, in := decider(t, modules), supportInput(t)
		in.Call.Labels = map[string]string{"region": "eu", "channel": "web"}
		in.Call.Estimate.ToolCalls = map[string]int64{"search": 2, "fetch": 1}
		ctx := context.Background()
		if n := testing.AllocsPerRun(100, func() {
			if _, err := d.Decide(ctx, in); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: a remembered decision allocates %v times", name, n)
		}
	}
}

func benchmarkInputs(b *testing.B) []*routing.Input {
	classes := slices.Sorted(maps.Keys(map[string]bool{"chat": true, "code": true, "classify": true, "rag": true}))
	var list []*routing.Input
	for i := range 64 {
		in := supportInput(b)
		in.Call.TaskClass = classes[i%4]
		in.Call.Estimate.InputTokens = int64(100 * i)
		in.Budgets[0].UtilizationPermille = int32(10 * i)
		list = append(list, in)
	}
	return list
}

func BenchmarkDecideMemo(b *testing.B) {
	d, list, ctx := decider(b, Builtin()), benchmarkInputs(b), context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := d.Decide(ctx, list[i%len(list)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecidePlainOPA(b *testing.B) {
	d, list, ctx := decider(b, Builtin()), benchmarkInputs(b), context.Background()
	u := inUse(d)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := u.policy.evaluate(ctx, u.inputs.build(list[i%len(list)]), time.Minute); err != nil {
			b.Fatal(err)
		}
	}
}
