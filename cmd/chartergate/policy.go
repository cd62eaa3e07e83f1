package main

import "github.com/spf13/cobra"

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Write, test, roll out and explain policies",
		Long: `Write, test, roll out and explain policies: the Rego that decides which tier or model a call gets.

A policy is attached to the organisation (routing), to a team (team.TEAM) or to a feature (feature.FEATURE). All that are
attached to a call decide it together, and each can only narrow what those above it leave.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: `chartergate policy --help` lists them", args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newPolicyTestCommand(), newPolicyFmtCommand(), newPolicyLintCommand(), newPolicyEvaluateCommand())
	return cmd
}
