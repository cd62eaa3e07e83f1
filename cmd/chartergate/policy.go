package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/policy"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Write, test, roll out and explain policies",
		Long: `Write, test, roll out and explain policies: the Rego that decides which tier or model a call gets.

A policy is attached to the organisation (routing), to a team (team.TEAM) or to a feature (feature.FEATURE). All that are
attached to a call decide it together, and each can only narrow what those above it leave. The policy that ships with the
server decides calls that none is attached to.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q: `chartergate policy --help` lists them", args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(
		newPolicyInitCommand(), newPolicyTestCommand(), newPolicyFmtCommand(), newPolicyLintCommand(), newPolicyBenchCommand(), newPolicyEvaluateCommand(),
		newPolicyCreateCommand(), newPolicyListCommand(), newPolicyShowCommand(), newPolicyDiffCommand(),
		newPolicyActivateCommand(), newPolicyRollbackCommand(), newPolicyDeleteCommand(),
		newPolicyShadowCommand(), newPolicySimulateCommand(), newPolicyExplainCommand(), newPolicyDecisionsCommand(),
		newPolicySchemaCommand(),
	)
	return cmd
}

const policyPrefix = "policies/"

// policyName is the name of a policy as people write it: routing, team.TEAM, feature.FEATURE.
func policyName(s string) (string, error) {
	id := strings.TrimPrefix(s, policyPrefix)
	if !policyIDs.MatchString(id) {
		return "", usagef("%q is not a policy: write routing for the organisation's, team.TEAM or feature.FEATURE, of lower-case letters, digits and hyphens", s)
	}
	return policyPrefix + id, nil
}

var policyIDs = regexp.MustCompile(`^(routing|(team|feature)\.[a-z0-9][a-z0-9-]{0,62})$`)

// revisionOf finds a revision as people write it: its name, its hash or the start of it, or the name of a policy, which
// stands for the active one. in is the policy of a hash. Of the shipped policy the modules are those of this program.
func revisionOf(ctx context.Context, client *chartergate.Client, in, s string) (*pb.PolicyRevision, error) {
	get := func(name string) (*pb.PolicyRevision, error) {
		return client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: name})
	}
	if strings.Contains(s, "/revisions/") {
		return get(s)
	}
	if name, err := policyName(s); err == nil {
		p, err := client.Policies.GetPolicy(ctx, &pb.GetPolicyRequest{Name: name})
		if err != nil {
			return nil, err
		}
		if hash, ok := strings.CutPrefix(p.GetActiveRevision(), policy.BuiltinPrefix); ok {
			return shippedRevision(hash)
		}
		if !strings.HasPrefix(p.GetActiveRevision(), policyPrefix) {
			return nil, fmt.Errorf("%s decides, whose files are not stored: look into the bundle, or name a stored revision", p.GetActiveRevision())
		}
		return get(p.GetActiveRevision())
	}
	if hash, ok := strings.CutPrefix(s, policy.BuiltinPrefix); ok {
		return shippedRevision(hash)
	}
	all, err := pages(func(token string) (*pb.ListPolicyRevisionsResponse, error) {
		return client.Policies.ListPolicyRevisions(ctx, &pb.ListPolicyRevisionsRequest{Parent: in, PageSize: pageSize, PageToken: token})
	}, (*pb.ListPolicyRevisionsResponse).GetRevisions)
	if err != nil {
		return nil, err
	}
	found := ""
	for _, r := range all {
		switch {
		case !strings.HasPrefix(hashOf(r.GetName()), s):
		case found != "":
			return nil, fmt.Errorf("%s is the start of more than one revision of %s: write more of it", s, bareID(in))
		default:
			found = r.GetName()
		}
	}
	if found == "" {
		return nil, fmt.Errorf("%s has no revision %s: `chartergate policy list %[1]s` lists them; --policy names another policy", bareID(in), s)
	}
	return get(found)
}

func shippedRevision(hash string) (*pb.PolicyRevision, error) {
	modules := policy.Builtin()
	if policy.Hash(modules) != hash {
		return nil, fmt.Errorf("the server's shipped policy is %s, this program is of another version: use the server's", hash)
	}
	return &pb.PolicyRevision{Name: policy.BuiltinPrefix + hash, Modules: modules, Message: "ships with the server", Active: true}, nil
}

// hashOf is the last part of a revision's name.
func hashOf(revision string) string { return revision[strings.LastIndexByte(revision, '/')+1:] }

// addPolicyFlag adds --policy, the policy of what a command line names by its hash.
func addPolicyFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("policy", "routing", "the policy: routing for the organisation's, team.TEAM or feature.FEATURE")
}

func newPolicyListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [POLICY]",
		Short: "List the policies, or the revisions of one",
		Example: `  chartergate policy list
  chartergate policy list team.support`,
		Args: cobra.MaximumNArgs(1),
	}
	c := addClientFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r := &request{clientFlags: c, client: client, w: cmd.OutOrStdout()}
			if len(args) == 0 {
				return getPolicies(ctx, r)
			}
			name, err := policyName(args[0])
			if err != nil {
				return err
			}
			return r.listRevisions(ctx, name)
		})
	}
	return cmd
}

func (r *request) listRevisions(ctx context.Context, name string) error {
	all, err := pages(func(token string) (*pb.ListPolicyRevisionsResponse, error) {
		return r.client.Policies.ListPolicyRevisions(ctx, &pb.ListPolicyRevisionsRequest{Parent: name, PageSize: pageSize, PageToken: token})
	}, (*pb.ListPolicyRevisionsResponse).GetRevisions)
	if err != nil {
		return err
	}
	slicesByTime(all)
	g := newGrid("REVISION", "ACTIVE", "CREATED", ">TESTS", "AUTHOR", "MESSAGE")
	for _, v := range all {
		g.add(hashOf(v.GetName()), map[bool]string{true: "yes"}[v.GetActive()], timeText(v.GetCreateTime()), thousands(int64(v.GetTests())), v.GetAuthor(), v.GetMessage())
	}
	return r.print(r.w, &pb.ListPolicyRevisionsResponse{Revisions: all}, func(w io.Writer) {
		if len(all) == 0 {
			fmt.Fprintf(w, "%s has no revisions: store one with `chartergate policy create DIR --policy %[1]s`.\n", bareID(name))
			return
		}
		g.write(w, "")
	})
}

func newPolicyShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show {POLICY | REVISION}",
		Short: "Show a policy's active revision, or another one, with its files",
		Example: `  chartergate policy show routing
  chartergate policy show 5f2a77c0 --policy team.support`,
		Args: exactArgs("a policy or revision"),
	}
	c := addClientFlags(cmd)
	in := addPolicyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		parent, err := policyName(*in)
		if err != nil {
			return err
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			v, err := revisionOf(ctx, client, parent, args[0])
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), v, func(w io.Writer) { printRevision(w, v) })
		})
	}
	return cmd
}
