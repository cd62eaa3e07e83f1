package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newPolicyExplainCommand() *cobra.Command {
	req := &pb.ExplainDecisionRequest{}
	cmd := &cobra.Command{
		Use:   "explain {--feature NAME | --decision ID}",
		Short: "Why a call is decided as it is, or was",
		Long: `Say why a call is decided as it is now, or why a decision that was kept was made: what each policy said, which of its
rules gave a value, what it read, how the budgets stood, and what the gate made of it. Holds nothing.

A kept decision is explained by the policies that made it, with what was kept of the call and its budgets, and the charter,
catalog and prices of now. ` + "`chartergate get decisions -o json`" + ` tells the ids.`,
		Example: `  chartergate policy explain --feature support-copilot --task-class chat --input-tokens 1200 --max-output-tokens 400
  chartergate policy explain --decision 019b2f6a1c00-5f0c2a77-000001
  chartergate policy explain --feature support-copilot --trace`,
		Args: noArgs,
	}
	c := addClientFlags(cmd)
	call := addCallFlags(cmd)
	cmd.Flags().Lookup("feature").Usage = "the feature: the id of its charter"
	completeFeatures(cmd, &c.server)
	cmd.Flags().StringVar(&req.Decision, "decision", "", "a kept decision, instead of a call")
	cmd.Flags().BoolVar(&req.Trace, "trace", false, "add OPA's own trace of each policy")
	cmd.MarkFlagsOneRequired("feature", "decision")
	cmd.MarkFlagsMutuallyExclusive("feature", "decision")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if req.Decision == "" {
			req.Call = call.Call
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			x, err := client.Policies.ExplainDecision(ctx, req)
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), x, func(w io.Writer) { writeExplanation(w, x) })
		})
	}
	return cmd
}

func writeExplanation(w io.Writer, x *pb.ExplainDecisionResponse) {
	decisionFacts(x.GetDecision()).write(w)
	fmt.Fprintln(w, "\nWhy:")
	for _, line := range x.GetSummary() {
		fmt.Fprintln(w, "  "+visible(line))
	}
	for _, p := range x.GetPolicies() {
		fmt.Fprintf(w, "\n%s answered:\n  %s\n", visible(p.GetRevision()), visible(p.GetAnswer()))
		rules := newGrid("RULE", "WHERE", "VALUE")
		for _, r := range p.GetRules() {
			rules.add(strings.TrimPrefix(r.GetRule(), "data.chartergate."), fmt.Sprintf("%s:%d", r.GetFile(), r.GetLine()), shortened(r.GetValue()))
		}
		fmt.Fprintln(w)
		rules.write(w, "  ")
		inputs := newGrid("READ", "VALUE")
		for _, r := range p.GetInputs() {
			value := r.GetValue()
			if value == "" {
				value = "(not there)"
			}
			inputs.add(r.GetPath(), shortened(value))
		}
		fmt.Fprintln(w)
		inputs.write(w, "  ")
		if p.GetTrace() != "" {
			fmt.Fprintf(w, "\n%s", p.GetTrace())
		}
	}
}

// shortened is a value for a column; -o json has all of it.
func shortened(s string) string {
	const most = 100
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
