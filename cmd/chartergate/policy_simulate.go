package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

type simulateFlags struct {
	*clientFlags
	policy, feature string
	from, to        string
	last            time.Duration
	manifests       []string
	trace           replayFlags
}

func newPolicySimulateCommand() *cobra.Command {
	f := &simulateFlags{}
	cmd := &cobra.Command{
		Use:   "simulate {DIR | REVISION}",
		Short: "Replay decisions or a trace against a candidate: what would change, and what it would cost",
		Long: `Replay decisions of the past against a candidate, a folder of Rego or a stored revision, and tell how many would be others,
from what to what, the projected spend by feature and budget, and which budgets would have run out and when. Nothing is
changed.

Without --trace the server replays the decisions that it kept: all refusals and downgrades, and of the rest the share that
"serve --sample-decisions" says; with 100 all of them. Calls cost what they were estimated at, and budgets begin as they
stood at the first decision.

With --trace a recorded trace is replayed here, against the charters, budgets, catalog, prices and active policies of the
server, or of manifests with -f and without any server. Calls cost what the trace says they used, budgets begin unspent,
and both the active policies and the candidate decide each call. Formats and columns are those of "chartergate replay".

Each call is settled before the next is decided, so that nothing is refused for money that others hold.`,
		Example: `  chartergate policy simulate ./my-policy --last 24h
  chartergate policy simulate 5f2a91c04be7d310 --policy team.support --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z
  chartergate policy simulate ./my-policy -f examples/acme --trace AzureLLMInferenceTrace_conv.csv --format azure-llm --features support-copilot=3,code-assistant`,
		Args: cobra.ExactArgs(1),
	}
	f.clientFlags = addClientFlags(cmd)
	f.timeout = time.Hour
	cmd.Flags().Lookup("timeout").DefValue = "1h0m0s"
	fl := cmd.Flags()
	fl.StringVar(&f.policy, "policy", "routing", "policy that the candidate would replace: routing, team.TEAM or feature.FEATURE")
	fl.DurationVar(&f.last, "last", 24*time.Hour, "replay the kept decisions of this time until now")
	fl.StringVar(&f.from, "from", "", "replay kept decisions from this time on, or say when the trace begins (default now)")
	fl.StringVar(&f.to, "to", "", "replay kept decisions before this time")
	fl.StringArrayVarP(&f.manifests, "file", "f", nil, "with --trace: manifests instead of a server; repeatable")
	fl.StringVar(&f.trace.file, "trace", "", "trace to replay, instead of kept decisions; - is standard input")
	fl.StringVar(&f.trace.format, "format", "", "format of the trace: azure-llm, mooncake, csv or jsonl")
	fl.StringVar(&f.feature, "feature", "", "replay the decisions of this feature only, or the feature that makes the trace's calls")
	fl.StringVar(&f.trace.features, "features", "", "several features that make the trace's calls, with weights: support=3,code")
	fl.StringVar(&f.trace.cohorts, "cohorts", "", "cohorts of calls, with weights, where the trace names none")
	fl.StringVar(&f.trace.tiers, "tiers", "", "tiers that calls ask for, with weights, where the trace names none")
	o := &f.trace.options
	fl.StringVar(&o.Model, "model", "", "model that calls ask for, where the trace names none")
	fl.StringVar(&o.Tier, "tier", "", "tier that calls ask for, where the trace names none")
	fl.StringVar(&o.TaskClass, "task-class", "", "task class of calls, where the trace names none")
	fl.StringVar(&o.Cohort, "cohort", "", "cohort of calls, where the trace names none")
	fl.StringVar(&o.User, "user", "", "user of calls, where the trace names none")
	fl.StringVar(&o.Agent, "agent", "", "agent of calls, where the trace names none")
	fl.StringVar(&o.Run, "run", "", "agent run of calls, where the trace names none")
	fl.Int64Var(&o.MaxOutput, "max-output", 0, "estimate at least this many output tokens; 0: what each call really used")
	fl.IntVar(&f.trace.limit, "limit", 0, "replay only this many rows of the trace; 0: all")
	cmd.MarkFlagsRequiredTogether("trace", "format")
	cmd.MarkFlagsMutuallyExclusive("feature", "features")
	cmd.MarkFlagsMutuallyExclusive("last", "from")
	f.trace.success = -1
	completeFlag(cmd, "format", func() []string {
		var formats []string
		for _, format := range replay.Formats {
			formats = append(formats, string(format))
		}
		return formats
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) }
	return cmd
}

func (f *simulateFlags) run(cmd *cobra.Command, candidate string) error {
	name, err := policyName(f.policy)
	if err != nil {
		return err
	}
	req := &pb.SimulatePolicyRequest{Name: name, Feature: f.feature}
	if info, err := os.Stat(candidate); err == nil && info.IsDir() {
		if req.Modules, err = readUpload(candidate); err != nil {
			return err
		}
	} else if strings.ContainsAny(candidate, "./\\") && !strings.HasPrefix(candidate, "policies/") {
		return usagef("%s is no folder: give a folder of Rego files, or a stored revision", candidate)
	} else {
		req.Revision = candidate
	}
	from, err := timeFlag("from", f.from, time.Now().Add(-f.last))
	if err != nil {
		return err
	}
	to, err := timeFlag("to", f.to, time.Now())
	if err != nil {
		return err
	}
	print := func(r *pb.PolicySimulation) error {
		return f.print(cmd.OutOrStdout(), r, func(w io.Writer) { writeSimulation(w, r) })
	}
	if f.trace.file != "" {
		if f.from == "" {
			from = time.Now()
		}
		if len(f.manifests) > 0 {
			r, err := f.simulateTrace(cmd, nil, req, from)
			if err != nil {
				return err
			}
			return print(r)
		}
		return f.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			cmd.SetContext(ctx)
			if err := nameRevision(ctx, client, req); err != nil {
				return err
			}
			r, err := f.simulateTrace(cmd, client, req, from)
			if err != nil {
				return err
			}
			return print(r)
		})
	}
	if len(f.manifests) > 0 {
		return usagef("-f is for --trace: kept decisions are the server's, and so are its charters")
	}
	req.StartTime, req.EndTime = timestamppb.New(from), timestamppb.New(to)
	return f.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
		if err := nameRevision(ctx, client, req); err != nil {
			return err
		}
		r, err := simulateKept(ctx, cmd, client, req)
		if err != nil {
			return err
		}
		return print(r)
	})
}

// nameRevision puts the name of a stored revision in the place of the start of its hash.
func nameRevision(ctx context.Context, client *chartergate.Client, req *pb.SimulatePolicyRequest) error {
	if req.Revision == "" {
		return nil
	}
	v, err := revisionOf(ctx, client, req.Name, req.Revision)
	req.Revision = v.GetName()
	return err
}

// simulateKept has the server replay what it kept.
func simulateKept(ctx context.Context, cmd *cobra.Command, client *chartergate.Client, req *pb.SimulatePolicyRequest) (*pb.PolicySimulation, error) {
	stream, err := client.Policies.SimulatePolicy(ctx, req)
	if err != nil {
		return nil, err
	}
	bar := newBar(cmd.ErrOrStderr(), -1)
	defer bar.finish()
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the server ended the simulation without a result")
		case err != nil:
			return nil, err
		case m.GetResult() != nil:
			return m.GetResult(), nil
		}
		bar.max(m.GetTotal())
		bar.set(m.GetDecided())
	}
}

func timeFlag(name, text string, absent time.Time) (time.Time, error) {
	if text == "" {
		return absent, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("--%s %q is no time such as 2026-11-23T09:30:00Z", name, text)
	}
	return t, nil
}

// bar is a progress bar on a terminal, and nothing otherwise.
type bar struct{ *progressbar.ProgressBar }

func newBar(w io.Writer, most int64) *bar {
	if !isTerminal(w) {
		return &bar{}
	}
	return &bar{progressbar.NewOptions64(most, progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionThrottle(100*time.Millisecond))}
}

func (b *bar) max(n int64) {
	if b.ProgressBar != nil && b.GetMax64() != n {
		b.ChangeMax64(n)
	}
}

// set and finish give the bar up when it cannot be drawn.
func (b *bar) set(n int64) {
	if b.ProgressBar != nil && b.Set64(n) != nil {
		b.ProgressBar = nil
	}
}

func (b *bar) finish() {
	if b.ProgressBar != nil {
		_ = b.Finish()
	}
}
