package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/money"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const refusedHelp = `
The exit status is 0 when the call may run and 3 when the gate throttles or denies it: a refusal is an answer, printed as
such, and not a failure.`

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check --feature NAME",
		Short:   "Ask what reserve would answer, without holding money",
		Long:    "Ask what reserve would answer now, without holding money.\n" + refusedHelp,
		Example: "  chartergate check --feature support-copilot --task-class chat --input-tokens 1200 --max-output-tokens 400",
		Args:    noArgs,
	}
	c := addClientFlags(cmd)
	call := addCallFlags(cmd)
	completeFeatures(cmd, &c.server)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if call.Feature == "" {
			return errNoFeature
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r, err := client.Check(ctx, &pb.CheckRequest{Call: call.Call})
			if err != nil {
				return err
			}
			return printDecision(r.GetDecision(), func() error {
				return c.print(cmd.OutOrStdout(), r, func(w io.Writer) { decisionFacts(r.GetDecision()).write(w) })
			})
		})
	}
	return cmd
}

func newReserveCommand() *cobra.Command {
	var ttl time.Duration
	var requestID string
	cmd := &cobra.Command{
		Use:   "reserve --feature NAME",
		Short: "Ask for an AI call and hold its money",
		Long: `Ask for an AI call. When it may run, its estimated cost is held on every budget of the feature's path; make the call on
the model of the answer and settle it, or release it.
` + refusedHelp,
		Example: `  chartergate reserve --feature support-copilot --task-class chat --input-tokens 1200 --max-output-tokens 400
  hold=$(chartergate reserve --feature support-copilot --input-tokens 1200 -o json | jq -r .hold.token)
  chartergate settle --hold "$hold" --input-tokens 1180 --output-tokens 322 --outcome success`,
		Args: noArgs,
	}
	c := addClientFlags(cmd)
	call := addCallFlags(cmd)
	completeFeatures(cmd, &c.server)
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long to hold the money, 1s or more (default 2m)")
	cmd.Flags().StringVar(&requestID, "request-id", "", "makes a retry safe: the same id gives the first answer")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if call.Feature == "" {
			return errNoFeature
		}
		r := &pb.ReserveRequest{Call: call.Call, RequestId: requestID}
		if cmd.Flags().Changed("ttl") {
			r.Ttl = durationpb.New(ttl)
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Reserve(ctx, r)
			if err != nil {
				return err
			}
			return printDecision(answer.GetDecision(), func() error {
				return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
					f := decisionFacts(answer.GetDecision())
					f = append(f, holdFacts(answer.GetHold(), answer.GetDecision().GetCurrency())...)
					f.write(w)
				})
			})
		})
	}
	return cmd
}

// printDecision prints an answer and turns a refusal into its exit status.
func printDecision(d *pb.Decision, print func() error) error {
	if err := print(); err != nil {
		return err
	}
	if e := d.GetEffect(); e == pb.Effect_EFFECT_THROTTLE || e == pb.Effect_EFFECT_DENY {
		return &refusedError{}
	}
	return nil
}

func newSettleCommand() *cobra.Command {
	var r pb.SettleRequest
	var outcome string
	cmd := &cobra.Command{
		Use:   "settle --hold TOKEN",
		Short: "Record what a call really used",
		Long: `Record what a call really used: it is priced exactly, kept durably, and the rest of the hold is free again. Token classes
do not overlap: count each token in one flag, or give the provider's own usage object, response or stream with --raw-usage.
Repeating it gives the first answer.`,
		Example: `  chartergate settle --hold "$hold" --input-tokens 1180 --output-tokens 322 --outcome success
  chartergate settle --hold "$hold" --input-tokens 200 --cache-read-tokens 980 --output-tokens 322 --tool web_search=2
  chartergate settle --hold "$hold" --raw-usage response.json --provider anthropic`,
		Args: noArgs,
	}
	c := addClientFlags(cmd)
	u := addUsageFlags(cmd)
	raw := addRawUsageFlags(cmd)
	addHoldFlag(cmd, &r.Hold)
	cmd.Flags().StringVar(&r.Model, "model", "", "the model that was used (default the decision's)")
	cmd.Flags().StringVar(&outcome, "outcome", "", "how the user's task ended: success or failure")
	cmd.Flags().StringVar(&r.RequestId, "request-id", "", "checked against the first settlement of this id")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.Hold == "" {
			return errNoHold
		}
		var err error
		if r.Outcome, err = outcomeOf(outcome); err != nil {
			return err
		}
		if r.RawUsage, err = raw.read(cmd, u); err != nil {
			return err
		}
		if r.RawUsage == nil {
			r.Usage = u.Usage
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Settle(ctx, &r)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) { writeSettlement(w, answer.GetSettlement(), "above its hold") })
		})
	}
	return cmd
}

func newReleaseCommand() *cobra.Command {
	var r pb.ReleaseRequest
	cmd := &cobra.Command{
		Use:     "release --hold TOKEN",
		Short:   "Give a hold back because the call did not run",
		Example: `  chartergate release --hold "$hold"`,
		Args:    noArgs,
	}
	c := addClientFlags(cmd)
	addHoldFlag(cmd, &r.Hold)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.Hold == "" {
			return errNoHold
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Release(ctx, &r)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
				facts{{"released", money.Nanos(answer.GetReleasedNanos()).String()}}.write(w)
			})
		})
	}
	return cmd
}

func newExtendCommand() *cobra.Command {
	var r pb.ExtendRequest
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "extend --hold TOKEN --ttl DURATION",
		Short:   "Make a hold last longer",
		Long:    "Make a hold last longer, counted from now. Use the token of the answer from then on.",
		Example: `  chartergate extend --hold "$hold" --ttl 5m`,
		Args:    noArgs,
	}
	c := addClientFlags(cmd)
	addHoldFlag(cmd, &r.Hold)
	cmd.Flags().DurationVar(&ttl, "ttl", 2*time.Minute, "how long to hold the money from now")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if r.Hold == "" {
			return errNoHold
		}
		r.Ttl = durationpb.New(ttl)
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Extend(ctx, &r)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) { holdFacts(answer.GetHold(), "").write(w) })
		})
	}
	return cmd
}

func outcomeOf(word string) (pb.Outcome, error) {
	if word == "" {
		return pb.Outcome_OUTCOME_UNSPECIFIED, nil
	}
	value, ok := pb.Outcome_value["OUTCOME_"+strings.ToUpper(word)]
	if !ok || value == 0 {
		return 0, usagef("unknown --outcome %q: use success or failure", word)
	}
	return pb.Outcome(value), nil
}

var errNoHold = usagef("--hold is required: the token that reserve gave")

func addHoldFlag(cmd *cobra.Command, hold *string) {
	cmd.Flags().StringVar(hold, "hold", "", "the hold's token, as reserve gave it")
}
