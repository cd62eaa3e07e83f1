package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store/archive"
)

// journalOptions are the flags of journal.
type journalOptions struct {
	dirs         []string
	feature      string
	since, until string
	output       string
}

var journalOutputs = []string{"table", "json"}

func newJournalCommand() *cobra.Command {
	var o journalOptions
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "Show the settlements in an archive",
		Long: `Show the settlements, releases and expiry charges that servers have moved to their archives, each once. A settlement comes
to the archive about a minute after it was made; until then it is in etcd. The server may be running.

Every server has an archive of its own: name all of them to see all settlements.`,
		Example: `  chartergate journal
  chartergate journal --feature support-copilot --since 2026-11-01T00:00:00Z
  chartergate journal --archive-dir /srv/a/archive --archive-dir /srv/b/archive -o json | jq .amount_nanos`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.dirs, "archive-dir", []string{"chartergate-data/archive"}, "archive directory of a server; once for each")
	f.StringVar(&o.feature, "feature", "", "only this feature's")
	f.StringVar(&o.since, "since", "", "only what was recorded at or after this time, such as 2026-11-01T00:00:00Z")
	f.StringVar(&o.until, "until", "", "only what was recorded before this time")
	f.StringVarP(&o.output, "output", "o", "table", "table, or json: an object on each line")
	completeFlag(cmd, "output", func() []string { return journalOutputs })
	return cmd
}

// journalLine is one entry of a journal as JSON.
type journalLine struct {
	Time        time.Time       `json:"time"`
	Kind        string          `json:"kind"` // settle, release, expiry charge, usage
	Feature     string          `json:"feature"`
	Tier        string          `json:"tier,omitempty"`
	Model       string          `json:"model,omitempty"`
	AmountNanos int64           `json:"amount_nanos"`
	ForcedNanos int64           `json:"forced_nanos"`
	HeldNanos   int64           `json:"held_nanos"`
	Late        bool            `json:"late,omitempty"`
	Budgets     []string        `json:"budgets"` // from the leaf to the root
	CallTime    time.Time       `json:"call_time"`
	Effect      string          `json:"effect,omitempty"`
	Outcome     string          `json:"outcome,omitempty"`
	User        string          `json:"user,omitempty"`
	Cohort      string          `json:"cohort,omitempty"`
	Agent       string          `json:"agent,omitempty"`
	Run         string          `json:"run,omitempty"`
	Task        string          `json:"task,omitempty"`
	Pattern     string          `json:"prompt_pattern,omitempty"`
	RequestID   string          `json:"request_id,omitempty"`
	Usage       json.RawMessage `json:"usage,omitempty"`
	Journal     string          `json:"journal"`
	Hold        uint64          `json:"hold,omitempty"` // its number, by owner
}

func (o *journalOptions) run(out, errs io.Writer) error {
	var since, until time.Time
	for _, f := range []struct {
		flag, text string
		into       *time.Time
	}{{"--since", o.since, &since}, {"--until", o.until, &until}} {
		if f.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, f.text)
		if err != nil {
			return usagef("%s %q: use a time such as 2026-11-01T00:00:00Z", f.flag, f.text)
		}
		*f.into = at
	}
	if o.output != "table" && o.output != "json" {
		return usagef("unknown output %q: use %s", o.output, strings.Join(journalOutputs, ", "))
	}
	r, err := archive.NewReader(o.dirs...)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	show := showTable(w)
	if o.output == "json" {
		show = showJSON(w)
	}
	for b, err := range r.Batches() {
		if err != nil {
			return err
		}
		var batch storev1.Batch
		if err := proto.Unmarshal(b.Data, &batch); err != nil {
			return fmt.Errorf("batch %d of owner %s: %w", b.N, b.Owner, err)
		}
		for _, e := range batch.GetEntries() {
			at := time.UnixMilli(e.GetTimeMs()).UTC()
			if o.feature != "" && e.GetFeature() != o.feature || at.Before(since) || o.until != "" && !at.Before(until) {
				continue
			}
			line, err := newJournalLine(b.Owner, b.N, &batch, e)
			if err != nil {
				return err
			}
			if err := show(line); err != nil {
				return err
			}
		}
	}
	if err := show(nil); err != nil {
		return err
	}
	if r.Torn > 0 {
		fmt.Fprintf(errs, "chartergate: %d bytes at the end are no whole record: one is being written, or a crash has cut it off\n", r.Torn)
	}
	return w.Flush()
}

func newJournalLine(owner string, n uint64, b *storev1.Batch, e *storev1.Entry) (*journalLine, error) {
	l := &journalLine{
		Time: time.UnixMilli(e.GetTimeMs()).UTC(), Kind: short(e.GetKind(), "ENTRY_KIND_"), Feature: e.GetFeature(), Tier: e.GetTier(), Model: e.GetModel(),
		AmountNanos: e.GetAmount(), ForcedNanos: e.GetForced(), HeldNanos: e.GetHeld(), Late: e.GetLate(), CallTime: time.UnixMilli(e.GetCallMs()).UTC(),
		Effect: short(pb.Effect(e.GetEffect()), "EFFECT_"), Outcome: short(pb.Outcome(e.GetOutcome()), "OUTCOME_"), User: e.GetUser(), Cohort: e.GetCohort(),
		Agent: e.GetAgent(), Run: e.GetRun(), Task: e.GetTask(), Pattern: e.GetPromptPattern(), RequestID: e.GetRequestId(), Journal: fmt.Sprintf("jr/%s/%d", owner, n), Hold: e.GetSeq(),
	}
	for _, at := range e.GetPath() {
		if int(at) >= len(b.GetAccounts()) {
			return nil, fmt.Errorf("an entry of %s names account %d of %d", l.Journal, at, len(b.GetAccounts()))
		}
		a := b.GetAccounts()[at]
		name := "budgets/" + a.GetBudget()
		if a.GetKey() != "" {
			name += "/keys/" + a.GetKey()
		} else if a.GetOverflow() != "" {
			name += "/overflow/" + a.GetOverflow()
		}
		l.Budgets = append(l.Budgets, name)
	}
	if len(e.GetUsage()) > 0 {
		var used pb.Usage
		if err := proto.Unmarshal(e.GetUsage(), &used); err != nil {
			return nil, fmt.Errorf("the usage of an entry of %s: %w", l.Journal, err)
		}
		var err error
		if l.Usage, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(&used); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// showJSON writes each line as it comes.
func showJSON(w io.Writer) func(*journalLine) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return func(l *journalLine) error {
		if l == nil {
			return nil
		}
		return e.Encode(l)
	}
}

// showTable writes each line as it comes, in columns of fixed width, and at the end (nil) the sums.
func showTable(w io.Writer) func(*journalLine) error {
	const columns = "%-24s  %-14s  %-24s  %-10s  %-20s  %14s  %14s  %s\n"
	count, settled, forced := int64(0), money.Nanos(0), money.Nanos(0)
	return func(l *journalLine) error {
		if l == nil {
			if count == 0 {
				_, err := fmt.Fprintln(w, "The archive holds no such settlement; one comes there about a minute after it was made.")
				return err
			}
			_, err := fmt.Fprintf(w, "\n%s entries, %s settled, of which forced %s\n", thousands(count), amount(int64(settled)), amount(int64(forced)))
			return err
		}
		if count++; count == 1 {
			if _, err := fmt.Fprintf(w, columns, "TIME", "KIND", "FEATURE", "TIER", "MODEL", "AMOUNT", "FORCED", "BUDGET"); err != nil {
				return err
			}
		}
		var err error
		if settled, err = money.Add(settled, money.Nanos(l.AmountNanos)); err != nil {
			return fmt.Errorf("the sum: %w", err)
		}
		forced += money.Nanos(l.ForcedNanos) // at most as much
		kind, budget := l.Kind, ""
		if l.Late {
			kind += " (late)"
		}
		if len(l.Budgets) > 0 {
			budget = bareID(l.Budgets[0])
		}
		_, err = fmt.Fprintf(w, columns, l.Time.Format("2006-01-02 15:04:05.000Z"), kind, visible(l.Feature), visible(l.Tier), visible(l.Model),
			amount(l.AmountNanos), amount(l.ForcedNanos), visible(budget))
		return err
	}
}
