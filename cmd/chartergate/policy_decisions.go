package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/policy/decisionlog"
	"github.com/chartergate/chartergate/proto/convert"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/server/metering"
)

// newPolicyDecisionsCommand exports kept decisions.
func newPolicyDecisionsCommand() *cobra.Command {
	var format, from, to, feature string
	var array bool
	cmd := &cobra.Command{
		Use:   "decisions",
		Short: "Export kept decisions in the format of OPA's decision log",
		Long: `Write decisions that were kept as events of OPA's decision log, one for each policy that decided, the newest first: as lines
of JSON, or with --gzip as the gzipped array that OPA sends. The input of an event is what the policy saw, rebuilt from what
was kept and the charter, catalog and prices of now; the result is what the policy says of it, and mapped_result what the
gate answered. Refusals and downgrades are kept, and a sample of the rest (serve --sample-decisions).`,
		Example: `  chartergate policy decisions --from 2026-11-23T00:00:00Z --feature support-copilot > decisions.jsonl
  chartergate policy decisions --gzip > decisions.json.gz`,
		Args: noArgs,
	}
	c := addClientFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&format, "format", "opa", "opa: there is no other")
	f.StringVar(&from, "from", "", "decisions from this time on, such as 2026-11-23T00:00:00Z")
	f.StringVar(&to, "to", "", "decisions before this time")
	f.StringVar(&feature, "feature", "", "decisions of this feature only")
	f.BoolVar(&array, "gzip", false, "write one gzipped array instead of lines")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if format != "opa" {
			return usagef("--format %q: use opa", format)
		}
		req := &pb.ListDecisionsRequest{PageSize: 1000, Feature: feature}
		for _, x := range []struct {
			flag, text string
			to         **timestamppb.Timestamp
		}{{"from", from, &req.From}, {"to", to, &req.To}} {
			if x.text == "" {
				continue
			}
			at, err := time.Parse(time.RFC3339, x.text)
			if err != nil {
				return usagef("--%s %q: use a time such as 2026-11-23T00:00:00Z", x.flag, x.text)
			}
			*x.to = timestamppb.New(at)
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			return exportDecisions(ctx, client, req, cmd.OutOrStdout(), array)
		})
	}
	return cmd
}

func exportDecisions(ctx context.Context, client *chartergate.Client, req *pb.ListDecisionsRequest, out io.Writer, array bool) error {
	snap, err := fetchSnapshot(ctx, client)
	if err != nil {
		return err
	}
	events := &decisionEvents{labels: map[string]string{"app": "chartergate", "version": version()}}
	var all []decisionlog.Event
	for {
		page, err := client.Usage.ListDecisions(ctx, req)
		if err != nil {
			return err
		}
		for _, d := range page.GetDecisions() {
			kept := &usage.Decision{ID: d.GetId(), Time: d.GetTime().AsTime(), Data: []byte(d.GetDetail())}
			if snap, err = fetchRevisions(ctx, client, snap, kept); err != nil {
				return err
			}
			e, err := events.of(ctx, snap, kept)
			if err != nil {
				return err
			}
			if array {
				all = append(all, e...)
			} else if err := decisionlog.WriteLines(out, e); err != nil {
				return err
			}
		}
		if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if array {
		return decisionlog.WriteArray(out, all)
	}
	return nil
}

// fetchSnapshot reads what a policy sees of the control records.
func fetchSnapshot(ctx context.Context, client *chartergate.Client) (*charter.Snapshot, error) {
	resources, err := fetchResources(ctx, client)
	if err != nil {
		return nil, err
	}
	var changes []charter.Change
	for _, r := range resources {
		if r.GetPolicy() != nil {
			continue // those that decided are fetched by their revisions
		}
		record, err := convert.RecordFromResource(r)
		if err != nil {
			return nil, err
		}
		changes = append(changes, charter.Set(record))
	}
	return new(charter.Snapshot).With(changes)
}

// fetchRevisions adds the stored revisions that decided to a snapshot.
func fetchRevisions(ctx context.Context, client *chartergate.Client, snap *charter.Snapshot, d *usage.Decision) (*charter.Snapshot, error) {
	_, revisions, err := metering.Kept(d)
	if err != nil {
		return nil, err
	}
	for _, name := range splitRevisions(revisions) {
		if snap.Record(name) != nil {
			continue
		}
		m, err := client.Policies.GetPolicyRevision(ctx, &pb.GetPolicyRevisionRequest{Name: name})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := convert.PolicyRevisionFromProto(m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if snap, err = snap.Replace(snap.Epoch, []charter.Change{charter.Set(r)}); err != nil {
			return nil, err
		}
	}
	return snap, nil
}

// splitRevisions are the stored revisions among those that a decision names.
func splitRevisions(revisions string) (names []string) {
	for name := range strings.SplitSeq(revisions, routing.RevisionSeparator) {
		if strings.HasPrefix(name, "policies/") {
			names = append(names, name)
		}
	}
	return names
}
