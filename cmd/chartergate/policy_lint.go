package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
)

func newPolicyLintCommand() *cobra.Command {
	var output string
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint DIR",
		Short: "Tell what in a policy is refused, slow, or probably not meant",
		Long: `Look for what an upload would refuse (error), what is slow or probably not meant (warning), and what could be better
(hint): expressions that cannot be decided without OPA, rules that nothing uses, decisions without reasons, missing tests.
It fails on errors, with --strict on warnings too.`,
		Example: `  chartergate policy lint ./policy
  chartergate policy lint ./policy --strict -o json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			modules, err := readPolicyDir(args[0])
			if err != nil {
				return err
			}
			findings := policy.Lint(modules)
			counts := map[policy.Level]int{}
			for _, f := range findings {
				counts[f.Level]++
			}
			w := cmd.OutOrStdout()
			if output == "json" {
				if err := writeFindingsJSON(json.NewEncoder(w), findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					fmt.Fprintln(w, visible(f.String()))
				}
				if len(findings) == 0 {
					fmt.Fprintln(w, "Nothing found.")
				}
			}
			switch {
			case counts[policy.Error] > 0:
				return fmt.Errorf("%s", countText(counts[policy.Error], "error", "errors"))
			case strict && counts[policy.Warning] > 0:
				return fmt.Errorf("%s", countText(counts[policy.Warning], "warning", "warnings"))
			}
			return nil
		},
	}
	oneDir(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings")
	addOutputFlag(cmd, &output, "table", "json")
	return cmd
}

func writeFindingsJSON(e *json.Encoder, findings []policy.Finding) error {
	type finding struct {
		Level   string `json:"level"`
		Rule    string `json:"rule"`
		File    string `json:"file,omitempty"`
		Line    int    `json:"line,omitempty"`
		Column  int    `json:"column,omitempty"`
		Message string `json:"message"`
	}
	list := make([]finding, len(findings))
	for i, f := range findings {
		list[i] = finding{f.Level.String(), f.Rule, f.File, f.Line, f.Column, f.Message}
	}
	e.SetIndent("", "  ")
	return e.Encode(list)
}
