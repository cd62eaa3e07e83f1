package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

const compareRounds = 9

const processCPU = "process_cpu_seconds_total"

// comparison is of two servers that differ in one thing: the first has it, the second does not.
type comparison struct {
	calls         string // what is counted
	with, without string
	flags         [2][]string
	prepare       func(ctx context.Context, c caller, with bool) error
	call          func(caller) call
}

// usageComparison is what it costs to count settlements.
var usageComparison = comparison{
	calls: "PAIRS", with: "COUNTED", without: "NOT COUNTED",
	flags:   [2][]string{nil, {"--" + uncountedFlag}},
	prepare: func(context.Context, caller, bool) error { return nil },
	call:    func(c caller) call { return reserveAndSettle(unary(c.session.Reserve), unary(c.session.Settle)) },
}

// policyComparison is what policies cost: the shipped set for the organisation with one of the team and one of the feature,
// next to the least that a server can be given, a policy that is a constant.
var policyComparison = comparison{
	calls: "RESERVES", with: "FULL POLICY SET", without: "CONSTANT",
	prepare: attachBenchPolicies,
	call: func(c caller) call {
		classes := []string{"chat", "rag", "code", "classify", "summarize"}
		return func(ctx context.Context, n int64, _ *replay.Latencies) error {
			m := benchCall("charter-0")
			m.TaskClass, m.Complexity, m.User = classes[n%int64(len(classes))], 0, fmt.Sprint("u-", n%500)
			m.Estimate.InputTokens = 200 + n*7919%9000
			_, err := benchReserve(ctx, c.client.Preflight.Reserve, m, time.Second)
			return err
		}
	},
}

const benchConstant = `package chartergate.routing

decision := {"effect": "allow", "tiers": ["economy", "standard"]}
`

const benchTeam = `package chartergate.routing

import data.chartergate.lib.budgets

default decision := {"effect": "allow", "max_output_tokens": 8000}

decision := {"effect": "downgrade", "tiers": ["economy"], "reasons": ["A budget is over half."]} if budgets.over(input.budgets, 0.5)
`

const benchOfFeature = `package chartergate.routing

default decision := {"effect": "allow", "tiers": ["standard", "economy"]}

decision := {"effect": "allow", "tiers": ["economy"]} if input.request.cohort == "free"
`

func attachBenchPolicies(ctx context.Context, c caller, with bool) error {
	modules := map[string]map[string]string{"routing": {"routing.rego": benchConstant}}
	if with {
		shipped := maps.Clone(policy.Builtin())
		shipped[policy.DataFile] = `{"config": {
			"agent_runs": {"enabled": true, "max_tool_calls": 50, "wind_down_at": 0.9},
			"business_hours": {"zone": "Europe/Zurich", "outside": "downgrade", "stages": ["experiment"]},
			"context": {"max_output_tokens": 16000, "trim_to_tokens": 32000}}}`
		modules = map[string]map[string]string{"routing": shipped, "team.team-0": {"routing.rego": benchTeam}, "feature.charter-0": {"routing.rego": benchOfFeature}}
	}
	var resources []*pb.Resource
	for id, files := range modules {
		resources = append(resources, &pb.Resource{Resource: &pb.Resource_Policy{Policy: &pb.Policy{Name: policyPrefix + id, Modules: files}}})
	}
	if _, err := c.client.Manifests.Apply(ctx, &pb.ApplyRequest{Resources: resources}); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; { // until all of them decide
		d, err := c.client.Preflight.Check(ctx, &pb.CheckRequest{Call: benchCall("charter-0")})
		if err != nil {
			return err
		}
		decides := strings.Count(d.GetDecision().GetPolicyRevision(), "/revisions/")
		if decides == len(modules) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d policies decide, want %d: %s", decides, len(modules), d.GetDecision().GetPolicyRevision())
		}
	}
}

// compareRow is how many calls each of the two servers answers.
type compareRow struct {
	InFlight    int     `json:"in_flight"`
	With        float64 `json:"with_per_second"`    // median of the rounds
	Without     float64 `json:"without_per_second"` // median of the rounds
	Empty       float64 `json:"empty_per_second"`   // an empty unary call, median of the rounds
	LossPercent float64 `json:"loss_percent"`       // median of the rounds' losses
	Low         float64 `json:"loss_percent_low"`   // their quartiles
	High        float64 `json:"loss_percent_high"`
	// Processor time of the server for a call, over all rounds: other load disturbs it less than it does throughput.
	WithMicros    float64 `json:"with_cpu_us"`
	WithoutMicros float64 `json:"without_cpu_us"`
}

// run lets the two servers and an empty one take turns, in either order.
func (x *comparison) run(ctx context.Context, cmd *cobra.Command, f *benchFlags) (err error) {
	dir, err := os.MkdirTemp("", "chartergate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "Starting two servers and an empty gRPC server in %s\n", dir)
	empty, err := startEmpty(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, empty.stop()) }()
	var servers []measured
	var subjects []subject
	for i, flags := range x.flags {
		s, err := startServer(ctx, filepath.Join(dir, fmt.Sprint(i)), flags...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		c, err := newCaller(ctx, s.grpcAddr)
		if err != nil {
			return err
		}
		defer c.close()
		if err := applyBench(ctx, c.client, 1); err != nil {
			return err
		}
		if err := x.prepare(ctx, c, i == 0); err != nil {
			return err
		}
		servers = append(servers, s)
		subjects = append(subjects, subject{x.calls, x.call(c)})
	}
	servers, subjects = append(servers, servers[1]), append(subjects, empty.subject)
	var rows []compareRow
	for _, inFlight := range []int{1, 64} {
		row, err := x.compare(ctx, servers, subjects, inFlight, f.duration/3)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	if f.output == "json" {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	g := newGrid(">IN FLIGHT", ">EMPTY CALLS A SECOND", ">"+x.calls+", "+x.with, ">"+x.without, ">LOSS", ">QUARTILES", ">SERVER CPU, "+x.with, ">"+x.without)
	for _, r := range rows {
		g.add(fmt.Sprint(r.InFlight), thousands(int64(r.Empty)), thousands(int64(r.With)), thousands(int64(r.Without)), fmt.Sprintf("%.1f%%", r.LossPercent),
			fmt.Sprintf("%.1f%% to %.1f%%", r.Low, r.High),
			fmt.Sprintf("%.1f µs", r.WithMicros), fmt.Sprintf("%.1f µs", r.WithoutMicros))
	}
	g.write(cmd.OutOrStdout(), "")
	return nil
}

func (x *comparison) compare(ctx context.Context, servers []measured, subjects []subject, inFlight int, duration time.Duration) (compareRow, error) {
	n := len(subjects)
	rates := make([][]float64, n)
	cpu, calls := make([]float64, n), make([]float64, n)
	var losses []float64
	for round := range compareRounds + 1 { // the first is for warmth
		rate := make([]float64, n)
		for turn := range n {
			i := (turn + round) % n
			before, err := servers[i].metrics(ctx)
			if err != nil {
				return compareRow{}, err
			}
			began := time.Now()
			row, err := measure(ctx, servers[i], subjects[i], inFlight, duration)
			if err != nil {
				return compareRow{}, err
			}
			rate[i] = row.PerSecond
			took := time.Since(began)
			after, err := servers[i].metrics(ctx)
			if err != nil {
				return compareRow{}, err
			}
			if round > 0 {
				cpu[i] += after[processCPU] - before[processCPU]
				calls[i] += row.PerSecond * took.Seconds()
			}
		}
		if round > 0 {
			for i := range rates {
				rates[i] = append(rates[i], rate[i])
			}
			losses = append(losses, 100*(1-rate[0]/rate[1]))
		}
	}
	slices.Sort(losses)
	median := func(i int) float64 {
		slices.Sort(rates[i])
		return rates[i][compareRounds/2]
	}
	return compareRow{
		InFlight: inFlight, With: median(0), Without: median(1), Empty: median(2),
		LossPercent: losses[compareRounds/2], Low: losses[compareRounds/4], High: losses[3*compareRounds/4],
		WithMicros: 1e6 * cpu[0] / calls[0], WithoutMicros: 1e6 * cpu[1] / calls[1],
	}, nil
}
