package policy

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/internal/dataset"
)

// rawTokens decides by a price formula on raw token counts and by arithmetic on utilisation: no two calls are alike to it.
const rawTokens = `decision := {"effect": effect, "tiers": tiers, "reasons": reasons}

# What the call costs on the largest model at most, in nanos.
rates[m.id] := m if some m in input.catalog.models

cost := ((input.request.input_tokens * rates.large.input_nanos_per_mtok) + (input.request.max_output_tokens * rates.large.output_nanos_per_mtok)) / 1000000

# What may be spent on one call: less, the less is left at any level.
left := min([rest | some b in input.budgets; rest := 1 - b.utilization]) * 40000000

pressure := (input.budget.utilization * 0.7) + (cost / 80000000)

default effect := "allow"

effect := "downgrade" if cost > left

tiers := ["economy"] if {
	cost > left
} else := ["standard", "economy"] if {
	pressure > 0.85
} else := ["premium", "standard", "economy"]

reasons contains "The call would take too much of what is left." if cost > left

reasons contains "The budgets are under pressure." if pressure > 0.85
`

// notCompiled is the same by a rule that OPA's planner does not take.
const notCompiled = rawTokens + `
limits.base.tokens := 4000

limits[tier].most := limits.base.tokens * 2 if some tier in input.catalog.tiers

reasons contains "A long prompt." if input.request.input_tokens > limits.premium.most
`

// traceInputs makes a call of every row of the Azure trace, under four levels of budgets that are used up on the way.
func traceInputs(t testing.TB) []*routing.Input {
	t.Helper()
	f, err := os.Open(dataset.File(t, "traces/azure-llm-2023-conv.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var prices []*pricing.Price
	for i, id := range []string{"mini", "base", "large"} {
		rate := money.Nanos([]int64{150_000_000, 2_500_000_000, 5_000_000_000}[i])
		prices = append(prices, pricing.New(id, time.Time{}, "USD", map[pricing.Unit]money.Nanos{pricing.Input: rate, pricing.Output: 4 * rate}))
	}
	book, err := pricing.NewBook(prices)
	if err != nil {
		t.Fatal(err)
	}
	classes := []string{"chat", "rag", "code", "classify", "summarize"}
	base := supportInput(t)
	var list []*routing.Input
	var used int64
	for i, row := range rows[1:] {
		at, err := time.Parse("2006-01-02 15:04:05", row[0])
		input, err2 := strconv.ParseInt(row[1], 10, 64)
		output, err3 := strconv.ParseInt(row[2], 10, 64)
		if err != nil || err2 != nil || err3 != nil {
			t.Fatal(err, err2, err3)
		}
		in, call := *base, *base.Call
		in.Now, in.Call, in.Prices, in.Budgets = at, &call, book, nil
		call.TaskClass, call.Estimate = classes[i%len(classes)], routing.Estimate{InputTokens: input, MaxOutputTokens: output}
		call.User = fmt.Sprint("u-", i%500)
		used += input + 4*output
		for level, share := range []int64{30_000, 36_000, 44_000, 52_000} { // tokens for a permille
			in.Budgets = append(in.Budgets, routing.BudgetState{ID: fmt.Sprint("level-", level), AlertPermille: 800,
				UtilizationPermille: int32(min(used/share, 1010))})
		}
		list = append(list, &in)
	}
	return list
}

// TestBenchPolicies prints what decisions cost over the Azure trace, the fast path beside plain OPA with parsed input in
// the same run. Set CHARTERGATE_POLICY_BENCH.
func TestBenchPolicies(t *testing.T) {
	if os.Getenv("CHARTERGATE_POLICY_BENCH") == "" {
		t.Skip("it takes a minute: make bench-policy")
	}
	list, ctx := traceInputs(t), context.Background()
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "policy\tns/decision\tallocations\tbytes\tplain OPA ns\tallocations\tbytes\ttimes faster\tmemo hits\tplans\tstages\tkept MiB\t")
	for _, c := range []struct {
		name    string
		modules map[string]string
	}{{"shipped", Builtin()}, {"raw tokens", module(rawTokens)}, {"not compiled", module(notCompiled)}} {
		p := compile(t, c.modules)
		for _, s := range p.Slow() {
			fmt.Printf("%s: slow at %s:%d:%d: %s: %s\n", c.name, s.File, s.Line, s.Column, s.Expression, s.Why)
		}
		// The first pass shows the hit rate and what is kept.
		before := heap()
		d := using(p)
		e := inUse(d)
		hits := 0
		for _, in := range list {
			plan, _ := e.memo.get(p.appendKey(nil, in))
			if plan != nil {
				hits++
			}
			if _, err := d.Decide(ctx, in); err != nil {
				t.Fatal(err)
			}
		}
		kept := float64(heap()-before) / (1 << 20)
		fast := testing.Benchmark(func(b *testing.B) {
			d := using(p) // what is remembered has to be earned in the measured time
			b.ReportAllocs()
			for i := range b.N {
				if _, err := d.Decide(ctx, list[i%len(list)]); err != nil {
					b.Fatal(err)
				}
			}
		})
		plain := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				b.StopTimer() // the input is parsed
				input := e.inputs.build(list[i*31%len(list)])
				b.StartTimer()
				if _, err := p.query.Eval(ctx, rego.EvalParsedInput(input)); err != nil {
					b.Fatal(err)
				}
			}
		})
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%.1f%%\t%d\t%d\t%.1f\t\n", c.name, fast.NsPerOp(), fast.AllocsPerOp(), fast.AllocedBytesPerOp(),
			plain.NsPerOp(), plain.AllocsPerOp(), plain.AllocedBytesPerOp(), float64(plain.NsPerOp())/float64(fast.NsPerOp()),
			100*float64(hits)/float64(len(list)), e.memo.size(), e.stages.size(), kept)
		runtime.KeepAlive(d)
	}
	w.Flush()
	fmt.Printf("%d calls of the Azure trace, 4 levels of budgets\n%s", len(list), table.String())
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
