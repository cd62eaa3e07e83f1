package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newPolicyShadowCommand() *cobra.Command {
	var revision, etag string
	var percent float64
	var stop, local bool
	cmd := &cobra.Command{
		Use:   "shadow [POLICY]",
		Short: "Let a candidate decide beside the active revision, and tell where they differ",
		Long: `Tell what the shadow of a policy would have decided otherwise: by effect and tier, with the projected cost of what would
run, before the money left is looked at, and with examples. All servers are asked.

--revision starts a shadow on a share of calls: it decides beside the active revision, off the hot path and without effect.
--stop ends it.`,
		Example: `  chartergate policy shadow routing --revision 5f2a91c04be7d310 --percent 10
  chartergate policy shadow routing
  chartergate policy shadow routing --stop`,
		Args: cobra.MaximumNArgs(1),
	}
	c := addClientFlags(cmd)
	cmd.Flags().StringVar(&revision, "revision", "", "stored revision that shadows from now on: its name, its hash or the start of it")
	cmd.Flags().Float64Var(&percent, "percent", 1, "share of calls that it decides too, 0.0001 to 100")
	cmd.Flags().BoolVar(&stop, "stop", false, "end the shadow")
	cmd.Flags().BoolVar(&local, "local", false, "tell only what the server that is asked has seen")
	cmd.Flags().StringVar(&etag, "etag", "", "the policy's etag, so that nobody else's change is overwritten")
	cmd.MarkFlagsMutuallyExclusive("revision", "stop")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := policyName(cmp.Or(append(args, "")[0], "routing"))
		if err != nil {
			return err
		}
		ppm := int32(math.Round(percent * 10_000))
		if ppm < 1 || ppm > 1_000_000 {
			return usagef("--percent is %v, it must be 0.0001 to 100", percent)
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			if revision != "" || stop {
				req := &pb.ShadowPolicyRequest{Name: name, Etag: etag}
				if !stop {
					v, err := revisionOf(ctx, client, name, revision)
					if err != nil {
						return err
					}
					req.Revision, req.ShadowPpm = v.GetName(), ppm
				}
				p, err := client.Policies.ShadowPolicy(ctx, req)
				if err != nil {
					return err
				}
				return c.print(cmd.OutOrStdout(), p, func(w io.Writer) {
					if stop {
						fmt.Fprintf(w, "No candidate shadows %s any more.\n", p.GetName())
						return
					}
					fmt.Fprintf(w, "%s decides beside %s for %s of calls.\n", p.GetShadowRevision(), p.GetName(), share(p.GetShadowPpm()))
				})
			}
			s, err := client.Policies.GetPolicyShadow(ctx, &pb.GetPolicyShadowRequest{Name: name, Local: local})
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), s, func(w io.Writer) { writeShadow(w, s) })
		})
	}
	return cmd
}

func share(ppm int32) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.4f", float64(ppm)/10_000), "0"), ".") + "%"
}

func writeShadow(w io.Writer, s *pb.PolicyShadow) {
	if s.GetShadowRevision() == "" {
		fmt.Fprintf(w, "No candidate shadows %s: start one with --revision.\n", s.GetPolicy())
		return
	}
	var f facts
	f.add("decides", s.GetActiveRevision())
	f.add("shadows", s.GetShadowRevision()+" on "+share(s.GetShadowPpm())+" of calls")
	f.add("since", timeText(s.GetStartTime()))
	f.add("calls", thousands(s.GetCalls())+" by "+plural(int64(s.GetServers()), "server", "servers"))
	f.add("changed", thousands(s.GetChanged())+" ("+percent(s.GetChanged(), s.GetCalls())+")")
	f.add("no decision", thousands(s.GetFailed()))
	f.add("not decided", thousands(s.GetDropped())+", the server was busy")
	f.write(w)
	fmt.Fprintln(w)
	writeDifferences(w, s.GetDifferences())
}
