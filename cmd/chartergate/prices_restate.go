package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/money"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newPricesRestateCommand() *cobra.Command {
	var req pb.RestateSettlementsRequest
	cmd := &cobra.Command{
		Use:   "restate",
		Short: "Tell what settlements would have cost at corrected prices, and post the differences",
		Long: `Tell what settlements would have cost at the prices that correct theirs (corrects in a price book), and with --accept post
the differences as adjustments in the usage database: reports show them, the ledger and its ceilings stay as they are.

Run it again for settlements that came late: only what was not posted yet is posted. What was posted for a correction that was
taken out of its price book is taken back.

The server reads etcd, its own archive and those of its --read-archive-dir. Where other servers have settled, it says what it
does not see, and posts nothing.`,
		Example: `  chartergate prices restate
  chartergate prices restate --correction gpt-4o@2026-11-01T00:00:00Z --accept`,
		Args: cobra.NoArgs,
	}
	c := addClientFlags(cmd)
	cmd.Flags().StringVar(&req.Correction, "correction", "", "only this one, as the table names it (default all)")
	cmd.Flags().BoolVar(&req.Accept, "accept", false, "post the adjustments")
	cmd.Flags().Lookup("timeout").DefValue, c.timeout = "10m0s", 10*time.Minute // it reads archives
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r, err := client.Prices.RestateSettlements(ctx, &req)
			if err != nil {
				return err
			}
			var sums error
			err = c.print(cmd.OutOrStdout(), r, func(w io.Writer) { sums = writeRestated(w, r) })
			return errors.Join(err, sums)
		})
	}
	return cmd
}

// writeRestated shows what each correction changes, and the sums. Error: money.ErrOverflow.
func writeRestated(w io.Writer, r *pb.RestateSettlementsResponse) error {
	if len(r.Sums) == 0 {
		fmt.Fprintln(w, "Nothing to restate: no price book corrects a price.")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CORRECTION\tCORRECTS\tHOURS\tENTRIES\tWAS\tSHOULD BE\tDIFFERENCE\tPOSTED BEFORE\tCURRENCY")
	line := func(name, corrects string, s *pb.RestatedSum) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", visible(name), visible(corrects), thousands(s.Hours), thousands(s.Entries),
			money.Nanos(s.SettledNanos), money.Nanos(s.RestatedNanos), money.Nanos(s.DifferenceNanos), money.Nanos(s.PostedNanos), s.Currency)
	}
	all, adjustments := map[string]*pb.RestatedSum{}, int64(0)
	for _, s := range r.Sums {
		line(s.Correction, cmp.Or(s.Corrects, "(taken out of its price book)"), s)
		a := all[s.Currency]
		if a == nil {
			a = &pb.RestatedSum{Currency: s.Currency}
			all[s.Currency] = a
		}
		adjustments += s.Adjustments
		a.Hours, a.Entries = a.Hours+s.Hours, a.Entries+s.Entries
		for _, x := range []struct {
			to *int64
			by int64
		}{{&a.SettledNanos, s.SettledNanos}, {&a.RestatedNanos, s.RestatedNanos}, {&a.DifferenceNanos, s.DifferenceNanos}, {&a.PostedNanos, s.PostedNanos}} {
			sum, err := money.Add(money.Nanos(*x.to), money.Nanos(x.by))
			if err != nil {
				return fmt.Errorf("the sum: %w", err)
			}
			*x.to = int64(sum)
		}
	}
	if len(r.Sums) > 1 {
		for _, currency := range slices.Sorted(maps.Keys(all)) {
			line("all", "", all[currency])
		}
	}
	_ = t.Flush()
	fmt.Fprintf(w, "\nread: %s settlements in etcd, %s in %s\n", thousands(r.EntriesInEtcd), thousands(r.EntriesInArchives), counted(int64(r.Archives), "archive"))
	for _, u := range r.Unrestated {
		fmt.Fprintf(w, "not restated: %s of %s, settled at %s: %s\n", counted(u.Entries, "settlement"), visible(u.Correction), money.Nanos(u.SettledNanos), visible(u.Problem))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(w, "not seen: %s\n", visible(m))
	}
	switch {
	case r.Accepted && adjustments == 0:
		fmt.Fprintln(w, "nothing was left to post")
	case r.Accepted:
		fmt.Fprintf(w, "posted: %s\n", counted(adjustments, "adjustment"))
	case len(r.Missing) > 0:
		fmt.Fprintln(w, "this is a part of the whole and cannot be posted: start the server with --read-archive-dir for the archive of each other server")
	case adjustments == 0:
		fmt.Fprintln(w, "nothing is left to post")
	default:
		fmt.Fprintf(w, "to post: %s (--accept)\n", counted(adjustments, "adjustment"))
	}
	return nil
}

func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return thousands(n) + " " + what
}
