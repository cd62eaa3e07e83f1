package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
)

var policySchemas = map[string]func() []byte{"input": policy.InputSchema, "decision": policy.DecisionSchema}

func newPolicySchemaCommand() *cobra.Command {
	names := slices.Sorted(maps.Keys(policySchemas))
	return &cobra.Command{
		Use:   "schema decision|input",
		Short: "Print the JSON schema of what policies see or answer",
		Example: `  chartergate policy schema input >input.json
  opa check --strict --schema input.json .`,
		Args:      exactArgs("decision|input"),
		ValidArgs: names,
		RunE: func(cmd *cobra.Command, args []string) error {
			schema := policySchemas[args[0]]
			if schema == nil {
				return usagef("there is no schema %q: there are %s", args[0], strings.Join(names, " and "))
			}
			_, err := cmd.OutOrStdout().Write(schema())
			return err
		},
	}
}
