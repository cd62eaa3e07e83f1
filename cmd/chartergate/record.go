package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newRecordCommand() *cobra.Command {
	var r pb.RecordUsageRequest
	var outcome string
	cmd := &cobra.Command{
		Use:   "record --feature NAME --model MODEL",
		Short: "Record usage that no hold was made for",
		Long: `Record usage that no hold was made for, such as of a call made while the gate was out of reach. It is priced exactly and
charged to every budget of the feature's path as forced spend, also above their limits. Repeating it under the same
--request-id gives the first answer and charges nothing more.`,
		Example: `  chartergate record --feature support-copilot --model gpt-5.4-mini --input-tokens 1180 --output-tokens 322 --request-id batch-17`,
		Args:    noArgs,
	}
	c := addClientFlags(cmd)
	u := addUsageFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&r.Feature, "feature", "", "the feature: the id of its charter (required)")
	f.StringVar(&r.Model, "model", "", "the model that was used (required)")
	addAttributionFlags(f, &r.User, &r.Cohort, &r.Agent, &r.Run, &r.Task, &r.PromptPattern)
	f.StringVar(&outcome, "outcome", "", "how the user's task ended: success or failure")
	f.StringVar(&r.RequestId, "request-id", "", "makes a retry safe: an id is recorded once; a random one, which is told, unless set")
	completeFeatures(cmd, &c.server)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case r.Feature == "":
			return errNoFeature
		case r.Model == "":
			return usagef("--model is required: the model that was used; `chartergate get models` lists them")
		}
		var err error
		if r.Outcome, err = outcomeOf(outcome); err != nil {
			return err
		}
		generated := r.RequestId == ""
		if generated {
			r.RequestId = "record-" + rand.Text()
		}
		r.Usage = u.Usage
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Usage.RecordUsage(ctx, &r)
			if err != nil && generated {
				return fmt.Errorf("%w (repeat it with --request-id %s)", err, r.RequestId)
			}
			if err != nil {
				return err
			}
			if generated && c.output != "table" {
				fmt.Fprintln(cmd.ErrOrStderr(), "request id:", r.RequestId)
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
				facts{{"request id", r.RequestId}}.write(w)
				writeSettlement(w, answer.GetSettlement(), "without a hold")
			})
		})
	}
	return cmd
}
