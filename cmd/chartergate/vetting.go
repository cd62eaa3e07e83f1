package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/policy/vetting"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
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

// vetter vets policies for the server, and runs their tests, in children of this program.
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
	if err != nil {
		return 0, vettingError(err)
	}
	if len(verdict.Problems) > 0 {
		return 0, vettingError(&policy.InvalidError{Problems: verdict.Problems})
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

// Test implements server.PolicyCompiler.
func (v vetter) Test(ctx context.Context, modules map[string]string) (*pb.TestPolicyResponse, error) {
	report, err := v.Vetter.Test(ctx, modules)
	if err != nil {
		return nil, vettingError(err)
	}
	resp := &pb.TestPolicyResponse{CoveragePermille: int32(report.Coverage.Permille())}
	for _, t := range report.Tests {
		test := &pb.PolicyTest{Name: t.Name, File: t.File, Line: int32(t.Line), Passed: t.Passed, Problem: t.Problem, Duration: durationpb.New(t.Duration)}
		if t.Skipped {
			test.Problem = "it is skipped: its name begins with todo_"
		}
		resp.Tests = append(resp.Tests, test)
	}
	for _, f := range report.Coverage.Files {
		if len(f.Uncovered) == 0 {
			continue
		}
		lines := &pb.UncoveredLines{File: f.File}
		for _, r := range f.Uncovered {
			lines.Ranges = append(lines.Ranges, int32(r.From), int32(r.To))
		}
		resp.Uncovered = append(resp.Uncovered, lines)
	}
	return resp, nil
}

// vettingError is an error of vetting as the server tells it.
func vettingError(err error) error {
	if costly, ok := errors.AsType[*vetting.CostlyError](err); ok {
		return &server.PolicyCostError{Limit: costly.Limit, Problem: costly.Problem}
	}
	bad, ok := errors.AsType[*policy.InvalidError](err)
	if !ok {
		return err
	}
	e := &server.PolicyError{}
	for _, p := range bad.Problems {
		e.Problems = append(e.Problems, server.PolicyProblem{File: p.File, Line: p.Line, Column: p.Column, Message: p.Message})
	}
	return e
}
