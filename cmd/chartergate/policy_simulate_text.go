package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	shownDifferences = 15
	shownExamples    = 5
	shownBudgetRows  = 30
	// sameChoice is a decision that differs in what a caller may send and write, or should cache.
	sameChoice = "the same, with other limits or advice"
)

// writeSimulation tells what a candidate would have decided.
func writeSimulation(w io.Writer, s *pb.PolicySimulation) {
	elapsed := s.GetElapsed().AsDuration()
	fmt.Fprintf(w, "%s decisions replayed in %.2f s", thousands(s.GetDecisions()), elapsed.Seconds())
	if n := s.GetDecisions(); n > 0 {
		fmt.Fprintf(w, " (%.1f s a million)", elapsed.Seconds()*1e6/float64(n))
	}
	fmt.Fprintf(w, ": %s would be others (%s).\n", thousands(s.GetChanged()), percent(s.GetChanged(), s.GetDecisions()))
	if s.GetFailed() > 0 {
		fmt.Fprintf(w, "The candidate gave no decision for %s; the first: %s\n", thousands(s.GetFailed()), visible(s.GetFirstFailure()))
	}
	if s.GetSkipped() > 0 {
		fmt.Fprintf(w, "%s were not replayed; the first: %s\n", thousands(s.GetSkipped()), visible(s.GetFirstSkip()))
	}
	if s.GetDecisions() == 0 {
		if s.GetSkipped() == 0 {
			fmt.Fprintln(w, "Nothing was there to replay: --last, or --from and --to, say the time; `serve --sample-decisions`, how many allowed calls are kept.")
		}
		return
	}
	effects := newGrid("EFFECT", ">DECIDED", ">CANDIDATE", ">DIFFERENCE")
	for _, e := range s.GetEffects() {
		effects.add(short(e.GetEffect(), "EFFECT_"), thousands(e.GetCalls()), thousands(e.GetCandidateCalls()), signed(e.GetCandidateCalls()-e.GetCalls()))
	}
	fmt.Fprintln(w)
	effects.write(w, "")
	tiers := newGrid("TIER", ">CALLS", ">CANDIDATE", ">COST", ">CANDIDATE", ">DIFFERENCE", ">", "")
	for _, t := range s.GetTiers() {
		for _, currency := range currencies(t.GetCostNanos(), t.GetCandidateCostNanos()) {
			tiers.add(append([]string{t.GetTier(), thousands(t.GetCalls()), thousands(t.GetCandidateCalls())},
				moneyCells(t.GetCostNanos()[currency], t.GetCandidateCostNanos()[currency], currency)...)...)
		}
	}
	fmt.Fprintln(w)
	tiers.write(w, "")
	writeSpend(w, "FEATURE", "charters/", s.GetFeatures())
	writeSpend(w, "BUDGET", "budgets/", s.GetBudgets())
	writeExhausted(w, s.GetBudgets())
	fmt.Fprintln(w)
	writeDifferences(w, s.GetDifferences())
}

// moneyCells are cost, candidate's cost, difference, difference in percent and currency.
func moneyCells(from, to int64, currency string) []string {
	return []string{amount(from), amount(to), signedAmount(to - from), percentChange(from, to), currency}
}

func writeSpend(w io.Writer, title, prefix string, list []*pb.SimulatedSpend) {
	g := newGrid(title, ">CALLS", ">RAN", ">CANDIDATE", ">COST", ">CANDIDATE", ">DIFFERENCE", ">", "")
	hidden := 0
	for _, s := range list {
		if len(g.rows) > shownBudgetRows {
			hidden++
			continue
		}
		g.add(append([]string{strings.TrimPrefix(s.GetName(), prefix), thousands(s.GetCalls()), thousands(s.GetRan()), thousands(s.GetCandidateRan())},
			moneyCells(s.GetCostNanos(), s.GetCandidateCostNanos(), s.GetCurrency())...)...)
	}
	fmt.Fprintln(w)
	g.write(w, "")
	if hidden > 0 {
		fmt.Fprintf(w, "and %d more: -o json has all\n", hidden)
	}
}

func writeExhausted(w io.Writer, list []*pb.SimulatedSpend) {
	g := newGrid("RUNS OUT", ">CEILING", "DECIDED", "CANDIDATE")
	for _, s := range list {
		if s.GetExhaustedTime() == nil && s.GetCandidateExhaustedTime() == nil {
			continue
		}
		ceiling := "" // of many keys
		if s.GetCeilingNanos() > 0 {
			ceiling = amount(s.GetCeilingNanos()) + " " + s.GetCurrency()
		}
		g.add(strings.TrimPrefix(s.GetName(), "budgets/"), ceiling, when(s.GetExhaustedTime()), when(s.GetCandidateExhaustedTime()))
		if len(g.rows) > shownBudgetRows {
			break
		}
	}
	fmt.Fprintln(w)
	if len(g.rows) == 1 {
		fmt.Fprintln(w, "No budget runs out.")
		return
	}
	g.write(w, "")
}

func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return timeText(t)
}

// writeDifferences tells from what to what, and examples.
func writeDifferences(w io.Writer, list []*pb.PolicyDifference) {
	if len(list) == 0 {
		fmt.Fprintln(w, "No decision would be another.")
		return
	}
	g := newGrid(">CALLS", "DECIDED", "CANDIDATE", ">COST", ">CANDIDATE", ">DIFFERENCE", ">", "")
	for _, d := range list[:min(len(list), shownDifferences)] {
		from, to := choiceText(d.GetFromEffect(), d.GetFromTier(), d.GetFromModel()), choiceText(d.GetToEffect(), d.GetToTier(), d.GetToModel())
		if from == to {
			to = sameChoice
		}
		for i, currency := range currencies(d.GetFromCostNanos(), d.GetToCostNanos()) {
			calls := thousands(d.GetCalls())
			if i > 0 {
				calls, from, to = "", "", ""
			}
			g.add(append([]string{calls, from, to}, moneyCells(d.GetFromCostNanos()[currency], d.GetToCostNanos()[currency], currency)...)...)
		}
	}
	g.write(w, "")
	if more := len(list) - shownDifferences; more > 0 {
		fmt.Fprintf(w, "and %d kinds more: -o json has them\n", more)
	}
	fmt.Fprintln(w, "\nExamples:")
	for _, d := range list[:min(len(list), shownExamples)] {
		for _, e := range d.GetExamples()[:min(1, len(d.GetExamples()))] {
			c := e.GetCall()
			from, to := choiceText(d.GetFromEffect(), d.GetFromTier(), d.GetFromModel()), choiceText(d.GetToEffect(), d.GetToTier(), d.GetToModel())
			if from == to {
				to = sameChoice
			}
			fmt.Fprintf(w, "  %s %s, %s in, %s out at most: %s, would be %s\n", timeText(e.GetTime()), visible(described(c)),
				thousands(c.GetEstimate().GetInputTokens()), thousands(c.GetEstimate().GetMaxOutputTokens()), from, to)
			for _, r := range e.GetToReasons() {
				fmt.Fprintln(w, "    candidate: "+visible(r))
			}
		}
	}
}

func described(c *pb.Call) string {
	parts := []string{c.GetFeature()}
	if c.GetTaskClass() != "" {
		parts = append(parts, c.GetTaskClass())
	}
	if c.GetComplexity() > 0 {
		parts = append(parts, fmt.Sprintf("complexity %d", c.GetComplexity()))
	}
	return strings.Join(parts, " ")
}

func choiceText(effect pb.Effect, tier, model string) string {
	text := short(effect, "EFFECT_")
	if model != "" {
		text += " " + tier + " " + model
	}
	return text
}

// currencies are those of two sums; an empty one where neither has any.
func currencies(a, b map[string]int64) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]int64{}
	}
	maps.Copy(all, b)
	if len(all) == 0 {
		return []string{""}
	}
	return slices.Sorted(maps.Keys(all))
}

func signed(n int64) string {
	if n > 0 {
		return "+" + thousands(n)
	}
	return thousands(n)
}

func signedAmount(nanos int64) string {
	if nanos > 0 {
		return "+" + amount(nanos)
	}
	return amount(nanos)
}

// percentChange is a difference in percent of what was, to a tenth.
func percentChange(from, to int64) string {
	if from == 0 {
		return ""
	}
	return fmt.Sprintf("%+.1f%%", 100*(float64(to)/float64(from)-1))
}
