package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// commands make the subcommands, by group. Add a line to add a command.
var commands = []struct {
	group string
	make  func() *cobra.Command
}{
	{"start", newDemoCommand},
	{"start", newServeCommand},
	{"start", newStatusCommand},
	{"manage", newApplyCommand},
	{"manage", newGetCommand},
	{"manage", newDeleteCommand},
	{"manage", newPricesCommand},
	{"manage", newPolicyCommand},
	{"manage", newJournalCommand},
	{"manage", newCalibrateCommand},
	{"call", newCheckCommand},
	{"call", newReserveCommand},
	{"call", newSettleCommand},
	{"call", newReleaseCommand},
	{"call", newExtendCommand},
	{"call", newRecordCommand},
	{"call", newOutcomeCommand},
	{"call", newCostCommand},
	{"report", newReportCommand},
	{"measure", newReplayCommand},
	{"measure", newBenchCommand},
	{"measure", newBillingCommand},
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "chartergate",
		Short: "The gate every AI call passes before it spends",
		Long: `Chartergate is the gate every AI call passes before it spends. A gateway, SDK or agent asks it, before the call: may this
feature spend this much now, and on which tier of model? It answers from the feature's charter, the budgets above it
and your policy, holds the money while the call runs, and settles what the call really used.

New here? This takes ten seconds and leaves nothing behind:

  chartergate demo

Then, with a server of your own:

  chartergate serve                                     # in one terminal
  chartergate apply -f examples/acme                    # in another: a company's budgets and features
  chartergate reserve --feature support-copilot --task-class chat --input-tokens 1200 --max-output-tokens 400
  chartergate get budgets

Commands talk to the server that --server names, or else CHARTERGATE_SERVER of the environment.

Exit status: 0 success, 1 failure, 2 the command line is wrong, 3 the gate refused the call.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := ""
		if near := root.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "; did you mean " + near[0] + "?"
		}
		return usagef("unknown command %q%s", args[0], hint)
	}
	root.SuggestionsMinimumDistance = 2
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start:"},
		&cobra.Group{ID: "manage", Title: "Charters, budgets, models, prices, policies and settlements:"},
		&cobra.Group{ID: "call", Title: "One AI call:"},
		&cobra.Group{ID: "report", Title: "What it comes to:"},
		&cobra.Group{ID: "measure", Title: "Many AI calls:"},
	)
	for _, c := range commands {
		cmd := c.make()
		cmd.GroupID = c.group
		root.AddCommand(cmd)
	}
	root.AddCommand(newVetCommand())
	return root
}

// version is the module's version, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel " + s.Value[:min(len(s.Value), 12)]
		}
	}
	return "devel"
}
