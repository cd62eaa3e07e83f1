package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// The workloads are made from these published shapes, not from the data itself.
//
//   - Azure LLM inference traces 2023, conversation and code: Patel et al., "Splitwise: Efficient Generative LLM
//     Inference Using Phase Splitting", ISCA 2024. Data: https://github.com/Azure/AzurePublicDataset, CC BY 4.0.
//     Conversation (19,366 calls, 5.5 a second): context median 1,020, mean 1,155; generated median 129, mean 211; the
//     quantiles below were computed from the data. Code (8,819 calls, 2.6 a second): context median 1,469, mean 2,048;
//     generated median 13, mean 28.
//   - Mooncake, synthetic (long documents) and tool&agent: Qin et al., "Mooncake: Trading More Storage for Less
//     Computation", FAST 2025, table 2. Data: https://github.com/kvcache-ai/Mooncake, Apache-2.0. Synthetic: mean
//     input 15,325 (median 11,587), mean output 149. Tool&agent (6.7 calls a second): mean input 8,596 (median 6,346),
//     mean output 182 (median 30), 59% of the input cached.
//
// A mean m and a median d of positive, right-skewed counts are taken as a log-normal with mu = ln d and
// sigma = sqrt(2 ln(m/d)). Users, cohorts, task classes, runs, tools and outcomes are invented.

// Workload is a made-up trace of one kind of feature.
type Workload struct {
	// Name is the kind, one of Workloads.
	Name string
	rate float64 // calls a second
	next func(g *generator) Row
}

// Workloads are the kinds: conversation, code, extraction, research, and loop, one research run that does not end.
var Workloads = []Workload{
	{"conversation", 5.53, conversation},
	{"code", 2.57, code},
	{"extraction", 0.5, extraction},
	{"research", 6.67, research},
	{"loop", 6.67, loop},
}

// Generate makes calls of a kind, without end: the same seed gives the same rows. Calls come at random times (Poisson).
func Generate(kind string, seed uint64) (Rows, error) {
	i := slices.IndexFunc(Workloads, func(w Workload) bool { return w.Name == kind })
	if i < 0 {
		return nil, fmt.Errorf("unknown workload %q", kind)
	}
	return Workloads[i].generate(seed), nil
}

func (w Workload) generate(seed uint64) Rows {
	return func(yield func(Row, error) bool) {
		g := generator{rand: rand.New(rand.NewPCG(seed, uint64(len(w.Name))))}
		var at float64
		for {
			row := w.next(&g)
			row.At = time.Duration(at * float64(time.Second))
			at += g.rand.ExpFloat64() / w.rate
			if !yield(row, nil) {
				return
			}
		}
	}
}

type generator struct {
	rand *rand.Rand
	run  runState
}

// quantiles is a distribution by points of its inverse: share of rows, and the count that this share does not exceed.
type quantiles []struct{ share, count float64 }

var (
	conversationContext = quantiles{
		{0, 2}, {.01, 29}, {.05, 181}, {.1, 207}, {.25, 396}, {.5, 1020}, {.75, 1189}, {.9, 2735}, {.95, 4083}, {.99, 4142}, {1, 14050},
	}
	conversationGenerated = quantiles{
		{0, 7}, {.01, 16}, {.05, 41}, {.1, 54}, {.25, 85}, {.5, 129}, {.75, 395}, {.9, 424}, {.95, 451}, {.99, 601}, {1, 1000},
	}
)

func (g *generator) quantile(q quantiles) int64 {
	u := g.rand.Float64()
	i := 1
	for q[i].share < u {
		i++
	}
	lo, hi := q[i-1], q[i]
	part := (u - lo.share) / (hi.share - lo.share)
	return int64(math.Round(lo.count * math.Pow(hi.count/lo.count, part)))
}

// logNormal draws from the log-normal of a median and a mean, 1 to most.
func (g *generator) logNormal(median, mean float64, most int64) int64 {
	sigma := math.Sqrt(2 * math.Log(mean/median))
	return min(most, max(1, int64(math.Round(median*math.Exp(sigma*g.rand.NormFloat64())))))
}

// outcome succeeds in this share of a hundred.
func (g *generator) outcome(percent int) Outcome {
	if g.rand.IntN(100) < percent {
		return OutcomeSuccess
	}
	return OutcomeFailure
}

func pick[T any](g *generator, from ...T) T { return from[g.rand.IntN(len(from))] }

func (g *generator) user(of int) string { return fmt.Sprintf("u-%04d", g.rand.IntN(of)) }

func conversation(g *generator) Row {
	r := Row{
		InputTokens: g.quantile(conversationContext), OutputTokens: g.quantile(conversationGenerated),
		TaskClass: "chat", Complexity: int32(10 + g.rand.IntN(40)), Cohort: pick(g, "free", "free", "free", "pro", "enterprise"),
		User: g.user(2000), PromptPattern: pick(g, "support-answer-v3", "support-triage-v1"), Outcome: g.outcome(92),
	}
	switch n := g.rand.IntN(100); {
	case n < 20:
		r.TaskClass = "summarize"
	case n < 30:
		r.TaskClass, r.Complexity = "reasoning", int32(60+g.rand.IntN(40))
	}
	return r
}

func code(g *generator) Row {
	return Row{
		InputTokens: g.logNormal(1469, 2048, 7_500), OutputTokens: g.logNormal(13, 28, 2_000),
		TaskClass: "code", Complexity: int32(30 + g.rand.IntN(60)), Cohort: pick(g, "platform", "payments", "mobile"),
		User: g.user(300), PromptPattern: pick(g, "complete-v5", "complete-v5", "review-v2"), Outcome: g.outcome(85),
	}
}

// extraction reads a long document and answers shortly. Only the output's mean is published: its spread is that of the
// conversation trace, whose logarithm has a standard deviation of 0.86.
func extraction(g *generator) Row {
	return Row{
		InputTokens: g.logNormal(11_587, 15_325, 66_000), OutputTokens: g.logNormal(103, 149, 2_000),
		TaskClass: "extract", Complexity: int32(20 + g.rand.IntN(30)), Cohort: pick(g, "legal", "procurement"),
		User: g.user(80), PromptPattern: "extract-clauses-v2", Outcome: g.outcome(96),
	}
}

// runState is the agent run that research is in.
type runState struct {
	number, left int
	user         string
	context      int64 // tokens that the run has sent before
}

// research makes runs of 2 to 6 calls. Within a run each prompt repeats the one before, from the cache, and adds to it;
// half of the calls search the web.
func research(g *generator) Row {
	s := &g.run
	if s.left == 0 {
		// This many calls, with the new tokens of each below, come near to the published mean input and cached share.
		*s = runState{number: s.number + 1, left: 2 + g.rand.IntN(5), user: g.user(40)}
	}
	r := Row{
		CachedTokens: s.context, OutputTokens: g.logNormal(30, 182, 8_000),
		TaskClass: "research", Complexity: int32(50 + g.rand.IntN(50)), Cohort: "analysts",
		User: s.user, Agent: "researcher", Run: fmt.Sprintf("run-%05d", s.number), PromptPattern: "research-step-v1",
	}
	r.InputTokens = s.context + g.logNormal(2_000, 3_125, 20_000)
	if g.rand.IntN(2) == 0 {
		r.ToolCalls = map[string]int64{"web_search": int64(1 + g.rand.IntN(3))}
	}
	s.context = r.InputTokens
	if s.left--; s.left == 0 {
		r.Outcome = g.outcome(80)
	}
	return r
}

// loop is an agent that goes round in circles: one run whose prompts grow to 100,000 tokens.
func loop(g *generator) Row {
	if g.run.number == 0 {
		g.run = runState{number: 1, left: math.MaxInt, user: g.user(40)}
	}
	r := research(g)
	r.Run = "run-loop"
	g.run.context = min(g.run.context, 100_000)
	return r
}
