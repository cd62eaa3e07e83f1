package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/replay"
)

// benchTraceRows bounds the rows of a trace that are kept in memory.
const benchTraceRows = 100_000

func newPolicyBenchCommand() *cobra.Command {
	var trace, format, output string
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "bench DIR",
		Short: "Measure what a decision of a policy costs, next to plain OPA",
		Long: `Let a policy decide calls over and over: as a server does, anew for each call, and by OPA alone with a prepared query and
parsed input. The three take turns in one run: read the ratios, machines differ. The calls are of an example company with
three tiers and a path of four budgets that fill up, with the token counts of a trace or, without one, of a made-up mix.`,
		Example: `  chartergate policy bench ./policy
  chartergate policy bench ./policy --trace AzureLLMInferenceTrace_conv.csv --format azure-llm`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			if duration < 10*time.Millisecond || duration > 10*time.Minute {
				return usagef("--duration %v: use 10ms to 10m", duration)
			}
			modules, err := readPolicyDir(args[0])
			if err != nil {
				return err
			}
			p, err := policy.Compile(modules)
			if err != nil {
				return err
			}
			inputs, err := benchInputs(trace, replay.Format(format))
			if err != nil {
				return err
			}
			m, err := p.Measure(cmd.Context(), inputs, duration)
			if err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(measurementJSON(m))
			}
			writeMeasurement(cmd.OutOrStdout(), m)
			return nil
		},
	}
	oneDir(cmd)
	cmd.Flags().StringVar(&trace, "trace", "", "take token counts from this trace, at most "+strconv.Itoa(benchTraceRows)+" rows")
	cmd.Flags().StringVar(&format, "format", string(replay.AzureLLM), "format of the trace, as for replay")
	cmd.Flags().DurationVar(&duration, "duration", 2*time.Second, "how long to measure each way")
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

// benchInputs makes calls of an example company.
func benchInputs(trace string, format replay.Format) ([]*routing.Input, error) {
	if trace == "" {
		return policy.Examples(policy.ExampleMix(20_000)), nil
	}
	f, err := os.Open(trace)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := replay.Read(format, trace, f)
	if err != nil {
		return nil, err
	}
	var calls []*routing.Call
	for row, err := range replay.Limit(rows, benchTraceRows) {
		if err != nil {
			return nil, err
		}
		calls = append(calls, &routing.Call{
			TaskClass: row.TaskClass, Complexity: row.Complexity, Cohort: row.Cohort, User: row.User, Agent: row.Agent, Run: row.Run,
			PromptPattern: row.PromptPattern, Model: row.Model, Tier: row.Tier,
			Estimate: routing.Estimate{InputTokens: row.InputTokens, CachedInputTokens: row.CachedTokens, MaxOutputTokens: row.OutputTokens,
				RetrievalHops: row.RetrievalHops, ToolCalls: row.ToolCalls},
		})
	}
	if len(calls) == 0 {
		return nil, fmt.Errorf("%s has no rows", trace)
	}
	return policy.Examples(calls), nil
}

func writeMeasurement(w io.Writer, m *policy.Measurement) {
	g := newGrid("A DECISION", ">TIME", ">ALLOCATIONS", ">BYTES", ">FASTER THAN OPA")
	for _, r := range []struct {
		name string
		policy.Measured
	}{{"as a server decides", m.Decide}, {"anew for each call", m.Closures}, {"plain OPA", m.Plain}} {
		if r.Nanos == 0 {
			g.add(r.name, "-", "-", "-", "not compiled")
			continue
		}
		g.add(r.name, nanosText(r.Nanos), fmt.Sprintf("%.1f", r.Allocations), fmt.Sprintf("%.0f", r.Bytes), times(m.Plain.Nanos/r.Nanos))
	}
	g.write(w, "")
	fmt.Fprintf(w, "\n%s calls; %.1f%% of them are like an earlier one to this policy; %s remembered.\n", thousands(int64(m.Inputs)), 100*m.Hits,
		countText(m.Plans, "decision is", "decisions are"))
	for _, s := range m.Slow {
		fmt.Fprintf(w, "slow: %s:%d:%d: %s: %s\n", s.File, s.Line, s.Column, visible(s.Expression), s.Why)
	}
}

// times tells how many times faster, and a tenth of it where it is few: 0.7x is slower.
func times(ratio float64) string {
	if ratio < 9.95 {
		return fmt.Sprintf("%.1fx", ratio)
	}
	return fmt.Sprintf("%.0fx", ratio)
}

// nanosText is a time of well under a second.
func nanosText(ns float64) string {
	if ns < 1000 {
		return fmt.Sprintf("%.0f ns", ns)
	}
	return fmt.Sprintf("%.1f µs", ns/1000)
}

func measurementJSON(m *policy.Measurement) any {
	type way struct {
		Nanos       float64 `json:"ns"`
		Allocations float64 `json:"allocations"`
		Bytes       float64 `json:"bytes"`
	}
	of := func(m policy.Measured) *way {
		if m.Nanos == 0 {
			return nil
		}
		return &way{m.Nanos, m.Allocations, m.Bytes}
	}
	return struct {
		Inputs   int     `json:"inputs"`
		Decide   *way    `json:"decide"`
		Closures *way    `json:"anew,omitempty"` // absent where the policy is not compiled
		Plain    *way    `json:"plain_opa"`
		Hits     float64 `json:"hit_rate"`
		Plans    int     `json:"remembered"`
	}{m.Inputs, of(m.Decide), of(m.Closures), of(m.Plain), m.Hits, m.Plans}
}
