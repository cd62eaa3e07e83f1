package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// printTrend writes a trend for people.
func printTrend(w io.Writer, a *pb.Trend) {
	if len(a.GetTables()) == 0 {
		nothing(w, a.GetScope())
		return
	}
	fmt.Fprintln(w, visible(title("Trend of each "+short(a.GetStep(), "REPORT_STEP_"), a.GetBy(), a.GetScope())))
	for _, t := range a.GetTables() {
		fmt.Fprintln(w)
		pointGrid(t, a).write(w, "")
		fmt.Fprintln(w)
		seriesGrid(t, a.GetBy()).write(w, "")
		if len(t.GetRunOuts()) > 0 {
			fmt.Fprintln(w)
			runOutGrid(t).write(w, "")
		}
	}
	fmt.Fprintf(w, "\nCHANGE of a series is against %s to %s. %s\n", minute(a.GetPreviousStartTime()), minute(a.GetPreviousEndTime()), coverageText(a.GetScope()))
}

// pointGrid shows the total step by step.
func pointGrid(t *pb.TrendTable, a *pb.Trend) *grid {
	c := coinsFor(t.GetTotal().GetCostNanos())
	g := newGrid(upper([]string{short(a.GetStep(), "REPORT_STEP_")})[0], ">"+t.GetCurrency(), ">CHANGE", ">CALLS", "")
	zone, err := time.LoadLocation(a.GetScope().GetTimeZone())
	if err != nil {
		zone = time.UTC
	}
	form := time.DateOnly
	switch a.GetStep() {
	case pb.ReportStep_REPORT_STEP_HOUR:
		form, zone = "2006-01-02 15:04Z", time.UTC
	case pb.ReportStep_REPORT_STEP_MONTH:
		form = "2006-01"
	}
	for _, p := range t.GetTotal().GetPoints() {
		delta, note := "", ""
		if p.ChangeNanos != nil {
			if delta = c.text(p.GetChangeNanos()); p.GetChangeNanos() > 0 {
				delta = "+" + delta
			}
		}
		if p.GetPartial() {
			note = "in part"
		}
		g.add(p.GetStartTime().AsTime().In(zone).Format(form), c.text(p.GetCostNanos()), delta, thousands(p.GetCalls()), note)
	}
	return g
}

// seriesGrid shows what each series comes to.
func seriesGrid(t *pb.TrendTable, by []string) *grid {
	c := coinsFor(t.GetTotal().GetCostNanos())
	head := upper(by)
	if len(by) == 0 {
		head = []string{""}
	}
	until := ""
	if f := t.GetTotal().GetForecast(); f != nil {
		until = " " + f.GetPeriod()
	}
	g := newGrid(append(head, ">"+t.GetCurrency(), ">BEFORE", ">CHANGE", ">A DAY", ">FORECAST"+until, ">FROM", ">TO", "METHOD")...)
	add := func(keys []string, s *pb.TrendSeries) {
		forecast, low, high, method := "n/a", "n/a", "n/a", ""
		if f := s.GetForecast(); f != nil {
			forecast, low, high = c.text(f.GetExpectedNanos()), c.optional(f.LowNanos), c.optional(f.HighNanos)
			method = fmt.Sprintf("%s of %s", strings.ReplaceAll(f.GetMethod(), "_", " "), plural(int64(f.GetDays()), "day", "days"))
		}
		g.add(append(keys, c.text(s.GetCostNanos()), c.text(s.GetPreviousCostNanos()), change(s.ChangePermille), c.text(s.GetRunRateNanos()), forecast, low, high, method)...)
	}
	for _, s := range t.GetSeries() {
		add(keyTexts(s.GetKeys()), s)
	}
	add(padded("total", max(1, len(by))), t.GetTotal())
	if n := t.GetMoreSeries(); n > 0 {
		g.notes = append(g.notes, plural(n, "more series is", "more series are")+" in the total only.")
	}
	if t.GetTotal().GetForecast() != nil {
		g.notes = append(g.notes, "The forecast is an estimate; nominally 8 of 10 cases lie between FROM and TO.")
	}
	return g
}

// shownRunOuts is how many budgets a trend names.
const shownRunOuts = 20

func runOutGrid(t *pb.TrendTable) *grid {
	g := newGrid("BUDGET THAT WILL NOT LAST", "OWNER", ">LEFT", "RUNS OUT", "PERIOD ENDS")
	for i, r := range t.GetRunOuts() {
		if i == shownRunOuts {
			g.notes = append(g.notes, fmt.Sprintf("… and %d more; -o json has all.", len(t.GetRunOuts())-i))
			break
		}
		g.add(bareID(r.GetBudget()), r.GetOwner().GetName(), amount(r.GetRemainingNanos()), minute(r.GetRunOutTime()), minute(r.GetEndTime()))
	}
	return g
}
