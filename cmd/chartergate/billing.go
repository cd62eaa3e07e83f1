package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/chartergate/chartergate/billing"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
)

// databaseEnv names the usage database where --database-url does not; the password is better there than on the command
// line, which every process on the machine can read.
const databaseEnv = "CHARTERGATE_DATABASE_URL"

// usageDatabase is the file of the embedded database in the data directory.
const usageDatabase = "usage.db"

// databaseFlags name the usage database.
type databaseFlags struct{ url, dataDir, output string }

func (d *databaseFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.url, "database-url", os.Getenv(databaseEnv), "database of usage and bills, postgres://user@host/database; default "+databaseEnv+" of the environment")
	cmd.Flags().StringVar(&d.dataDir, "data-dir", "chartergate-data", "data directory of the server whose embedded database is used; it may be running")
	cmd.Flags().StringVarP(&d.output, "output", "o", "table", "table or json")
	completeFlag(cmd, "output", func() []string { return journalOutputs })
}

func (d *databaseFlags) open(ctx context.Context) (*sql.Store, error) {
	if d.output != "table" && d.output != "json" {
		return nil, usagef("unknown output %q: use table or json", d.output)
	}
	return sql.Open(ctx, cmp.Or(d.url, "sqlite:"+filepath.Join(d.dataDir, usageDatabase)), sql.Options{})
}

// closing closes s, and gives its error where there is no other.
func closing(s *sql.Store, err *error) { *err = errors.Join(*err, s.Close()) }

func newBillingCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "billing",
		Short: "Import the bills of providers, sum them up, and compare them with the ledger",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBillingImportCommand(), newBillingListCommand(), newBillingTotalsCommand(), newBillingReconcileCommand())
	return cmd
}

type billingImport struct {
	databaseFlags
	options                        billing.Options
	dryRun, strict, replace, again bool
	server                         string
}

func newBillingImportCommand() *cobra.Command {
	var o billingImport
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Import bills: FOCUS, AWS, Azure and Google Cloud exports",
		Long: `Import bills into the usage database: FOCUS 1.0 to 1.4, AWS cost and usage reports (legacy and 2.0), Azure cost exports and
Google Cloud detailed exports; as CSV, JSON lines or Parquet, CSV and JSON also compressed with gzip. The format is found by the columns.

The files of one command are one delivery. A file that was imported before is left out. A line that is in an earlier
file too, by all that identifies it but its amounts, takes that line's place: a corrected export restates. Lines that a
corrected export no longer has stay, unless --replace says that the files are all there is of their accounts and months.
An import that was stopped goes on when it is started again. What is wrong with a file leaves nothing of the delivery behind; rows
that cannot be read are skipped and reported, or refuse the file with --strict.`,
		Example: `  chartergate billing import focus-2026-09.csv.gz
  chartergate billing import --dry-run cur/*.parquet
  chartergate billing import --replace corrected-2026-09.csv -o json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name the files to import")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args) },
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.options.Format, "format", "", "format, instead of finding it: "+strings.Join(billing.Formats, ", "))
	f.StringVar(&o.options.Encoding, "encoding", "", "encoding of text: utf-8, utf-16 or windows-1252")
	f.StringSliceVar(&o.options.FeatureTags, "feature-tag", nil, "tags that name the feature, preferred ones first (default "+strings.Join(billing.DefaultFeatureTags, ",")+")")
	f.BoolVar(&o.dryRun, "dry-run", false, "read and report only; no database is needed")
	f.BoolVar(&o.strict, "strict", false, "refuse a file with a row that cannot be read")
	f.BoolVar(&o.replace, "replace", false, "take lines of earlier files away that are of the same accounts and months and not in these")
	f.BoolVar(&o.again, "again", false, "import files again that were imported before, as with other feature tags")
	f.StringVar(&o.server, "server", "", "send the files to the server at this gRPC address, HOST:PORT, instead of opening its database; each is a delivery of its own")
	cmd.MarkFlagsMutuallyExclusive("server", "dry-run")
	cmd.MarkFlagsMutuallyExclusive("server", "again")
	cmd.MarkFlagsMutuallyExclusive("server", "database-url")
	cmd.MarkFlagsMutuallyExclusive("server", "data-dir")
	completeFlag(cmd, "format", func() []string { return billing.Formats })
	completeFlag(cmd, "encoding", func() []string { return []string{billing.UTF8, billing.UTF16, billing.Windows} })
	return cmd
}

func (o *billingImport) run(cmd *cobra.Command, paths []string) (err error) {
	if f := o.options.Format; f != "" && !slices.Contains(billing.Formats, f) {
		return usagef("unknown format %q: use one of %s", f, strings.Join(billing.Formats, ", "))
	}
	if o.output != "table" && o.output != "json" {
		return usagef("unknown output %q: use table or json", o.output)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	progress := &billingProgress{w: cmd.ErrOrStderr()}
	var reports []*billing.Report
	switch {
	case o.dryRun:
		reports, err = billing.DryRun(paths, o.options, o.strict, progress.show)
	case o.server != "":
		reports, err = o.send(ctx, paths, progress.show)
	default:
		var s *sql.Store
		if s, err = o.open(ctx); err != nil {
			return err
		}
		defer closing(s, &err)
		m := &billing.Importer{Bills: s, Options: o.options, Strict: o.strict, Replace: o.replace, Again: o.again, Now: time.Now, Progress: progress.show}
		reports, err = m.Import(ctx, paths)
	}
	progress.finish()
	if err != nil {
		return err
	}
	if o.output == "json" {
		return indented(cmd.OutOrStdout(), reports)
	}
	for _, r := range reports {
		printReport(cmd.OutOrStdout(), r)
	}
	return nil
}

// send has the server import the files, one after the other.
func (o *billingImport) send(ctx context.Context, paths []string, progress func(string, int64, int64)) ([]*billing.Report, error) {
	client, err := dial(o.server)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var reports []*billing.Report
	for _, path := range paths {
		r, err := o.sendFile(ctx, pb.NewBillingServiceClient(client.Conn()), path, progress)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		reports = append(reports, r)
	}
	return reports, nil
}

const partBytes = 256 << 10

func (o *billingImport) sendFile(ctx context.Context, client pb.BillingServiceClient, path string, progress func(string, int64, int64)) (*billing.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	stream, err := client.ImportBill(ctx)
	if err != nil {
		return nil, err
	}
	part := &pb.ImportBillRequest{Options: &pb.BillOptions{FileName: path, Format: o.options.Format, Encoding: o.options.Encoding, FeatureTags: o.options.FeatureTags,
		Strict: o.strict, Replace: o.replace}}
	for sent, buffer := int64(0), make([]byte, partBytes); ; {
		if err := stream.Send(part); err != nil {
			break // the answer says why
		}
		n, err := f.Read(buffer)
		if n == 0 && err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		part = &pb.ImportBillRequest{Data: buffer[:n]}
		sent += int64(n)
		progress(path, sent, info.Size())
	}
	resp, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	r := &billing.Report{}
	return r, json.Unmarshal([]byte(resp.GetImport().GetReportJson()), r)
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func printReport(w io.Writer, r *billing.Report) {
	fmt.Fprintf(w, "%s: %s, %s\n", visible(r.File), r.Format, r.State)
	imported := "imported"
	if r.State == billing.StateDryRun {
		imported = "can be imported"
	}
	fmt.Fprintf(w, "  rows      %s read, %s "+imported+", %s skipped\n", thousands(r.Read), thousands(r.Imported), thousands(r.Skipped))
	if r.Restated+r.Removed+r.Kept > 0 {
		fmt.Fprintf(w, "  earlier   %s lines restated, %s removed, %s kept that are not in this delivery\n", thousands(r.Restated), thousands(r.Removed), thousands(r.Kept))
	}
	if r.Imported > 0 {
		fmt.Fprintf(w, "  charges   %s to %s, billed in %s\n", r.From.Format(time.DateOnly), r.To.Format(time.DateOnly), strings.Join(r.Periods, ", "))
	}
	for _, t := range r.Totals {
		fmt.Fprintf(w, "  %s       billed %s, effective %s, list %s\n", t.Currency, t.BilledExact, t.EffectiveExact, t.ListExact)
		if t.Billed != t.BilledExact || t.Effective != t.EffectiveExact || t.List != t.ListExact {
			fmt.Fprintf(w, "            as lines, each rounded to a nano: billed %s, effective %s, list %s\n", t.Billed, t.Effective, t.List)
		}
		if t.CreditsExact != "" {
			fmt.Fprintf(w, "            billed has credits of %s in it\n", t.CreditsExact)
		}
		if t.WithoutEffective+t.WithoutList > 0 {
			fmt.Fprintf(w, "            %s rows without an effective cost, %s without a list cost\n", thousands(t.WithoutEffective), thousands(t.WithoutList))
		}
	}
	if len(r.Absent) > 0 {
		fmt.Fprintf(w, "  unknown   the file has no column %s\n", strings.Join(r.Absent, ", "))
	}
	printReasons(w, "skipped", r.Reasons)
	printReasons(w, "imported with", r.Warnings)
}

func printReasons(w io.Writer, what string, list []billing.Reason) {
	for _, x := range list {
		fmt.Fprintf(w, "  %-9s %s: %s rows\n", what, x.Reason, thousands(x.Rows))
		for _, line := range x.First {
			fmt.Fprintf(w, "            %s\n", visible(line))
		}
	}
}

// billingProgress is a bar on a terminal, of the file's bytes.
type billingProgress struct {
	w    io.Writer
	file string
	bar  *progressbar.ProgressBar
}

func (p *billingProgress) show(file string, read, size int64) {
	if !isTerminal(p.w) {
		return
	}
	if file != p.file {
		p.finish()
		p.file = file
		p.bar = progressbar.NewOptions64(size, progressbar.OptionSetWriter(p.w), progressbar.OptionSetWidth(30), progressbar.OptionShowBytes(true),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true), progressbar.OptionSetDescription(visible(filepath.Base(file))))
	}
	if p.bar != nil && p.bar.Set64(min(read, size-1)) != nil {
		p.bar = nil // the import matters more
	}
}

func (p *billingProgress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
		p.bar = nil
	}
}

func newBillingListCommand() *cobra.Command {
	var d databaseFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the files that were imported, and imports that were stopped",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			s, err := d.open(cmd.Context())
			if err != nil {
				return err
			}
			defer closing(s, &err)
			list, err := s.ListBills(cmd.Context())
			if err != nil {
				return err
			}
			if d.output == "json" {
				return indented(cmd.OutOrStdout(), importsJSON(list))
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.OutOrStdout(), "No bill was imported: chartergate billing import FILE")
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "FILE\tFORMAT\tROWS\tIMPORTED")
			for _, b := range list {
				state := "stopped: import it again to go on"
				if b.Done {
					state = b.Finished.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", visible(b.Name), b.Format, thousands(b.Position), state)
			}
			return w.Flush()
		},
	}
	d.add(cmd)
	return cmd
}

type importJSON struct {
	File     string          `json:"file"`
	Format   string          `json:"format"`
	Hash     string          `json:"sha256"`
	Done     bool            `json:"done"`
	Rows     int64           `json:"rows"`
	Finished time.Time       `json:"finished,omitzero"`
	Report   json.RawMessage `json:"report,omitempty"`
}

func importsJSON(list []store.BillImport) []importJSON {
	out := make([]importJSON, len(list))
	for i, b := range list {
		out[i] = importJSON{b.Name, b.Format, b.Hash, b.Done, b.Position, b.Finished, b.Report}
	}
	return out
}
