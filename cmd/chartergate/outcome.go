package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newOutcomeCommand() *cobra.Command {
	var hold, run, task, feature string
	cmd := &cobra.Command{
		Use:   "outcome success|failure (--hold TOKEN | --feature NAME --run ID | --feature NAME --task ID)",
		Short: "Record how a user's task ended",
		Long: `Record how a user's task ended, when that is known only after the settlement: of one call by its hold, of an agent run, or of
a user's task of many calls. It is counted once, with the spend that it belongs to, and restates that hour. Repeating it is
harmless; another outcome than the first is refused.`,
		Example: `  chartergate outcome success --feature support-copilot --task ticket-4711
  chartergate outcome failure --hold "$TOKEN"`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1)),
		ValidArgs: []string{"success", "failure"},
	}
	c := addClientFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&hold, "hold", "", "token of the call's hold")
	f.StringVar(&run, "run", "", "agent run, as its calls named it")
	f.StringVar(&task, "task", "", "user's task, as its calls named it")
	f.StringVar(&feature, "feature", "", "feature of the run or task")
	completeFeatures(cmd, &c.server)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		outcome, err := outcomeOf(args[0])
		if err != nil {
			return err
		}
		req := &pb.RecordOutcomeRequest{Feature: feature, Outcome: outcome}
		given := 0
		for _, of := range []struct {
			id  string
			set func()
		}{
			{hold, func() { req.Of = &pb.RecordOutcomeRequest_Hold{Hold: hold} }},
			{run, func() { req.Of = &pb.RecordOutcomeRequest_Run{Run: run} }},
			{task, func() { req.Of = &pb.RecordOutcomeRequest_Task{Task: task} }},
		} {
			if of.id != "" {
				of.set()
				given++
			}
		}
		switch {
		case given != 1:
			return usagef("give one of --hold, --run and --task")
		case hold == "" && feature == "":
			return errNoFeature
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Usage.RecordOutcome(ctx, req)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) { io.WriteString(w, args[0]+" recorded\n") })
		})
	}
	return cmd
}
