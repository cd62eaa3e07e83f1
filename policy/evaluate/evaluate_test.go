package evaluate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/evaluate"
)

var now = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// catalog has mini (1 and 2 a million), base (3 and 6) and large (10 and 30), and two models without a price.
func catalog(t *testing.T) (*charter.Catalog, *pricing.Book) {
	t.Helper()
	c := charter.WithMeta(&charter.Catalog{
		Tiers: []charter.Tier{{ID: "economy"}, {ID: "standard"}, {ID: "premium"}},
		Models: []charter.Model{
			{ID: "free", Tier: "economy"}, {ID: "mini", Tier: "economy"}, {ID: "base", Tier: "standard"}, {ID: "large", Tier: "premium"},
			{ID: "larger", Tier: "premium"},
		},
	}, charter.Meta{}).(*charter.Catalog)
	var list []*pricing.Price
	for id, rates := range map[string][2]money.Nanos{"mini": {1e9, 2e9}, "base": {3e9, 6e9}, "large": {10e9, 30e9}, "larger": {20e9, 60e9}} {
		list = append(list, pricing.New(id, time.Time{}, "USD", map[pricing.Unit]money.Nanos{pricing.Input: rates[0], pricing.Output: rates[1]}))
	}
	book, err := pricing.NewBook(list)
	if err != nil {
		t.Fatal(err)
	}
	return c, book
}

func run(t *testing.T, decide evaluate.Decide, lines string) (*evaluate.Result, error) {
	t.Helper()
	c, book := catalog(t)
	e, err := evaluate.New(decide, c, book, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := evaluate.Read("cases", strings.NewReader(lines), func(c *evaluate.Case) error { return e.Add(context.Background(), c) }); err != nil {
		return nil, err
	}
	return e.Result()
}

func must(t *testing.T, decide evaluate.Decide, lines string) *evaluate.Result {
	t.Helper()
	r, err := run(t, decide, lines)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func shipped(t *testing.T) evaluate.Decide {
	t.Helper()
	d, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	return evaluate.Patient(d.Decide)
}

func always(p routing.Plan) evaluate.Decide {
	return func(context.Context, *routing.Input) (*routing.Plan, error) { return &p, nil }
}

const four = `{"id":"1","task_class":"classify","input_tokens":1000000,"output_tokens":{"economy":1000000,"standard":1000000,"premium":1000000},"sufficient":{"economy":true,"standard":true,"premium":true}}

{"id":"2","task_class":"qa","input_tokens":0,"output_tokens":{"economy":1000000,"standard":1000000,"premium":2000000},"sufficient":{"economy":false,"standard":true,"premium":true}}
{"id":"3","task_class":"proof","input_tokens":0,"output_tokens":{"premium":1000000},"sufficient":{"economy":false,"standard":false,"premium":true}}
{"id":"4","task_class":"unheard","input_tokens":0,"output_tokens":{"economy":0,"standard":0,"premium":0},"sufficient":{"economy":true,"standard":false,"premium":false}}`

// By hand: always-cheap costs 3+2+2 and always-expensive 40+60+30; the policy takes 3 at economy, 6 at standard and 30 at
// premium.
func TestFigures(t *testing.T) {
	r := must(t, shipped(t), four)
	if r.Cases != 4 || r.Policy.CostNanos != 39e9 || r.CostSaved != 0.7 || r.QualityKept != 1 || r.Policy.Solved != 0.75 {
		t.Errorf("the policy: %+v", r.Policy)
	}
	want := map[string][2]float64{"always-cheap": {7e9, 1.0 / 3}, "always-standard": {21e9, 2.0 / 3}, "always-expensive": {130e9, 1}, "oracle": {39e9, 1}}
	for _, b := range r.Baselines {
		if w, ok := want[b.Name]; ok && (float64(b.CostNanos) != w[0] || b.QualityKept != w[1]) {
			t.Errorf("%s: %+v, want %v", b.Name, b, w)
		}
	}
	// One of four at economy, two at standard, one at premium: (7 + 2 x 21 + 130) / 4 and (1/3 + 2 x 2/3 + 1) / 4.
	random := r.Baselines[3]
	if random.Name != "random at the same mix" || random.CostNanos != 44_750_000_000 || math.Abs(random.QualityKept-2.0/3) > 1e-12 || math.Abs(random.Solved-(0.5+2*0.5+0.75)/4) > 1e-12 {
		t.Errorf("random: %+v", random)
	}
	if r.UnknownClasses["unheard"] != 1 || len(r.UnknownClasses) != 1 || len(r.Classes) != 4 {
		t.Errorf("classes %+v, unknown %v", r.Classes, r.UnknownClasses)
	}
	if p := r.Prices[0]; p.Model != "mini" || p.InputNanos != 1e9 || p.OutputNanos != 2e9 {
		t.Errorf("economy is priced as %+v, want the first model with a price", p)
	}
}

func TestCurveGoesFromAlwaysExpensiveToAlwaysCheap(t *testing.T) {
	r := must(t, shipped(t), four)
	first, middle, last := r.Curve[0], r.Curve[len(r.Curve)/2], r.Curve[len(r.Curve)-1]
	if first.Threshold != -100 || first.CostSaved != 0 || first.Mix["premium"] != 1 {
		t.Errorf("the curve begins with %+v", first)
	}
	if middle.Threshold != 0 || middle.CostSaved != r.CostSaved || middle.QualityKept != r.QualityKept {
		t.Errorf("in the middle is %+v, the policy is %+v", middle, r.Policy)
	}
	if last.Threshold != 100 || last.Mix["economy"] != 1 || last.CostSaved != 1-7.0/130 {
		t.Errorf("the curve ends with %+v", last)
	}
	for i := 1; i < len(r.Curve); i++ {
		if r.Curve[i].CostSaved < r.Curve[i-1].CostSaved {
			t.Errorf("the curve saves less at %d than at %d", r.Curve[i].Threshold, r.Curve[i-1].Threshold)
		}
	}
}

// The sums of tiers, of task classes and of the whole are one.
func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	classes := []string{"chat", "Code", "qa", "extraction", "agent", "", "zork"}
	for i := range 3000 {
		fmt.Fprintf(&b, `{"id":"%d","task_class":%q,"prompt":%q,"input_tokens":%d,"output_tokens":{"economy":%d,"standard":%d,"premium":%d},"sufficient":{"economy":%v,"standard":%v,"premium":%v}}`+"\n",
			i, classes[r.IntN(len(classes))], []string{"", "Prove it.", "Translate: hello"}[r.IntN(3)], r.IntN(40000), r.IntN(999), r.IntN(999), r.IntN(999), r.IntN(2) == 0, r.IntN(3) > 0, r.IntN(5) > 0)
	}
	x := must(t, shipped(t), b.String())
	var cost, cases int64
	mix := 0.0
	for _, c := range x.Classes {
		cost, cases = cost+c.CostNanos, cases+c.Cases
	}
	for _, share := range x.Policy.Mix {
		mix += share
	}
	if cost != x.Policy.CostNanos || cases != x.Cases || math.Abs(mix-1) > 1e-12 {
		t.Errorf("classes cost %d, all %d; %d of %d cases; the mix adds up to %v", cost, x.Policy.CostNanos, cases, x.Cases, mix)
	}
	// Random, the other way: the mean over each tier by its share.
	sum := new(big.Rat)
	for i, tier := range []string{"economy", "standard", "premium"} {
		share := new(big.Rat).SetInt64(int64(math.Round(x.Policy.Mix[tier] * float64(x.Cases))))
		sum.Add(sum, share.Mul(share, big.NewRat(x.Baselines[i].CostNanos, x.Cases)))
	}
	if f, _ := sum.Float64(); math.Abs(f-float64(x.Baselines[3].CostNanos)) > 1 {
		t.Errorf("random costs %d, by shares %v", x.Baselines[3].CostNanos, f)
	}
	if i := x.CostSavedInterval; !(i.Low < x.CostSaved && x.CostSaved < i.High) || i.High-i.Low > 0.1 {
		t.Errorf("the interval of %v is %v", x.CostSaved, i)
	}
	if again := must(t, shipped(t), b.String()); again.CostSavedInterval != x.CostSavedInterval || again.QualityKeptInterval != x.QualityKeptInterval {
		t.Error("the same cases give other intervals")
	}
}

func TestWhatThePolicyDoesToACall(t *testing.T) {
	const one = `{"task_class":"x","input_tokens":0,"output_tokens":{"economy":1000000,"standard":1000000,"premium":1000000},"sufficient":{"economy":false,"standard":true,"premium":true}}`
	for _, c := range []struct {
		name            string
		plan            routing.Plan
		cost            int64
		kept            float64
		refused, capped int64
	}{
		{"a tier", routing.Plan{Effect: routing.Allow, Tiers: []string{"standard", "premium"}}, 6e9, 1, 0, 0},
		{"a model that is not the first of its tier", routing.Plan{Effect: routing.Downgrade, Models: []string{"unknown", "free", "larger"}}, 60e9, 1, 0, 0},
		{"an answer that is cut off", routing.Plan{Effect: routing.Allow, Tiers: []string{"premium"}, MaxOutputTokens: 500_000}, 15e9, 0, 0, 1},
		{"a limit that is not reached", routing.Plan{Effect: routing.Allow, Tiers: []string{"premium"}, MaxOutputTokens: 1_000_000}, 30e9, 1, 0, 0},
		{"refused", routing.Plan{Effect: routing.Deny}, 0, 0, 1, 0},
		{"no tier of the cases", routing.Plan{Effect: routing.Allow, Tiers: []string{"gold"}}, 0, 0, 1, 0},
	} {
		p := must(t, always(c.plan), one).Policy
		if p.CostNanos != c.cost || p.QualityKept != c.kept || p.Refused != c.refused || p.Capped != c.capped {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

// Two tiers are evaluated as a company would route that has no third.
func TestTwoTiers(t *testing.T) {
	const lines = `{"task_class":"chat","input_tokens":0,"output_tokens":{"premium":9},"sufficient":{"economy":true,"premium":true}}
{"task_class":"qa","input_tokens":0,"output_tokens":{"premium":9},"sufficient":{"economy":false,"premium":true}}`
	r := must(t, shipped(t), lines)
	if r.Policy.Mix["economy"] != 0.5 || r.QualityKept != 1 || len(r.Prices) != 2 || len(r.Baselines) != 4 || r.Gap == nil || r.Gap.Recovered != 1 {
		t.Errorf("%+v, gap %+v", r.Policy, r.Gap)
	}
}

func TestNoGap(t *testing.T) {
	const line = `{"task_class":"chat","input_tokens":5,"output_tokens":{"premium":9},"sufficient":{"economy":false,"premium":false}}`
	if r := must(t, shipped(t), line); r.Gap != nil || r.QualityKept != 1 {
		t.Errorf("%+v %+v", r.Gap, r.Policy)
	}
	if r := must(t, shipped(t), `{"task_class":"chat","input_tokens":0,"output_tokens":{"premium":0},"sufficient":{"economy":true,"premium":true}}`); r.CostSaved != 0 {
		t.Errorf("where nothing costs anything %v is saved", r.CostSaved)
	}
	if _, err := run(t, shipped(t), "\n \n"); !errors.Is(err, evaluate.ErrNoCases) {
		t.Errorf("no cases: %v", err)
	}
}

// The gap by hand: economy solves 1 of 3, premium all; a perfect router takes the easy one first.
func TestGap(t *testing.T) {
	const lines = `{"task_class":"classify","input_tokens":0,"output_tokens":{"premium":1000000},"sufficient":{"economy":true,"premium":true}}
{"task_class":"autonomous","input_tokens":0,"output_tokens":{"premium":1000000},"sufficient":{"economy":false,"premium":true}}
{"task_class":"autonomous","input_tokens":0,"output_tokens":{"premium":1000000},"sufficient":{"economy":false,"premium":true}}`
	g := must(t, shipped(t), lines).Gap
	// From 6 (all economy) to 62 (both agents at premium) the whole gap is recovered, of 90.
	want := func(share float64) float64 { return (6 + share*56) / 90 }
	for what, pair := range map[string][2]float64{"50": {g.Cost50, want(0.5)}, "80": {g.Cost80, want(0.8)}, "95": {g.Cost95, want(0.95)},
		"area": {g.Area, 56.0/84/2 + 28.0/84}, "recovered": {g.Recovered, 1}} {
		if math.Abs(pair[0]-pair[1]) > 1e-9 {
			t.Errorf("%s: %v, want %v", what, pair[0], pair[1])
		}
	}
}

func TestBadLines(t *testing.T) {
	good := `{"task_class":"chat","input_tokens":5,"output_tokens":{"economy":1,"premium":9},"sufficient":{"economy":true,"premium":true}}` + "\n"
	change := func(old, new string) string { return good + strings.Replace(good, old, new, 1) }
	for want, lines := range map[string]string{
		"cases:2: it is not a JSON object":                    good + "{",
		"cases:2: input_tokens is missing":                    change(`"input_tokens":5,`, ""),
		"cases:2: input_tokens is -5: it must be 0 to":        change(":5", ":-5"),
		"cases:2: input_tokens has a string: it must be a w":  change(":5", `:"5"`),
		"cases:2: input_tokens has a number 1.5: it must be":  change(":5", ":1.5"),
		"cases:2: output_tokens.premium is 2000000000: it m":  change(":9", ":2000000000"),
		"cases:2: output_tokens is missing: give them by ti":  change(`"economy":1,"premium":9`, ""),
		"cases:2: sufficient is missing: say by tier whethe":  change(`{"economy":true,"premium":true}`, "{}"),
		"cases:2: sufficient has a string: it must be true":   change(`"premium":true`, `"premium":"yes"`),
		`cases:2: the catalog has no tier "gold", it has eco`: change(`"premium":true`, `"gold":true`),
		`cases:2: the catalog has no tier "small", it has ec`: change(`"economy":1`, `"small":1`),
		"cases:2: sufficient labels the tiers [economy], the": change(`,"premium":true`, ""),
		"cases:1: sufficient labels one tier, premium: label": strings.Replace(good, `"economy":true,`, "", 1),
		"cases:2: the line has more than 1048576 bytes":       good + strings.Repeat(" ", evaluate.MaxLine+1) + "\n",
		"cases:2: task_class has a number: it must be a text": change(`"chat"`, "7"),
	} {
		if _, err := run(t, shipped(t), lines); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	failing := func(context.Context, *routing.Input) (*routing.Plan, error) { return nil, errors.New("no decision") }
	if _, err := run(t, failing, good); err == nil || err.Error() != "cases:1: no decision" {
		t.Errorf("a policy that fails: %v", err)
	}
}

func TestTierWithoutPrice(t *testing.T) {
	c, _ := catalog(t)
	book, err := pricing.NewBook(nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := evaluate.New(shipped(t), c, book, now)
	if err != nil {
		t.Fatal(err)
	}
	one := new(evaluate.Case)
	if err := json.Unmarshal([]byte(`{"input_tokens":5,"output_tokens":{"economy":1},"sufficient":{"economy":true,"premium":true}}`), one); err != nil {
		t.Fatal(err)
	}
	if err := e.Add(context.Background(), one); err == nil || !strings.HasPrefix(err.Error(), "tier economy has no model with a price by the token: model") {
		t.Errorf("%v", err)
	}
}

// Long lines and a byte order mark are read; the last line needs no end.
func TestRead(t *testing.T) {
	line := `{"id":"%d","prompt":"` + strings.Repeat("é", 100_000) + `","input_tokens":1,"output_tokens":{"a":1},"sufficient":{"a":true}}`
	text := "\xef\xbb\xbf" + fmt.Sprintf(line, 1) + "\r\n\n" + fmt.Sprintf(line, 2)
	var ids []string
	err := evaluate.Read("x", strings.NewReader(text), func(c *evaluate.Case) error {
		ids = append(ids, c.ID)
		if len(c.Prompt) != 200_000 {
			t.Errorf("the prompt has %d bytes", len(c.Prompt))
		}
		return nil
	})
	if err != nil || fmt.Sprint(ids) != "[1 2]" {
		t.Errorf("%v %v", ids, err)
	}
}

// Tiers by other names are those of the catalog: the figures are the same.
func TestTiersByOtherNames(t *testing.T) {
	want := must(t, shipped(t), four)
	run := func(lines string) (*evaluate.Result, error) {
		c, book := catalog(t)
		e, err := evaluate.New(shipped(t), c, book, now)
		if err != nil {
			t.Fatal(err)
		}
		e.RenameTiers()
		if err := evaluate.Read("cases", strings.NewReader(lines), func(c *evaluate.Case) error { return e.Add(t.Context(), c) }); err != nil {
			return nil, err
		}
		return e.Result()
	}
	got, err := run(strings.NewReplacer("economy", "Small", "standard", "medium", "premium", "large").Replace(four))
	if err != nil || got.CostSaved != want.CostSaved || got.QualityKept != want.QualityKept || got.Policy.Mix["Small"] != want.Policy.Mix["economy"] || len(got.Prices) != 3 {
		t.Errorf("%v: %+v, want %+v", err, got, want.Policy)
	}
	for _, names := range [][2]string{{"gold", "large"}, {"big", "large"}} {
		_, err := run(strings.NewReplacer("economy", names[0], "standard", "medium", "premium", names[1]).Replace(four))
		if err == nil || !strings.Contains(err.Error(), "the catalog has no tier") {
			t.Errorf("%v: %v", names, err)
		}
	}
}
