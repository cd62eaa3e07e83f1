package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/vetting"
	"github.com/chartergate/chartergate/server"
)

const vetCommand = "vet-policy"

// newVetCommand is what a server starts for each policy that it is given.
func newVetCommand() *cobra.Command {
	return &cobra.Command{
		Use: vetCommand, Short: "Compile and test a policy from standard input", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return vetting.Child(cmd.InOrStdin(), cmd.OutOrStdout()) },
	}
}

// vetter vets policies for the server in children of this program.
type vetter struct{ *vetting.Vetter }

func newVetter() (vetter, error) {
	self := "/proc/self/exe" // this program even after its file was replaced
	if _, err := os.Stat(self); err != nil {
		if self, err = os.Executable(); err != nil {
			return vetter{}, err
		}
	}
	return vetter{vetting.New(self, vetCommand)}, nil
}

func (vetter) Hash(modules map[string]string) string { return policy.Hash(modules) }

// Vet implements server.PolicyCompiler.
func (v vetter) Vet(ctx context.Context, modules map[string]string) (int, error) {
	verdict, err := v.Vetter.Vet(ctx, modules)
	if costly, ok := errors.AsType[*vetting.CostlyError](err); ok {
		return 0, &server.PolicyCostError{Limit: costly.Limit, Problem: costly.Problem}
	}
	if err != nil {
		return 0, err
	}
	if len(verdict.Problems) > 0 {
		e := &server.PolicyError{}
		for _, p := range verdict.Problems {
			e.Problems = append(e.Problems, server.PolicyProblem{File: p.File, Line: p.Line, Column: p.Column, Message: p.Message})
		}
		return 0, e
	}
	if len(verdict.Failed) > 0 {
		e := &server.PolicyTestsError{}
		for _, t := range verdict.Failed {
			e.Failed = append(e.Failed, server.PolicyTest{Name: t.Name, File: t.File, Line: t.Line, Problem: t.Problem})
		}
		return 0, e
	}
	return verdict.Tests, nil
}
