package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newDeleteCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME",
		Short: "Delete a charter, a budget, a price book or a policy",
		Long: `Delete a charter, a budget, a price book or a policy. A budget goes only when no budget and no charter is below it, a charter
only when no policy is attached to it. Open holds of a deleted charter still settle. The revisions of a policy stay. The
catalog is replaced with apply, not deleted.`,
		Example: "  chartergate delete charter code-assistant",
		Args:    exactArgs("KIND", "NAME"),
	}
	c := addClientFlags(cmd)
	cmd.ValidArgsFunction = completeResources(&c.server, "charter", "budget", "prices", "policy")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell whether it could be deleted")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := kindOf(args[0])
		if err != nil {
			return err
		}
		name := kind.name(args[1])
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			var answer proto.Message
			switch kind.plural {
			case "charters":
				answer, err = client.Charters.DeleteCharter(ctx, &pb.DeleteCharterRequest{Name: name, ValidateOnly: dryRun})
			case "budgets":
				answer, err = client.Budgets.DeleteBudget(ctx, &pb.DeleteBudgetRequest{Name: name, ValidateOnly: dryRun})
			case "prices":
				answer, err = client.Prices.DeletePriceBook(ctx, &pb.DeletePriceBookRequest{Name: name, ValidateOnly: dryRun})
			case "policies":
				answer, err = client.Policies.DeletePolicy(ctx, &pb.DeletePolicyRequest{Name: name, ValidateOnly: dryRun})
			default:
				return usagef("%s cannot be deleted: only charters, budgets, prices and policies can", kind.plural)
			}
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
				fmt.Fprintf(w, "- %s %s\n", name, map[bool]string{false: "deleted", true: "could be deleted"}[dryRun])
			})
		})
	}
	return cmd
}

// exactArgs asks for these arguments by their names.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch want := strings.Join(names, " "); {
		case len(args) < len(names):
			return usagef("%s is missing: write %s", names[len(args)], want)
		case len(args) > len(names):
			return usagef("%q is too much: write %s", args[len(names)], want)
		}
		return nil
	}
}

// noArgs is for commands that have flags alone.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%q is too much: %s takes only flags", args[0], cmd.Name())
	}
	return nil
}
