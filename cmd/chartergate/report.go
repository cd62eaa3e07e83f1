package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/usage"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// reports make the subcommands of report. Add a line to add a report.
var reports = []func() *cobra.Command{
	newAllocationCommand,
	newTrendCommand,
	newUnitEconomicsCommand,
	newBudgetsAtRiskCommand,
	newExecutiveCommand,
	newOptimizationCommand,
}

func newReportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report REPORT",
		Short: "Show who spent what, where it is going and what a success costs",
		Long: `Show who spent what, where it is going and what a success costs. Every report says up to where the ledger is counted;
its sums are the ledger's, to the nano: the csv and json outputs have them exactly. In csv, a key that a spreadsheet would
take for a formula begins with an apostrophe.

A window is --from and --to, --last (default 30d) or --period: 2026, 2026-Q4, 2026-10, 2026-W48, 2026-11-23, this-month,
last-quarter and the like, in --time-zone. Usage is counted by whole hours.

Dimensions for --by and --where: ` + strings.Join(usage.Dimensions, ", ") + `, and label:KEY.`,
		Example: `  chartergate report allocation --by team,model --last 7d
  chartergate report allocation --by cohort --period 2026-10 --time-zone Europe/Zurich --where feature=support-copilot --verify
  chartergate report trend --by feature --step week --period this-quarter
  chartergate report executive --period last-month -o markdown`,
		Args: func(cmd *cobra.Command, args []string) error {
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			if len(args) > 0 {
				return usagef("unknown report %q: use %s", args[0], strings.Join(names, ", "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, newReport := range reports {
		cmd.AddCommand(newReport())
	}
	return cmd
}

// maxReport is the largest report, in bytes.
const maxReport = 64 << 20

// reportFlags are the flags of reports about a window.
type reportFlags struct {
	*clientFlags
	from, to, last, period, month, zone string
	by, where                           []string
}

// addReportFlags adds the flags of a window and conditions; byDefault is nil where the report has no dimensions.
func addReportFlags(cmd *cobra.Command, byDefault []string, more ...string) *reportFlags {
	r := &reportFlags{clientFlags: addClientFlags(cmd, append([]string{"csv"}, more...)...)}
	f := cmd.Flags()
	f.StringVar(&r.from, "from", "", "start of the window, at a whole hour: 2026-10-01, 2026-10-01T08:00 (in --time-zone) or 2026-10-01T08:00:00Z")
	f.StringVar(&r.to, "to", "", "end of the window, not included; default the end of this hour")
	f.StringVar(&r.last, "last", "", "so long up to the end of this hour, such as 24h, 7d or 4w")
	f.StringVar(&r.period, "period", "", "a calendar period, such as 2026-10, 2026-Q4, this-week or last-month")
	f.StringVar(&r.month, "month", "", "the same for a month, such as 2026-10")
	f.StringVar(&r.zone, "time-zone", "", "IANA time zone of dates and periods, such as Europe/Zurich; default UTC")
	f.StringArrayVar(&r.where, "where", nil, "only usage of DIMENSION=KEY, such as team=search; again for alternatives and further dimensions")
	if byDefault != nil {
		f.StringSliceVar(&r.by, "by", byDefault, "dimensions, such as feature,tier")
		completeFlag(cmd, "by", func() []string { return usage.Dimensions })
	}
	completeFlag(cmd, "period", func() []string {
		return []string{"this-day", "last-day", "this-week", "last-week", "this-month", "last-month", "this-quarter", "last-quarter"}
	})
	return r
}

// window is what the flags ask for; nil for the report's default.
func (r *reportFlags) window() (*pb.ReportWindow, error) {
	w := &pb.ReportWindow{Period: r.period, TimeZone: r.zone}
	if r.month != "" {
		if r.period != "" {
			return nil, usagef("--month and --period are the same: give one")
		}
		if _, err := time.Parse("2006-01", r.month); err != nil {
			return nil, usagef("--month is %q: write a month, such as 2026-10", r.month)
		}
		w.Period = r.month
	}
	for _, end := range []struct {
		flag, text string
		to         **timestamppb.Timestamp
	}{{"from", r.from, &w.StartTime}, {"to", r.to, &w.EndTime}} {
		if end.text == "" {
			continue
		}
		t, err := parseTime(end.text, r.zone)
		if err != nil {
			return nil, usagef("--%s is %q: %v", end.flag, end.text, err)
		}
		*end.to = timestamppb.New(t)
	}
	if r.last != "" {
		d, err := parseLast(r.last)
		if err != nil {
			return nil, usagef("--last is %q: %v", r.last, err)
		}
		w.Last = durationpb.New(d)
	}
	return w, nil
}

func parseTime(s, zone string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return time.Time{}, fmt.Errorf("--time-zone %q is unknown: use an IANA name such as Europe/Zurich", zone)
	}
	for _, form := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(form, s, loc); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("write a date or a time, such as 2026-10-01 or 2026-10-01T08:00:00Z")
}

func parseLast(s string) (time.Duration, error) {
	for unit, hours := range map[string]int64{"d": 24, "w": 7 * 24} {
		if n, err := strconv.ParseInt(strings.TrimSuffix(s, unit), 10, 32); strings.HasSuffix(s, unit) && err == nil && n > 0 {
			return time.Duration(n*hours) * time.Hour, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("write how long, such as 24h, 7d or 4w")
}

// ask calls a method of the report service and prints its answer: csv and markdown by the given functions.
func ask[Q, A proto.Message](cmd *cobra.Command, c *clientFlags, method func(pb.ReportServiceClient, context.Context, Q, ...grpc.CallOption) (A, error), q Q,
	table func(io.Writer, A), rows func(A) [][]string, markdown func(io.Writer, A)) error {
	return c.call(cmd, func(ctx context.Context, client *chartergate.Client) error {
		a, err := method(client.Reports, ctx, q, grpc.MaxCallRecvMsgSize(maxReport))
		if err != nil {
			return err
		}
		w := cmd.OutOrStdout()
		switch c.output {
		case "csv":
			return csv.NewWriter(w).WriteAll(rows(a))
		case "markdown":
			markdown(w, a)
			return nil
		}
		return c.print(w, a, func(w io.Writer) { table(w, a) })
	})
}

func newAllocationCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "allocation",
		Short: "Who spent what, by any dimensions",
		Example: `  chartergate report allocation --by team,tier --last 7d
  chartergate report allocation --by label:product --where team=search --where team=support -o csv`,
		Args: cobra.NoArgs,
	}
	r := addReportFlags(cmd, []string{usage.DimFeature})
	q := &pb.GetAllocationRequest{}
	components := false
	cmd.Flags().Int32Var(&q.MaxRows, "rows", 100, "the most rows of each currency; the others are summed")
	cmd.Flags().BoolVar(&q.Verify, "verify", false, "compare with what the ledger has settled on the root budgets")
	cmd.Flags().BoolVar(&components, "components", false, "show the cost by component instead of the tokens")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Window, err = r.window(); err != nil {
			return err
		}
		q.By, q.Where = r.by, r.where
		return ask(cmd, r.clientFlags, pb.ReportServiceClient.GetAllocation, q,
			func(w io.Writer, a *pb.Allocation) { printAllocation(w, a, components) }, allocationRows, nil)
	}
	return cmd
}

func newTrendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trend",
		Short: "Where spend is going: by step, against the window before, with a forecast and when budgets run out",
		Long: `Where spend is going: by step, against the window before, with a forecast for the end of a period and when budgets
run out.

The forecast is a least-squares fit of the daily sums of the last 8 weeks: their mean, a line, a mean of each weekday, or
both, the plainest that fits; its interval is nominally 80%. With less than 3 days it goes on at the rate of late.`,
		Example: `  chartergate report trend --by feature --step week --period this-quarter --forecast this-quarter`,
		Args:    cobra.NoArgs,
	}
	r := addReportFlags(cmd, []string{})
	q := &pb.GetTrendRequest{}
	step := "day"
	cmd.Flags().StringVar(&step, "step", step, "hour, day, week or month")
	cmd.Flags().Int32Var(&q.MaxSeries, "series", 10, "the most series of each currency, the dearest")
	cmd.Flags().StringVar(&q.ForecastPeriod, "forecast", "this-month", "the period up to whose end is forecast")
	completeFlag(cmd, "step", func() []string { return []string{"hour", "day", "week", "month"} })
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		n, known := pb.ReportStep_value["REPORT_STEP_"+strings.ToUpper(step)]
		if !known || n == 0 {
			return usagef("unknown --step %q: use hour, day, week or month", step)
		}
		if q.Window, err = r.window(); err != nil {
			return err
		}
		q.Step, q.By, q.Where = pb.ReportStep(n), r.by, r.where
		return ask(cmd, r.clientFlags, pb.ReportServiceClient.GetTrend, q, printTrend, trendRows, nil)
	}
	return cmd
}

func newUnitEconomicsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "unit-economics",
		Short:   "What 1,000 successful outcomes cost, against the target and the window before",
		Example: `  chartergate report unit-economics --by feature,cohort --last 4w`,
		Args:    cobra.NoArgs,
	}
	r := addReportFlags(cmd, []string{usage.DimFeature})
	q := &pb.GetUnitEconomicsRequest{}
	cmd.Flags().Int32Var(&q.MaxRows, "rows", 100, "the most rows of each currency, the dearest")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Window, err = r.window(); err != nil {
			return err
		}
		q.By, q.Where = r.by, r.where
		return ask(cmd, r.clientFlags, pb.ReportServiceClient.GetUnitEconomics, q, printUnits, unitRows, nil)
	}
	return cmd
}

func newBudgetsAtRiskCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "budgets-at-risk",
		Short: "Budgets that are used up, will not last, are above a threshold or have forced spend",
		Example: `  chartergate report budgets-at-risk
  chartergate report budgets-at-risk --budget engineering --severity high`,
		Args: cobra.NoArgs,
	}
	c := addClientFlags(cmd, "csv")
	q := &pb.GetBudgetsAtRiskRequest{}
	severity := "notice"
	severities := []string{"notice", "warning", "high", "critical"}
	cmd.Flags().StringVar(&q.Budget, "budget", "", "only this budget and those under it")
	cmd.Flags().StringVar(&severity, "severity", severity, "only those as urgent as this: "+strings.Join(severities, ", "))
	cmd.Flags().Int32Var(&q.MaxRows, "rows", 100, "the most budgets, the most urgent")
	completeFlag(cmd, "severity", func() []string { return severities })
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !slices.Contains(severities, severity) {
			return usagef("unknown --severity %q: use %s", severity, strings.Join(severities, ", "))
		}
		q.MinSeverity = pb.RiskSeverity(pb.RiskSeverity_value["RISK_SEVERITY_"+strings.ToUpper(severity)])
		if q.Budget != "" && !strings.HasPrefix(q.Budget, "budgets/") {
			q.Budget = "budgets/" + q.Budget
		}
		return ask(cmd, c, pb.ReportServiceClient.GetBudgetsAtRisk, q, printRisks, riskRows, nil)
	}
	return cmd
}

func newExecutiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "executive",
		Short: "A month or quarter in brief",
		Example: `  chartergate report executive
  chartergate report executive --period last-quarter -o markdown > quarter.md`,
		Args: cobra.NoArgs,
	}
	r := addReportFlags(cmd, nil, "markdown")
	q := &pb.GetExecutiveSummaryRequest{}
	cmd.Flags().Int32Var(&q.MaxRows, "rows", 5, "the most rows of each list")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if q.Window, err = r.window(); err != nil {
			return err
		}
		q.Where = r.where
		return ask(cmd, r.clientFlags, pb.ReportServiceClient.GetExecutiveSummary, q,
			func(w io.Writer, a *pb.ExecutiveSummary) { executivePage(a).text(w) }, executiveRows,
			func(w io.Writer, a *pb.ExecutiveSummary) { executivePage(a).markdown(w) })
	}
	return cmd
}
