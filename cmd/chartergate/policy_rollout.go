package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// rollout are the flags of the commands that change which revision decides.
type rollout struct {
	*clientFlags
	etag         string
	dryRun, wait bool
}

func addRolloutFlags(cmd *cobra.Command) *rollout {
	r := &rollout{clientFlags: addClientFlags(cmd)}
	r.addEtag(cmd)
	cmd.Flags().BoolVar(&r.wait, "wait", false, "wait until all servers that live decide by it, at most --timeout, and tell how long that took")
	return r
}

func (r *rollout) addEtag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.etag, "etag", "", "only if the policy still has this etag")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "only check; change nothing")
}

func newPolicyCreateCommand() *cobra.Command {
	v := &pb.PolicyRevision{}
	activate := false
	cmd := &cobra.Command{
		Use:   "create DIR --policy POLICY --message TEXT",
		Short: "Store a revision of a policy",
		Long: `Store the Rego files of a folder, and its data.json, as a revision of a policy. It is compiled and its tests (*_test.rego)
are run; it decides nothing before it is activated. The same files give the same revision.`,
		Example: `  chartergate policy create ./routing --message "interns get the economy tier"
  chartergate policy create ./support --policy team.support --message "no premium on weekends" --activate --wait`,
		Args: exactArgs("DIR"),
	}
	r := addRolloutFlags(cmd)
	in := addPolicyFlag(cmd)
	f := cmd.Flags()
	f.StringVarP(&v.Message, "message", "m", "", "why, for the people who read the history (required)")
	f.StringVar(&v.Author, "author", os.Getenv("USER"), "who made it; default USER of the environment")
	f.BoolVar(&activate, "activate", false, "let it decide at once")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		parent, err := policyName(*in)
		switch {
		case err != nil:
			return err
		case strings.TrimSpace(v.Message) == "":
			return usagef("--message is required: say why, for the people who read the history")
		case r.wait && !activate:
			return usagef("--wait waits for an activation: add --activate")
		}
		if v.Modules, err = readUpload(args[0]); err != nil {
			return err
		}
		return r.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			created, err := client.Policies.CreatePolicyRevision(ctx, &pb.CreatePolicyRevisionRequest{Parent: parent, Revision: v, ValidateOnly: r.dryRun})
			if err != nil {
				return err
			}
			if err := noteUnattached(ctx, cmd, client, parent); err != nil {
				return err
			}
			if activate && !r.dryRun {
				return r.activate(ctx, cmd, client, created.GetName())
			}
			return r.print(cmd.OutOrStdout(), created, func(w io.Writer) {
				fmt.Fprintf(w, "+ %s %s\n", created.GetName(), map[bool]string{false: "stored; activate it with `chartergate policy activate " + created.GetName() + "`", true: "could be stored"}[r.dryRun])
			})
		})
	}
	return cmd
}

func newPolicyActivateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "activate REVISION",
		Short: "Let a stored revision decide",
		Long: `Let a stored revision decide, given by its name, its hash or the start of it. Every server switches at once and as a whole:
no call is decided by a mixture.`,
		Example: `  chartergate policy activate 5f2a77c0 --wait
  chartergate policy activate policies/team.support/revisions/5f2a77c0d1e94b36 --etag 4711`,
		Args: exactArgs("REVISION"),
	}
	r := addRolloutFlags(cmd)
	in := addPolicyFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		parent, err := policyName(*in)
		if err != nil {
			return err
		}
		return r.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			v, err := revisionOf(ctx, client, parent, args[0])
			if err != nil {
				return err
			}
			if !strings.HasPrefix(v.GetName(), policyPrefix) {
				return usagef("%s ships with the server: `chartergate policy delete routing` lets it decide again", v.GetName())
			}
			return r.activate(ctx, cmd, client, v.GetName())
		})
	}
	return cmd
}

// noteUnattached tells of a policy of a team that no charter has: the name may be mistyped.
func noteUnattached(ctx context.Context, cmd *cobra.Command, client *chartergate.Client, name string) error {
	team, ok := strings.CutPrefix(bareID(name), "team.")
	for req := (&pb.ListChartersRequest{PageSize: pageSize}); ok; {
		page, err := client.Charters.ListCharters(ctx, req)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(page.GetCharters(), func(c *pb.Charter) bool { return c.GetTeam() == team }) {
			return nil
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: no charter is of team %s: the policy decides nothing until one is\n", team)
			return nil
		}
	}
	return nil
}

func (r *rollout) activate(ctx context.Context, cmd *cobra.Command, client *chartergate.Client, revision string) error {
	return r.change(ctx, cmd, client, "decides", func() (*pb.Policy, error) {
		return client.Policies.ActivatePolicyRevision(ctx, &pb.ActivatePolicyRevisionRequest{Name: revision, Etag: r.etag, ValidateOnly: r.dryRun})
	})
}

func newPolicyRollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback POLICY",
		Short: "Let the revision decide again that was active before",
		Long: `Let the revision decide again that was active before the present one; again goes on with the one before that. 16 are
remembered.`,
		Example: "  chartergate policy rollback team.support --wait",
		Args:    exactArgs("POLICY"),
	}
	r := addRolloutFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := policyName(args[0])
		if err != nil {
			return err
		}
		return r.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			return r.change(ctx, cmd, client, "decides again", func() (*pb.Policy, error) {
				return client.Policies.RollbackPolicy(ctx, &pb.RollbackPolicyRequest{Name: name, Etag: r.etag, ValidateOnly: r.dryRun})
			})
		})
	}
	return cmd
}

func newPolicyDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete POLICY",
		Short: "Detach a policy",
		Long: `Detach the policy of a team or feature, or let the shipped policy decide for the organisation again. The revisions stay,
and can be activated again.`,
		Example: "  chartergate policy delete team.support",
		Args:    exactArgs("POLICY"),
	}
	r := &rollout{clientFlags: addClientFlags(cmd)}
	r.addEtag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := policyName(args[0])
		if err != nil {
			return err
		}
		return r.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			answer, err := client.Policies.DeletePolicy(ctx, &pb.DeletePolicyRequest{Name: name, Etag: r.etag, ValidateOnly: r.dryRun})
			if err != nil {
				return err
			}
			return r.print(cmd.OutOrStdout(), answer, func(w io.Writer) {
				fmt.Fprintf(w, "- %s %s\n", name, map[bool]string{false: "deleted", true: "could be deleted"}[r.dryRun])
			})
		})
	}
	return cmd
}

// change changes which revision decides, and waits for all servers if it is told to.
func (r *rollout) change(ctx context.Context, cmd *cobra.Command, client *chartergate.Client, what string, f func() (*pb.Policy, error)) error {
	start := time.Now()
	p, err := f()
	if err != nil {
		return err
	}
	servers := 0
	if r.wait && !r.dryRun {
		if servers, err = r.await(ctx, client, p); err != nil {
			return err
		}
	}
	took := time.Since(start)
	return r.print(cmd.OutOrStdout(), p, func(w io.Writer) {
		if r.dryRun {
			what = "could decide"
		}
		fmt.Fprintf(w, "~ %s %s (etag %s)\n", p.GetActiveRevision(), what, p.GetEtag())
		if servers > 0 {
			fmt.Fprintf(w, "%s by it after %s\n", plural(int64(servers), "server decides", "servers decide"), took.Round(time.Millisecond))
		}
	})
}

// askEvery is how often the servers are asked which policies decide.
const askEvery = 20 * time.Millisecond

// await waits until all servers that live decide by a policy as it stands. It gives how many there are.
func (r *rollout) await(ctx context.Context, client *chartergate.Client, p *pb.Policy) (int, error) {
	want, err := strconv.ParseInt(p.GetEtag(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the etag of %s is %q, which is not a revision of etcd", p.GetName(), p.GetEtag())
	}
	operations := pb.NewOperationsServiceClient(client.Conn())
	for {
		st, err := operations.GetStatus(ctx, &pb.GetStatusRequest{})
		var late []string
		servers := 0
		for _, s := range st.GetReplicas() {
			if s.GetState() != pb.ReplicaState_REPLICA_STATE_LIVE {
				continue
			}
			servers++
			if s.PolicyControlRevision == nil || s.GetPolicyControlRevision() < want {
				if s.GetPolicyProblem() != "" {
					return 0, fmt.Errorf("%s is active, but the server at %s goes on with what it decided by before: %s", p.GetActiveRevision(), s.GetAddress(), s.GetPolicyProblem())
				}
				late = append(late, s.GetAddress())
			}
		}
		if err == nil && servers > 0 && len(late) == 0 {
			return servers, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s is active, but within the --timeout of %s it is not known to decide on %s", p.GetActiveRevision(), r.timeout, strings.Join(late, ", "))
		case <-time.After(askEvery):
		}
	}
}
