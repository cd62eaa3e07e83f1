package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/prices"
	"github.com/chartergate/chartergate/proto/convert"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func newPricesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prices",
		Short: "Import published prices, tell which models have none, and restate what was settled at wrong ones",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPricesImportCommand(), newPricesSeedCommand(), newPricesCoverageCommand(), newPricesRestateCommand())
	return cmd
}

// maxBookPrices is the API's limit.
const maxBookPrices = 2000

// importFlags are the flags of what puts prices into a price book.
type importFlags struct {
	*clientFlags
	book, effective string
	providers       []string
	dryRun, all     bool
}

func addImportFlags(cmd *cobra.Command, book string) *importFlags {
	f := &importFlags{clientFlags: addClientFlags(cmd)}
	cmd.Flags().StringVar(&f.book, "book", book, "price book to put the prices into; made if it is not there")
	cmd.Flags().StringArrayVar(&f.providers, "provider", nil, "only this provider's models; repeatable")
	cmd.Flags().StringVar(&f.effective, "effective", "", "from when new prices hold that have no published date, such as 2026-12-01 (default now)")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only tell what would change")
	cmd.Flags().BoolVar(&f.all, "all", false, "list unchanged and skipped models too")
	return f
}

func newPricesImportCommand() *cobra.Command {
	var format, file string
	cmd := &cobra.Command{
		Use:   "import --file FILE",
		Short: "Put a published price list into a price book",
		Long: `Put a price list of genai-prices (prices/data.json) or LiteLLM (model_prices_and_context_window.json) into a price book, and
tell what changed, rate by rate. Prices that hold already are never changed: a new rate is a price of its own, from
--effective on or from the date that the list gives, if that is later.`,
		Example: `  chartergate prices import --file data.json --provider anthropic --dry-run
  chartergate prices import --format litellm --file model_prices_and_context_window.json --provider openai --book openai`,
		Args: cobra.NoArgs,
	}
	f := addImportFlags(cmd, "imported")
	cmd.Flags().StringVar(&file, "file", "", "the price list")
	cmd.Flags().StringVar(&format, "format", "", prices.GenAI+" or "+prices.LiteLLM+" (default: told apart)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file == "" {
			return usagef("--file is required: name a price list")
		}
		if format != "" && format != prices.GenAI && format != prices.LiteLLM {
			return usagef("unknown format %q: use %s or %s", format, prices.GenAI, prices.LiteLLM)
		}
		list, err := prices.Load(file, format)
		if err != nil {
			return err
		}
		return f.run(cmd, list)
	}
	return cmd
}

func newPricesSeedCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "seed",
		Short:   "Put the prices that ship with this binary into a price book",
		Long:    "Put the prices of the main models that ship with this binary, with their date and source, into a price book.",
		Example: "  chartergate prices seed --provider openai --dry-run",
		Args:    cobra.NoArgs,
	}
	f := addImportFlags(cmd, "seed")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		list, err := prices.Seed()
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", list.Source, list.Info.Source)
		return f.run(cmd, list)
	}
	return cmd
}

func (f *importFlags) run(cmd *cobra.Command, list *prices.Book) error {
	imp := prices.Import{Providers: f.providers, Effective: time.Now().UTC().Truncate(time.Second)}
	if f.effective != "" {
		at, err := time.Parse(time.RFC3339, f.effective)
		if err != nil {
			at, err = time.Parse(time.DateOnly, f.effective)
		}
		if err != nil {
			return usagef("--effective %q is neither a date such as 2026-12-01 nor a time such as 2026-12-01T00:00:00Z", f.effective)
		}
		imp.Effective = at.UTC()
	}
	return f.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
		name := "priceBooks/" + strings.TrimPrefix(f.book, "priceBooks/")
		was, err := client.Prices.GetPriceBook(ctx, &pb.GetPriceBookRequest{Name: name})
		fresh := status.Code(err) == codes.NotFound
		if err != nil && !fresh {
			return err
		}
		if fresh {
			was = &pb.PriceBook{Name: name, Currency: prices.Currency}
		}
		if was.Currency != prices.Currency {
			return fmt.Errorf("%s is in %s, the list is in %s: name another price book with --book", name, was.Currency, prices.Currency)
		}
		book, err := convert.PriceBookFromProto(was)
		if err != nil {
			return err
		}
		next, changes, err := imp.Into(book.Prices, list)
		if err != nil {
			return err
		}
		if len(next) > maxBookPrices {
			return fmt.Errorf("%s would have %d prices, a price book has at most %d: import providers into books of their own with --provider and --book", name, len(next), maxBookPrices)
		}
		to := convert.PriceBookToProto(&charter.PriceBook{ID: book.ID, Currency: book.Currency, Prices: next, Adjustments: book.Adjustments, Rates: book.Rates})
		to.Etag = was.Etag
		changed := slices.ContainsFunc(changes, func(c prices.Change) bool { return c.Kind == prices.Added || c.Kind == prices.Changed })
		switch {
		case !changed:
		case fresh:
			_, err = client.Prices.CreatePriceBook(ctx, &pb.CreatePriceBookRequest{PriceBook: to, ValidateOnly: f.dryRun})
		default:
			_, err = client.Prices.UpdatePriceBook(ctx, &pb.UpdatePriceBookRequest{PriceBook: to, ValidateOnly: f.dryRun})
		}
		if err != nil {
			return err
		}
		writeChanges(cmd.OutOrStdout(), changes, f.all)
		if f.dryRun {
			fmt.Fprintln(cmd.OutOrStdout(), "nothing was written (--dry-run)")
		}
		return nil
	})
}

func writeChanges(w io.Writer, changes []prices.Change, all bool) {
	count := map[prices.Kind]int{}
	for _, c := range changes {
		count[c.Kind]++
		switch {
		case c.Kind == prices.Skipped && all:
			fmt.Fprintf(w, "skipped    %s %s: %s\n", c.Provider, c.Model, c.Why)
		case c.Kind == prices.Unchanged && all:
			fmt.Fprintf(w, "unchanged  %s %s\n", c.Provider, c.Model)
		case c.Kind == prices.Added || c.Kind == prices.Changed:
			fmt.Fprintf(w, "%-10s %s %s from %s\n", c.Kind, c.Provider, c.Model, c.Effective.Format(time.RFC3339))
			for _, r := range c.Rates {
				if r.Old == "" {
					fmt.Fprintf(w, "    %s: %s\n", r.Name, r.New)
				} else {
					fmt.Fprintf(w, "    %s: %s -> %s\n", r.Name, r.Old, cmp.Or(r.New, "none"))
				}
			}
		}
	}
	fmt.Fprintf(w, "%d added, %d changed, %d unchanged, %d skipped\n", count[prices.Added], count[prices.Changed], count[prices.Unchanged], count[prices.Skipped])
}

func newPricesCoverageCommand() *cobra.Command {
	var days int
	cmd := &cobra.Command{
		Use:   "coverage",
		Short: "Tell which models of the catalog and of traffic have no price, and how old prices are",
		Args:  cobra.NoArgs,
	}
	c := addClientFlags(cmd)
	cmd.Flags().IntVar(&days, "days", 30, "how many days of traffic to look at, 1 to 400")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if days < 1 || days > 400 {
			return usagef("--days is %d, it must be 1 to 400", days)
		}
		return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
			r, err := client.Prices.ReportPriceCoverage(ctx, &pb.ReportPriceCoverageRequest{Window: durationpb.New(time.Duration(days) * 24 * time.Hour)})
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), r, func(w io.Writer) { writeCoverage(w, r, time.Now()) })
		})
	}
	return cmd
}

func writeCoverage(w io.Writer, r *pb.ReportPriceCoverageResponse, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "MODEL\tPROVIDER\tCATALOG\tCALLS\tPRICE FROM\tAGE\tBOOK\tSOURCE")
	for _, m := range r.Models {
		from, age, book, source := "none", "", "", ""
		if p := m.Price; p != nil {
			from, book, source = date(p.EffectiveTime), bareID(p.PriceBook), p.Source
			age = fmt.Sprintf("%d days", int(now.Sub(p.EffectiveTime.AsTime()).Hours()/24))
		}
		catalog := "no"
		if m.InCatalog {
			catalog = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", visible(m.Model), visible(m.Provider), catalog, m.Calls, from, age, book, visible(source))
	}
	_ = t.Flush()
	if !r.TrafficIncluded {
		fmt.Fprintln(w, "this server keeps no usage: only the catalog was looked at")
	}
}
