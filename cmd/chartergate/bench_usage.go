package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

const usageRounds = 9

const processCPU = "process_cpu_seconds_total"

// usageRow is how many pairs of Reserve and Settle a server answers while it counts them, and while it does not.
type usageRow struct {
	InFlight    int     `json:"in_flight"`
	Counted     float64 `json:"counted_per_second"`   // median of the rounds
	Uncounted   float64 `json:"uncounted_per_second"` // median of the rounds
	LossPercent float64 `json:"loss_percent"`         // median of the rounds' losses
	Low         float64 `json:"loss_percent_low"`     // their quartiles
	High        float64 `json:"loss_percent_high"`
	// Processor time of the server for a pair, over all rounds: other load disturbs it less than it does throughput.
	CountedMicros   float64 `json:"counted_cpu_us"`
	UncountedMicros float64 `json:"uncounted_cpu_us"`
}

// benchUsage lets two servers take turns, in either order.
func benchUsage(ctx context.Context, cmd *cobra.Command, f *benchFlags) (err error) {
	dir, err := os.MkdirTemp("", "chartergate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "Starting two servers in %s\n", dir)
	var servers []*childServer
	var subjects []subject
	for _, flags := range [][]string{nil, {"--" + uncountedFlag}} {
		s, err := startServer(ctx, filepath.Join(dir, fmt.Sprint(len(servers))), flags...)
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
		servers = append(servers, s)
		subjects = append(subjects, subject{"Reserve + Settle", reserveAndSettle(unary(c.session.Reserve), unary(c.session.Settle))})
	}
	var rows []usageRow
	for _, inFlight := range []int{1, 64} {
		var rates [2][]float64
		var losses []float64
		var cpu, pairs [2]float64
		for round := range usageRounds + 1 { // the first is for warmth
			var rate [2]float64
			for turn := range 2 {
				i := (turn + round) % 2
				before, err := servers[i].metrics(ctx)
				if err != nil {
					return err
				}
				began := time.Now()
				row, err := measure(ctx, servers[i], subjects[i], inFlight, f.duration/3)
				if err != nil {
					return err
				}
				rate[i] = row.PerSecond
				after, err := servers[i].metrics(ctx)
				if err != nil {
					return err
				}
				if round > 0 {
					cpu[i] += after[processCPU] - before[processCPU]
					pairs[i] += row.PerSecond * time.Since(began).Seconds()
				}
			}
			if round > 0 {
				rates[0], rates[1] = append(rates[0], rate[0]), append(rates[1], rate[1])
				losses = append(losses, 100*(1-rate[0]/rate[1]))
			}
		}
		slices.Sort(losses)
		slices.Sort(rates[0])
		slices.Sort(rates[1])
		rows = append(rows, usageRow{
			inFlight, rates[0][usageRounds/2], rates[1][usageRounds/2], losses[usageRounds/2], losses[usageRounds/4], losses[3*usageRounds/4],
			1e6 * cpu[0] / pairs[0], 1e6 * cpu[1] / pairs[1],
		})
	}
	if f.output == "json" {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	g := newGrid(">IN FLIGHT", ">PAIRS A SECOND, COUNTED", ">NOT COUNTED", ">LOSS", ">QUARTILES", ">SERVER CPU A PAIR", ">NOT COUNTED")
	for _, r := range rows {
		g.add(fmt.Sprint(r.InFlight), fmt.Sprintf("%.0f", r.Counted), fmt.Sprintf("%.0f", r.Uncounted), fmt.Sprintf("%.1f%%", r.LossPercent),
			fmt.Sprintf("%.1f%% to %.1f%%", r.Low, r.High),
			fmt.Sprintf("%.1f µs", r.CountedMicros), fmt.Sprintf("%.1f µs", r.UncountedMicros))
	}
	g.write(cmd.OutOrStdout(), "")
	return nil
}
