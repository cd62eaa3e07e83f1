package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

type replayFlags struct {
	format, file, speed      string
	features, cohorts, tiers string
	limit                    int
	success                  int64
	recorded                 bool
	server, output           string
	options                  replay.Options
}

func newReplayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay --format FORMAT --file FILE {--feature NAME | --features NAME,…}",
		Short: "Send a recorded trace of AI calls through the gate",
		Long: `Send a recorded trace through the gate: reserve each call, settle it with what it really used, and tell what happened.
Rows that are refused count as refused and are not sent again. While the server is out of reach calls are tried again,
under the same request ids. The exit status is 0 only if every row had an answer.

--features, --cohorts and --tiers part the rows by a hash of each, the same way every time: free=3,pro gives three of four
rows to free. --cache-ttl simulates the prompt cache of each model from the trace's fingerprints, in trace time: what a
prompt begins with that the model was sent within that time is read from the cache, and the rest is written to it where
the model has a price for that. A prefix shorter than the provider caches is not read.

Formats:
  azure-llm  CSV of the Azure LLM inference traces: TIMESTAMP,ContextTokens,GeneratedTokens
  mooncake   JSON lines of the Mooncake traces; hash_ids seen within ` + wait(replay.CacheTTL) + ` of trace time count as cached
  csv        CSV with a header that names columns of the list below
  jsonl      JSON objects, one on each line, with keys of the list below

Columns and keys (input_tokens and output_tokens are required):
` + describeColumns(),
		Example: `  chartergate replay --format azure-llm --file AzureLLMInferenceTrace_conv.csv --feature support-copilot --concurrency 64
  chartergate replay --format mooncake --file conversation_trace.jsonl --feature code-assistant --speed 60 -o json
  chartergate replay --format mooncake --file conversation_trace.jsonl --features support-copilot=3,code-assistant --cohorts free,pro --success-rate 92 --cache-ttl 5m --recorded-time`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runReplay(cmd, &f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.format, "format", "", "format of the trace: azure-llm, mooncake, csv or jsonl")
	fl.StringVar(&f.file, "file", "", "file of the trace; - is standard input")
	fl.StringVar(&f.options.Feature, "feature", "", "the feature that makes the calls")
	fl.StringVar(&f.features, "features", "", "several features that make the calls, with weights: support=3,code")
	fl.StringVar(&f.cohorts, "cohorts", "", "cohorts of calls, with weights, where the trace names none")
	fl.StringVar(&f.tiers, "tiers", "", "tiers that calls ask for, with weights, where the trace names none")
	fl.Int64Var(&f.success, "success-rate", -1, "percent of calls, chosen by a hash of the row, that succeed where the trace does not say; -1: not known")
	fl.DurationVar(&f.options.CacheTTL, "cache-ttl", 0, "simulate each model's prompt cache with this time to live, such as 5m or 1h; 0: take the trace's cached tokens")
	fl.BoolVar(&f.recorded, "recorded-time", false, "compare prompts by the trace's own times, as if it began now; use it unless --speed is real")
	fl.StringVar(&f.options.Model, "model", "", "model that calls ask for, where the trace names none")
	fl.StringVar(&f.options.Tier, "tier", "", "tier that calls ask for, where the trace names none")
	fl.StringVar(&f.options.TaskClass, "task-class", "", "task class of calls, where the trace names none")
	fl.StringVar(&f.options.Cohort, "cohort", "", "cohort of calls, where the trace names none")
	fl.StringVar(&f.options.User, "user", "", "user of calls, where the trace names none")
	fl.StringVar(&f.options.Agent, "agent", "", "agent of calls, where the trace names none")
	fl.StringVar(&f.options.Run, "run", "", "agent run of calls, where the trace names none")
	fl.StringVar(&f.speed, "speed", "max", "real for the trace's own times, a number for that many times faster, or max")
	fl.IntVar(&f.options.Concurrency, "concurrency", 16, "calls in flight at most")
	fl.Int64Var(&f.options.MaxOutput, "max-output", 0, "hold money for at least this many output tokens; 0: for what each call really used")
	fl.IntVar(&f.limit, "limit", 0, "send only this many rows; 0: all")
	fl.StringVar(&f.options.RunID, "run-id", "", "what request ids are made from; a random one unless set")
	fl.DurationVar(&f.options.RetryFor, "retry-for", replay.DefaultRetryFor, "how long to try a call again while the server is out of reach")
	addServerFlag(cmd, &f.server)
	fl.StringVarP(&f.output, "output", "o", "table", "table or json")
	cmd.MarkFlagsMutuallyExclusive("model", "tier")
	completeFeatures(cmd, &f.server)
	completeFlag(cmd, "format", func() []string {
		var formats []string
		for _, format := range replay.Formats {
			formats = append(formats, string(format))
		}
		return formats
	})
	cmd.MarkFlagsOneRequired("feature", "features")
	cmd.MarkFlagsMutuallyExclusive("feature", "features")
	cmd.MarkFlagsMutuallyExclusive("cohort", "cohorts")
	cmd.MarkFlagsMutuallyExclusive("model", "tiers")
	cmd.MarkFlagsMutuallyExclusive("tier", "tiers")
	for _, name := range []string{"format", "file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	return cmd
}

func describeColumns() string {
	var b strings.Builder
	for _, c := range replay.Columns {
		fmt.Fprintf(&b, "  %-15s %s\n", c.Name, c.Meaning)
	}
	return b.String()
}

func runReplay(cmd *cobra.Command, f *replayFlags) error {
	if f.output != "table" && f.output != "json" {
		return usagef("unknown output %q: use table or json", f.output)
	}
	if !slices.Contains(replay.Formats, replay.Format(f.format)) {
		return usagef("unknown trace format %q: use one of %v", f.format, replay.Formats)
	}
	var err error
	if f.options.Speed, err = parseSpeed(f.speed); err != nil {
		return err
	}
	if f.options.RunID == "" {
		f.options.RunID = "replay-" + rand.Text()[:16]
	}
	if f.options.Concurrency < 1 {
		return usagef("--concurrency %d is too low: use 1 or more", f.options.Concurrency)
	}
	if f.limit < 0 {
		return usagef("--limit %d is below 0: write how many rows to send, 0 for all", f.limit)
	}
	if err := f.mixes(); err != nil {
		return err
	}
	if err := f.options.Check(); err != nil {
		return usagef("%v", err)
	}
	source, err := openTrace(cmd, f.file)
	if err != nil {
		return err
	}
	defer source.Close()
	rows, err := replay.Read(replay.Format(f.format), f.file, source)
	if err != nil {
		return err
	}
	client, err := dial(f.server)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once

	// One error for a feature that does not exist, instead of one for each row.
	for _, feature := range f.options.AllFeatures() {
		if _, err := client.Charters.GetCharter(ctx, &pb.GetCharterRequest{Name: "charters/" + feature}); err != nil {
			return fmt.Errorf("feature %s on %s: %w", feature, f.server, err)
		}
	}
	if f.options.CacheTTL > 0 {
		if f.options.CacheWrites, err = chargedWrites(ctx, client.Prices); err != nil {
			return fmt.Errorf("prices on %s: %w", f.server, err)
		}
	}
	progress := newReplayProgress(cmd.ErrOrStderr(), source, f.limit)
	result, runErr := replay.Run(ctx, f.options, client.Preflight, replay.Limit(rows, f.limit), progress.answer)
	progress.finish()
	if result == nil || result.Requests == 0 && runErr != nil {
		return runErr
	}
	if result.Requests == 0 && !result.Interrupted {
		return fmt.Errorf("%s: the file has no rows", f.file)
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.options.RetryFor)
	defer cancel()
	budgets, err := replay.Paths(after, client.Charters, client.Budgets, f.options.AllFeatures())
	if err == nil {
		result.Budgets = budgets
	}
	if err := errors.Join(err, writeReplay(cmd.OutOrStdout(), f.output, result)); err != nil {
		return err
	}
	switch {
	case runErr != nil && result.Errors > 0:
		return fmt.Errorf("%w; and %d of %d calls had no answer; the first: %s", runErr, result.Errors, result.Requests, result.FirstError)
	case runErr != nil:
		return runErr
	case result.Errors > 0:
		return fmt.Errorf("%d of %d calls had no answer; the first: %s", result.Errors, result.Requests, result.FirstError)
	case result.Interrupted:
		return errors.New("interrupted: the rest of the trace was not sent")
	}
	return nil
}

// mixes reads the flags that part rows.
func (f *replayFlags) mixes() (err error) {
	for _, m := range []struct {
		flag, text string
		mix        *replay.Mix
	}{{"features", f.features, &f.options.Features}, {"cohorts", f.cohorts, &f.options.Cohorts}, {"tiers", f.tiers, &f.options.Tiers}} {
		if *m.mix, err = replay.ParseMix(m.text); err != nil {
			return usagef("--%s %v", m.flag, err)
		}
	}
	if f.success < -1 || f.success > 100 {
		return usagef("--success-rate %d is not 0 to 100 percent", f.success)
	}
	if f.success >= 0 {
		f.options.SuccessPercent = &f.success
	}
	if f.recorded {
		f.options.Recorded = time.Now()
	}
	return nil
}

// chargedWrites says which models have a price for cache writes now.
func chargedWrites(ctx context.Context, prices pb.PriceServiceClient) (func(model string) bool, error) {
	charged := map[string]time.Time{} // since when
	free := map[string]time.Time{}
	now := time.Now()
	for token := ""; ; {
		page, err := prices.ListPriceBooks(ctx, &pb.ListPriceBooksRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, book := range page.GetPriceBooks() {
			for _, p := range book.GetPrices() {
				since, which := p.GetEffectiveTime().AsTime(), free
				if p.CacheWrite_5MNanos != nil {
					which = charged
				}
				if last, ok := which[p.GetModel()]; !since.After(now) && (!ok || since.After(last)) {
					which[p.GetModel()] = since
				}
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	return func(model string) bool {
		since, ok := charged[model]
		return ok && !free[model].After(since)
	}, nil
}

func writeReplay(w io.Writer, output string, r *replay.Result) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	printReplay(w, r)
	return nil
}

func parseSpeed(s string) (float64, error) {
	switch s {
	case "max":
		return 0, nil
	case "real":
		return 1, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0 && n <= 1e9) {
		return 0, usagef("--speed %q is neither real, max nor a number above 0", s)
	}
	return n, nil
}

// traceSource is the trace's bytes and how many of them were read.
type traceSource struct {
	io.ReadCloser
	size int64 // 0 when not known
	read atomic.Int64
}

func (s *traceSource) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.read.Add(int64(n))
	return n, err
}

func openTrace(cmd *cobra.Command, file string) (*traceSource, error) {
	if file == "-" {
		return &traceSource{ReadCloser: io.NopCloser(cmd.InOrStdin())}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	s := &traceSource{ReadCloser: f}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		s.size = info.Size()
	}
	return s, nil
}

// replayProgress is a bar on a terminal and nothing otherwise: of the rows when their number is limited, else of the
// trace's bytes.
type replayProgress struct {
	bar                      *progressbar.ProgressBar
	source                   *traceSource
	limit                    int
	shown                    time.Time
	admitted, refused, wrong int64
}

func newReplayProgress(w io.Writer, source *traceSource, limit int) *replayProgress {
	p := &replayProgress{source: source, limit: limit}
	if !isTerminal(w) {
		return p
	}
	most := int64(-1) // a spinner
	if limit > 0 {
		most = int64(limit)
	} else if source.size > 0 {
		most = source.size
	}
	p.bar = progressbar.NewOptions64(most, progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	return p
}

func (p *replayProgress) answer(a *replay.Answer) {
	switch {
	case a.Err != nil:
		p.wrong++
	case a.Settlement != nil:
		p.admitted++
	default:
		p.refused++
	}
	if p.bar == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	p.shown = time.Now()
	p.bar.Describe(fmt.Sprintf("%s admitted, %s refused, %s errors", thousands(p.admitted), thousands(p.refused), thousands(p.wrong)))
	at := p.source.read.Load() // ahead of the calls by a buffer
	if p.source.size > 0 {
		at = min(at, p.source.size-1)
	}
	if p.limit > 0 {
		at = p.admitted + p.refused + p.wrong
	}
	p.draw(p.bar.Set64(at))
}

func (p *replayProgress) finish() {
	if p.bar != nil {
		p.draw(p.bar.Finish())
	}
}

// draw gives the bar up when it cannot be drawn: the replay matters more.
func (p *replayProgress) draw(err error) {
	if err != nil {
		p.bar = nil
	}
}

func isTerminal(w io.Writer) bool {
	if o, ok := w.(*output); ok {
		w = o.Writer
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
