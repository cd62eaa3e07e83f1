package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

// regoText writes random policies. What it writes mostly compiles.
type regoText struct {
	*rapid.T
	b         strings.Builder
	rules     []string // without arguments, that later ones may use
	functions []string // of two arguments
	vars      []string // bound in the body that is being written
	single    bool     // no statement is to hold more than once: such a rule has one value
	n         int
}

func (g *regoText) pick(of ...string) string { return rapid.SampledFrom(of).Draw(g.T, "") }
func (g *regoText) chance(percent int) bool  { return rapid.IntRange(0, 99).Draw(g.T, "") < percent }
func (g *regoText) upTo(n int) int           { return rapid.IntRange(0, n).Draw(g.T, "") }

func (g *regoText) name(prefix string) string {
	g.n++
	return prefix + strconv.Itoa(g.n)
}

// number is an expression of a number, mostly.
func (g *regoText) number(depth int) string {
	leaves := []string{"input.request.input_tokens", "input.request.max_output_tokens", "input.request.complexity",
		"input.budget.utilization", "input.budget.alert", "input.time.hour", "input.request.tool_calls.search", "input.budgets[0].utilization",
		"input.budgets[1].alert", "input.request.cached_input_tokens", "input.catalog.models[0].input_nanos_per_mtok", "input.time.unix",
		"0", "1", "2", "3", "7", "0.5", "0.1", "2.50", "1e3", "1.0", "-3", "2147483648", "9223372036854775807", "123456789012345678901234567890", "0.333333333333333333333333"}
	if depth == 0 {
		if len(g.vars) > 0 && g.chance(25) {
			return "untyped(" + g.pick(g.vars...) + ")"
		}
		if len(g.rules) > 0 && g.chance(15) {
			return "untyped(" + g.pick(g.rules...) + ")"
		}
		return g.pick(leaves...)
	}
	switch g.upTo(7) {
	case 0:
		return fmt.Sprintf("count(%s)", g.collection(depth-1))
	case 1:
		return fmt.Sprintf("%s([%s, %s])", g.pick("min", "max", "sum", "product"), g.number(depth-1), g.number(depth-1))
	case 2:
		return fmt.Sprintf("%s(%s)", g.pick("floor", "ceil", "round", "abs"), g.number(depth-1))
	case 3:
		return fmt.Sprintf("object.get(%s, %s, %s)", g.pick("input.request.labels", "input.request.tool_calls", "input.request", "input.able.models"),
			g.pick(`"region"`, `"search"`, `"input_tokens"`, "input.request.tier"), g.number(0))
	case 4:
		if len(g.functions) > 0 {
			return fmt.Sprintf("untyped(%s(%s, %s))", g.pick(g.functions...), g.any(depth-1), g.any(depth-1))
		}
		fallthrough
	default:
		return fmt.Sprintf("(%s %s %s)", g.number(depth-1), g.pick("+", "-", "*", "/", "%"), g.number(depth-1))
	}
}

func (g *regoText) text(depth int) string {
	if depth == 0 {
		return g.pick("input.request.tier", "input.request.task_class", "input.request.user", "input.request.cohort", "input.charter.team",
			"input.charter.exhausted.mode", "input.request.labels.region", "input.time.weekday", "input.budgets[1].id", "input.budget.id", `""`, `"economy"`, `"eu"`, `"a b"`)
	}
	switch g.upTo(4) {
	case 0:
		return fmt.Sprintf(`sprintf("%%v-%%d", [%s, %s])`, g.any(depth-1), g.number(depth-1))
	case 1:
		return fmt.Sprintf("concat(%s, [%s, %s])", g.text(0), g.text(depth-1), g.text(depth-1))
	case 2:
		return fmt.Sprintf("%s(%s)", g.pick("upper", "lower", "trim_space", "json.marshal"), g.text(depth-1))
	case 3:
		return fmt.Sprintf("substring(%s, %s, 2)", g.text(depth-1), g.pick("0", "1"))
	}
	return fmt.Sprintf("replace(%s, %s, %s)", g.text(depth-1), g.text(0), g.text(0))
}

func (g *regoText) collection(depth int) string {
	if depth <= 0 {
		return g.pick("input.budgets", "input.request.labels", "input.request.tool_calls", "input.request.required_capabilities", "input.catalog.tiers",
			"input.able.tiers", "input.able.models", "input.charter.permitted_models", "input.catalog.models", "[]", "set()", "{}", `{"a", "economy"}`, `[1, 2.5, "x"]`, `{"region": 1, "k": [2]}`)
	}
	switch g.upTo(8) {
	case 0:
		return fmt.Sprintf("[%s, %s]", g.any(depth-1), g.any(depth-1))
	case 1:
		return fmt.Sprintf("{%s, %s}", g.any(depth-1), g.any(depth-1))
	case 2:
		return fmt.Sprintf("{%s: %s, %s: %s}", g.text(0), g.any(depth-1), g.text(0), g.any(depth-1))
	case 3, 4, 5:
		saved := g.vars
		x, y := g.name("v"), g.name("v")
		in := g.collection(depth - 1)
		g.vars = append(append([]string{}, saved...), x)
		filter := ""
		if g.chance(50) {
			filter = "; " + g.test(depth-1)
		}
		var text string
		switch g.upTo(2) {
		case 0:
			text = fmt.Sprintf("[%s | some %s in %s%s]", g.any(depth-1), x, in, filter)
		case 1:
			text = fmt.Sprintf("{%s | some %s in %s%s}", g.any(depth-1), x, in, filter)
		default:
			text = fmt.Sprintf("{%s: %s | some %s, %s in %s%s}", y, g.any(depth-1), y, x, in, filter)
		}
		g.vars = saved
		return text
	case 6:
		return fmt.Sprintf("array.%s", g.pick(fmt.Sprintf("slice(untyped(%s), %d, %d)", g.collection(0), g.upTo(3)-1, g.upTo(4)-1),
			fmt.Sprintf("reverse(untyped(%s))", g.collection(depth-1)), fmt.Sprintf("concat(untyped(%s), untyped(%s))", g.collection(depth-1), g.collection(0))))
	case 7:
		return fmt.Sprintf("object.%s(untyped(%s), untyped(%s))", g.pick("union", "remove", "filter"), g.collection(0), g.collection(depth-1))
	}
	return g.pick("split("+g.text(0)+`, "e")`, "sort(untyped("+g.collection(depth-1)+"))")
}

func (g *regoText) any(depth int) string {
	depth = max(depth, 0)
	if depth == 0 && g.chance(10) {
		return g.pick("true", "false", "null", "input.budget", "input.charter.stage", "input.request.labels", "input.able")
	}
	switch g.upTo(5) {
	case 0, 1:
		return g.number(depth)
	case 2:
		return g.text(depth)
	case 3:
		if len(g.vars) > 0 {
			return g.pick(g.vars...)
		}
		return g.text(depth)
	case 4:
		if len(g.rules) > 0 {
			return g.pick(g.rules...)
		}
		return g.number(depth)
	}
	return g.collection(depth - 1)
}

// test is an expression that holds or not.
func (g *regoText) test(depth int) string {
	depth = max(depth, 0)
	not := ""
	if g.chance(15) {
		not = "not "
	}
	switch g.upTo(7) {
	case 0, 1, 2:
		return not + fmt.Sprintf("%s %s %s", g.number(depth), g.pick(">", ">=", "<", "<=", "==", "!="), g.number(0))
	case 3:
		return not + fmt.Sprintf("untyped(%s) %s %s", g.any(0), g.pick("==", "=", "!="), g.any(depth))
	case 4:
		return not + fmt.Sprintf("%s in %s", g.any(0), g.collection(depth))
	case 5:
		return not + g.pick("input.budget.over_alert", "input.budgets[_].exhausted", "input.budgets[1].over_alert", `startswith(input.request.tier, "e")`)
	case 6:
		if len(g.rules) > 0 {
			return not + g.pick(g.rules...)
		}
	}
	saved := g.vars
	x := g.name("v")
	in := g.collection(depth)
	g.vars = append(append([]string{}, saved...), x)
	text := fmt.Sprintf("every %s in %s { untyped(%s) %s %s }", x, in, x, g.pick("!=", "<", "in"), g.collection(depth))
	g.vars = saved
	return text
}

// body is some statements; vars has what they bind.
func (g *regoText) body() string {
	lines := []string{}
	for range 1 + g.upTo(3) {
		kind := g.upTo(6)
		if g.single && (kind == 1 || kind == 2) {
			kind = 0
		}
		switch kind {
		case 0:
			x := g.name("x")
			lines = append(lines, fmt.Sprintf("%s := %s", x, g.any(2)))
			g.vars = append(g.vars, x)
		case 1:
			x, in := g.name("x"), g.collection(1)
			lines = append(lines, fmt.Sprintf("some %s in %s", x, in))
			g.vars = append(g.vars, x)
		case 2:
			x, i := g.name("x"), g.name("i")
			lines = append(lines, fmt.Sprintf("some %s\n\t%s := input.budgets[%s].%s", i, x, i, g.pick("utilization", "over_alert", "id")))
			g.vars = append(g.vars, x, i)
		case 3:
			x, y := g.name("x"), g.name("y")
			lines = append(lines, fmt.Sprintf("[%s, %s] := [%s, %s]", x, y, g.any(1), g.any(1)))
			g.vars = append(g.vars, x, y)
		case 4:
			if len(g.rules) == 0 {
				continue
			}
			x := g.name("x")
			with := fmt.Sprintf("with input.%s as %s", g.pick("request.input_tokens", "request", "request.labels.region", "budgets", "budget.utilization", "charter"), g.any(1))
			if g.chance(30) {
				with += fmt.Sprintf(" with data.chartergate.routing.%s as %s", g.pick(g.rules...), g.any(0))
			}
			lines = append(lines, fmt.Sprintf("%s := %s %s", x, g.pick(g.rules...), with))
			g.vars = append(g.vars, x)
		default:
			lines = append(lines, g.test(1))
		}
	}
	if len(lines) == 0 {
		lines = []string{"true"}
	}
	return "{\n\t" + strings.Join(lines, "\n\t") + "\n}"
}

func (g *regoText) inBody(write func(body string) string) string {
	saved := g.vars
	text := write(g.body())
	g.vars = saved
	return text
}

// head is a value that takes all that a body bound, so that no variable is unused.
func (g *regoText) head() string {
	if len(g.vars) == 0 {
		return g.pick("1", "true", `"yes"`, g.number(1))
	}
	return "[" + strings.Join(g.vars, ", ") + "]"
}

func (g *regoText) rule() {
	name, kind := g.name("r"), g.upTo(8)
	g.single = kind != 5 && kind != 6 && g.chance(90)
	again := 0
	if g.chance(15) {
		again = 1
	}
	switch kind {
	case 0:
		fmt.Fprintf(&g.b, "%s := %s\n\n", name, g.any(3))
	case 1, 2:
		if g.chance(40) {
			fmt.Fprintf(&g.b, "default %s := %s\n\n", name, g.pick("0", `"none"`, "false", "[]"))
		}
		for range 1 + again {
			g.b.WriteString(g.inBody(func(body string) string { return fmt.Sprintf("%s := %s if %s\n\n", name, g.head(), body) }))
		}
	case 3, 4:
		g.b.WriteString(g.inBody(func(body string) string { return fmt.Sprintf("%s := %s if %s", name, g.head(), body) }))
		for range 1 + g.upTo(1) {
			g.b.WriteString(g.inBody(func(body string) string { return fmt.Sprintf(" else := %s if %s", g.head(), body) }))
		}
		g.b.WriteString("\n\n")
	case 5:
		for range 1 + g.upTo(1) {
			g.b.WriteString(g.inBody(func(body string) string { return fmt.Sprintf("%s contains %s if %s\n\n", name, g.head(), body) }))
		}
	case 6:
		for range 1 + g.upTo(1) {
			g.b.WriteString(g.inBody(func(body string) string {
				key := "[" + g.text(0) + "]"
				if g.chance(40) {
					key += "[" + g.text(0) + "]"
				}
				if g.chance(20) {
					return fmt.Sprintf("%s%s contains %s if %s\n\n", name, key, g.head(), body)
				}
				return fmt.Sprintf("%s%s := %s if %s\n\n", name, key, g.head(), body)
			}))
		}
	default:
		for range 1 + again {
			g.vars = []string{"p", "q"}
			args := g.pick("p, q", "p, q", "p, q", `"eu", q`)
			if args[0] == '"' {
				g.vars = []string{"q"}
			}
			g.b.WriteString(g.inBody(func(body string) string { return fmt.Sprintf("%s(%s) := %s if %s\n\n", name, args, g.head(), body) }))
			g.vars = nil
		}
		g.functions = append(g.functions, name)
		return
	}
	g.rules = append(g.rules, name)
}

func drawPolicy(r *rapid.T) map[string]string {
	g := &regoText{T: r}
	for range 2 + g.upTo(5) {
		g.rule()
	}
	for i, name := range g.rules {
		fmt.Fprintf(&g.b, "out contains [%d, %s]\n\n", i, name)
	}
	g.b.WriteString("decision := {\"effect\": \"deny\", \"reasons\": [crypto.sha256(json.marshal(out))]}")
	g.b.WriteString("\n\n# The compiler does not know what this gives.\nuntyped(x) := object.get({}, \"k\", x)")
	return module(g.b.String())
}

// fuzzCase is a policy and questions for it; each differs from the one before it in one thing.
type fuzzCase struct {
	modules map[string]string
	inputs  []*routing.Input
}

func drawCase(catalog *charter.Catalog, prices *pricing.Book) *rapid.Generator[fuzzCase] {
	return rapid.Custom(func(r *rapid.T) fuzzCase {
		c := fuzzCase{modules: drawPolicy(r)}
		for range 3 {
			in := drawInput(r, catalog, prices)
			c.inputs = append(c.inputs, in)
			for range 4 {
				in = twin(in)
				changes[leaf(rapid.IntRange(0, int(leafCount)-1).Draw(r, "changed"))](in)
				c.inputs = append(c.inputs, in)
			}
			next := twin(in)
			next.Epoch += 10
			next.Charter = &charter.Charter{ID: in.Charter.ID, Team: fmt.Sprint("team-", next.Epoch), Stage: charter.StagePilot}
			c.inputs = append(c.inputs, next, in)
		}
		return c
	})
}

// twin is an input that can be changed without changing the other.
func twin(in *routing.Input) *routing.Input {
	other, call := *in, *in.Call
	other.Call, other.Budgets = &call, append([]routing.BudgetState(nil), in.Budgets...)
	return &other
}

// narrow says which rule of a case differs, and how.
func narrow(c *fuzzCase, in *routing.Input) string {
	before, _, _ := strings.Cut(c.modules["routing.rego"], "decision := ")
	var report strings.Builder
	for _, line := range strings.Split(before, "\n") {
		_, rule, ok := strings.Cut(line, "out contains [")
		if !ok {
			continue
		}
		_, rule, _ = strings.Cut(strings.TrimSuffix(rule, "]"), ", ")
		text := before + `decision := {"effect": "deny", "reasons": [substring(json.marshal([` + rule + "]), 0, 200)]}\n\nuntyped(x) := object.get({}, \"k\", x)"
		p, err := Compile(map[string]string{"routing.rego": text})
		if err != nil {
			continue
		}
		got, err := inUse(using(p)).run(context.Background(), in)
		want, wantErr := plain(p, in)
		if fmt.Sprint(got, err) != fmt.Sprint(want, wantErr) {
			fmt.Fprintf(&report, "\n%s: %+v %v\nplain: %+v %v", rule, got, err, want, wantErr)
		}
	}
	return report.String()
}

type fuzzCount struct{ tried, policies, compiled, inputs, decided, failing, slow int }

// fuzzOne compares the fast path with plain OPA on one case; it returns what differs, or "".
func fuzzOne(c *fuzzCase, count *fuzzCount) string {
	count.tried++
	p, err := Compile(c.modules)
	if err != nil {
		return ""
	}
	count.policies++
	if p.program != nil {
		count.compiled++
	}
	d := using(p)
	e := inUse(d)
	for i, in := range c.inputs {
		count.inputs++
		if diff := compare(d, in); diff != "" {
			return fmt.Sprintf("input %d, %+v %+v: %s%s", i, in, in.Call, diff, narrow(c, in))
		}
		if p.program == nil {
			continue
		}
		plan, err := e.run(context.Background(), in) // what the memo has may hide what the closures say
		want, wantErr := plain(p, in)
		switch {
		case err != nil && (wantErr != nil || errors.Is(err, errUndefined)):
			count.failing++
		case err != nil:
			count.slow++
		case wantErr != nil:
			return fmt.Sprintf("input %d, %+v %+v: the closures decide %+v, plain %v", i, in, in.Call, plan, wantErr)
		default:
			count.decided++
			if want.Revision = plan.Revision; !reflect.DeepEqual(plan, want) {
				return fmt.Sprintf("input %d, %+v %+v: the closures decide %+v, plain %+v%s", i, in, in.Call, plan, want, narrow(c, in))
			}
		}
	}
	return ""
}

// TestFuzz decides generated policies on generated inputs by memo and closures, and by plain OPA. CHARTERGATE_POLICY_FUZZ
// is how many policies; a seed that is told comes back with CHARTERGATE_POLICY_FUZZ_FROM.
func TestFuzz(t *testing.T) {
	n, from := 60, 1
	if text := os.Getenv("CHARTERGATE_POLICY_FUZZ"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	if text := os.Getenv("CHARTERGATE_POLICY_FUZZ_FROM"); text != "" {
		from, _ = strconv.Atoi(text)
	}
	gen := drawCase(testCatalog(t), testPrices(t))
	var count fuzzCount
	for seed := from; count.tried < n; seed++ {
		c := gen.Example(seed)
		if diff := fuzzOne(&c, &count); diff != "" {
			t.Fatalf("seed %d:\n%s\n%s", seed, c.modules["routing.rego"], diff)
		}
	}
	t.Logf("%d policies of %d compile, %d of them to closures; %d inputs: the closures decided %d, OPA's error %d, left to OPA %d; no difference",
		count.policies, count.tried, count.compiled, count.inputs, count.decided, count.failing, count.slow)
}
