package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// completionTime is how long a shell waits for names from the server.
const completionTime = time.Second

func completeFlag(cmd *cobra.Command, flag string, values func() []string) {
	f := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}

func completeFeatures(cmd *cobra.Command, addr *string) {
	completeFlag(cmd, "feature", func() []string { return serverNames(*addr, "charters") })
}

// completeResources completes KIND NAME.
func completeResources(addr *string, kinds ...string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var words []string
		switch len(args) {
		case 0:
			words = kinds
		case 1:
			if k, err := kindOf(args[0]); err == nil && k.named {
				words = serverNames(*addr, k.plural)
			}
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// serverNames lists the first names of a kind; none when the server is out of reach.
func serverNames(addr, plural string) []string {
	client, err := dial(addr)
	if err != nil {
		return nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), completionTime)
	defer cancel()
	switch plural {
	case "charters":
		r, err := client.Charters.ListCharters(ctx, &pb.ListChartersRequest{PageSize: pageSize})
		return bareNames(r.GetCharters(), err)
	case "policies":
		r, err := client.Policies.ListPolicies(ctx, &pb.ListPoliciesRequest{PageSize: pageSize})
		return bareNames(r.GetPolicies(), err)
	case "prices":
		r, err := client.Prices.ListPriceBooks(ctx, &pb.ListPriceBooksRequest{PageSize: pageSize})
		return bareNames(r.GetPriceBooks(), err)
	}
	r, err := client.Budgets.ListBudgets(ctx, &pb.ListBudgetsRequest{PageSize: pageSize})
	return bareNames(r.GetBudgets(), err)
}

func bareNames[R interface{ GetName() string }](resources []R, err error) []string {
	if err != nil {
		return nil
	}
	names := make([]string, len(resources))
	for i, r := range resources {
		names[i] = bareID(r.GetName())
	}
	return names
}
