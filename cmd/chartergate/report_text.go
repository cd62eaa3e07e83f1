package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/usage"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// minute writes a time to the minute, in UTC.
func minute(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04Z")
}

// windowText names the window of a report.
func windowText(s *pb.ReportScope) string {
	if s.GetPeriod() == "" {
		return minute(s.GetStartTime()) + " to " + minute(s.GetEndTime())
	}
	if zone := s.GetTimeZone(); zone != "UTC" {
		return s.GetPeriod() + " (" + zone + ")"
	}
	return s.GetPeriod()
}

// title is the first line of a report.
func title(what string, by []string, s *pb.ReportScope) string {
	if len(by) > 0 {
		what += " by " + strings.Join(by, ", ")
	}
	what += ", " + windowText(s)
	if len(s.GetWhere()) > 0 {
		what += ", where " + strings.Join(s.GetWhere(), ", ")
	}
	return what
}

// coverageText says up to where the ledger is counted.
func coverageText(s *pb.ReportScope) string {
	if s.GetAsOfTime() == nil {
		return "The ledger has no settlement that is counted yet."
	}
	text := "The ledger is counted up to the settlement of " + timeText(s.GetAsOfTime())
	const shown = 4
	var at []string
	for i, p := range s.GetPositions() {
		if i == shown {
			at = append(at, fmt.Sprintf("and %d more", len(s.GetPositions())-shown))
			break
		}
		at = append(at, fmt.Sprintf("%s/%d", shortID(p.GetOwner()), p.GetBatch()))
	}
	if len(at) > 0 {
		text += ", batch " + strings.Join(at, ", ")
	}
	return text + "."
}

// nothing says that a report is empty.
func nothing(w io.Writer, s *pb.ReportScope) {
	text := fmt.Sprintf("No settlements between %s and %s", minute(s.GetStartTime()), minute(s.GetEndTime()))
	if len(s.GetWhere()) > 0 {
		text += " where " + strings.Join(s.GetWhere(), ", ")
	}
	if t := s.GetAsOfTime(); t != nil {
		text += "; the ledger has counted up to " + timeText(t)
	} else {
		text += "; the ledger has counted none yet"
	}
	fmt.Fprintln(w, visible(text+"."))
}

// keyText is a key for people.
func keyText(key string) string {
	if key == "" {
		return "(unallocated)"
	}
	return key
}

func keyTexts(keys []string) []string {
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = keyText(k)
	}
	return texts
}

// coins writes amounts of one column: two decimals where one of them is 100 or more, else as amount does.
type coins bool

func coinsFor(largest int64) coins { return largest >= 100e9 || largest <= -100e9 }

func (c coins) text(nanos int64) string {
	if !c {
		return amount(nanos)
	}
	sign := ""
	if nanos < 0 {
		sign, nanos = "-", -nanos
	}
	if nanos > 0 && nanos < 5e6 {
		return sign + "<0.01"
	}
	cents := nanos / 1e7
	if nanos%1e7 >= 5e6 {
		cents++
	}
	return fmt.Sprintf("%s%s.%02d", sign, thousands(cents/100), cents%100)
}

func (c coins) optional(nanos *int64) string {
	if nanos == nil {
		return "n/a"
	}
	return c.text(*nanos)
}

// permille writes 123 as 12.3%.
func permille(n int64) string {
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	return fmt.Sprintf("%s%s.%d%%", sign, thousands(n/10), n%10)
}

// change writes a change in per mille with its sign; n/a where there is nothing to compare with.
func change(n *int64) string {
	switch {
	case n == nil:
		return "n/a"
	case *n > 0:
		return "+" + permille(*n)
	}
	return permille(*n)
}

// thousandths writes n/1000 with one decimal.
func thousandths(n *int64) string {
	if n == nil {
		return "n/a"
	}
	tenths := (*n + 50) / 100
	return thousands(tenths/10) + "." + strconv.FormatInt(tenths%10, 10)
}

func upper(dimensions []string) []string {
	titles := make([]string, len(dimensions))
	for i, d := range dimensions {
		titles[i] = strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(d, usage.DimLabel), "_", " "))
	}
	return titles
}

// padded puts text in front of empty cells, n in all: the keys of a total or rest.
func padded(text string, n int) []string {
	if n == 0 {
		return nil
	}
	return append([]string{text}, make([]string, n-1)...)
}

func allInput(u *pb.Usage) int64 {
	return u.GetInputTokens() + u.GetCacheReadTokens() + u.GetCacheWrite_5MTokens() + u.GetCacheWrite_1HTokens() + u.GetAudioInputTokens()
}

func allOutput(u *pb.Usage) int64 {
	return u.GetOutputTokens() + u.GetReasoningTokens() + u.GetAudioOutputTokens()
}

func saved(t *pb.UsageTotals) int64 {
	return t.GetSavedCacheReadNanos() - t.GetCacheWritePremiumNanos() + t.GetSavedDowngradeNanos()
}

// printAllocation writes an allocation for people.
func printAllocation(w io.Writer, a *pb.Allocation, components bool) {
	if len(a.GetTables()) == 0 {
		nothing(w, a.GetScope())
	} else {
		fmt.Fprintln(w, visible(title("Allocation", a.GetBy(), a.GetScope())))
	}
	for _, t := range a.GetTables() {
		fmt.Fprintln(w)
		allocationGrid(t, a.GetBy(), components).write(w, "")
	}
	if len(a.GetTables()) > 0 {
		fmt.Fprintln(w, "\n"+coverageText(a.GetScope()))
	}
	printComparisons(w, a.GetLedger())
}

func allocationGrid(t *pb.AllocationTable, by []string, components bool) *grid {
	c := coinsFor(t.GetTotal().GetTotals().GetCostNanos())
	titles := append(upper(by), ">"+t.GetCurrency(), ">SHARE", ">CALLS")
	if components {
		titles = append(titles, ">INPUT", ">CONTEXT", ">OUTPUT", ">RETRIEVAL", ">TOOLS", ">COMPUTE", ">OTHER")
	} else {
		titles = append(titles, ">REFUSED", ">INPUT TOKENS", ">CACHED", ">OUTPUT TOKENS", ">FORCED", ">SAVED")
	}
	g := newGrid(titles...)
	add := func(keys []string, r *pb.AllocationRow) {
		x, u := r.GetTotals(), r.GetTotals().GetUsage()
		cells := append(keys, c.text(x.GetCostNanos()), permille(int64(r.GetSharePermille())), thousands(x.GetCalls()))
		if p := x.GetComponents(); components {
			for _, n := range []int64{p.GetInputNanos(), p.GetContextOverheadNanos(), p.GetOutputNanos(), p.GetRetrievalNanos(), p.GetToolsNanos(), p.GetComputeNanos(), p.GetOtherNanos()} {
				cells = append(cells, c.text(n))
			}
		} else {
			cells = append(cells, thousands(x.GetRefusedCalls()), thousands(allInput(u)), thousands(u.GetCacheReadTokens()), thousands(allOutput(u)),
				c.text(x.GetForcedNanos()), c.text(saved(x)))
		}
		g.add(cells...)
	}
	for _, r := range t.GetRows() {
		if len(by) > 0 {
			add(keyTexts(r.GetKeys()), r)
		}
	}
	if r := t.GetRest(); r != nil {
		add(padded(fmt.Sprintf("%s more", thousands(r.GetCombinations())), len(by)), r)
	}
	add(padded("total", len(by)), t.GetTotal())
	for _, gap := range t.GetGaps() {
		if gap.GetUnallocatedNanos() != 0 {
			g.notes = append(g.notes, fmt.Sprintf("%s %s, %s, names no %s.", c.text(gap.GetUnallocatedNanos()), t.GetCurrency(), permille(int64(gap.GetUnallocatedPermille())), gap.GetDimension()))
		}
		if gap.GetOtherNanos() != 0 {
			g.notes = append(g.notes, fmt.Sprintf("%s %s, %s, is of a %s beyond the most that an hour keeps apart.", c.text(gap.GetOtherNanos()), t.GetCurrency(), permille(int64(gap.GetOtherPermille())), gap.GetDimension()))
		}
	}
	if n := t.GetAdjustmentsNanos(); n != 0 {
		g.notes = append(g.notes, fmt.Sprintf("%s of it is adjustments posted after settlement; the ledger settled %s.",
			exact(n, t.GetCurrency()), exact(t.GetTotal().GetTotals().GetCostNanos()-n, t.GetCurrency())))
	}
	return g
}

// printComparisons writes how reports and ledger compare, exactly.
func printComparisons(w io.Writer, list []*pb.LedgerComparison) {
	if len(list) == 0 {
		return
	}
	g := newGrid("ROOT BUDGET", "PERIOD", ">LEDGER", ">REPORTED", ">DIFFERENCE", "")
	for _, c := range list {
		why := ""
		switch {
		case c.GetProblem() != "":
			why = "not compared: " + c.GetProblem()
		case c.GetDifferenceNanos() == 0:
			why = "equal to the nano"
		default:
			why = "settled after the position"
		}
		g.add(bareID(c.GetBudget()), c.GetPeriod(), exact(c.GetLedgerNanos(), c.GetCurrency()), exact(c.GetReportedNanos(), c.GetCurrency()),
			exact(c.GetDifferenceNanos(), c.GetCurrency()), why)
	}
	fmt.Fprintln(w)
	g.write(w, "")
}

// printUnits writes unit economics for people.
func printUnits(w io.Writer, a *pb.UnitEconomics) {
	if len(a.GetTables()) == 0 {
		nothing(w, a.GetScope())
		return
	}
	fmt.Fprintln(w, visible(title("Unit economics", a.GetBy(), a.GetScope())))
	for _, t := range a.GetTables() {
		fmt.Fprintln(w)
		g := unitGrid(a.GetBy(), t.GetCurrency(), t.GetRows(), t.GetTotal())
		if n := t.GetMoreRows(); n > 0 {
			g.notes = append(g.notes, plural(n, "more row is", "more rows are")+" in the total only.")
		}
		g.write(w, "")
	}
	fmt.Fprintf(w, "\nCHANGE is against %s to %s. %s\n", minute(a.GetPreviousStartTime()), minute(a.GetPreviousEndTime()), coverageText(a.GetScope()))
}

func unitGrid(by []string, currency string, rows []*pb.UnitEconomicsRow, total *pb.UnitEconomicsRow) *grid {
	g := newGrid(append(upper(by), ">"+currency, ">CALLS", ">SUCCESSES", ">SUCCESS", ">PER 1,000 SUCCESSES", ">TARGET", ">CHANGE", ">PER CALL",
		">TOKENS IN", ">OUT", ">HOPS", ">TOOLS")...)
	costs := coinsFor(0)
	for _, r := range append(rows[:len(rows):len(rows)], total) {
		costs = costs || coinsFor(r.GetCostNanos())
	}
	add := func(keys []string, r *pb.UnitEconomicsRow) {
		success, target := "n/a", "none"
		if r.SuccessPermille != nil {
			success = permille(r.GetSuccessPermille())
		}
		if r.TargetPer_1000SuccessesNanos != nil {
			target = amount(r.GetTargetPer_1000SuccessesNanos())
			if r.GetOverTargetNanos() > 0 {
				target += " missed"
			} else if r.OverTargetNanos != nil {
				target += " met"
			}
		}
		g.add(append(keys, costs.text(r.GetCostNanos()), thousands(r.GetCalls()), thousands(r.GetSuccesses()), success,
			coins(false).optional(r.CostPer_1000SuccessesNanos), target, change(r.ChangePermille), coins(false).optional(r.CostPerCallNanos),
			thousandths(r.InputTokensPer_1000Calls), thousandths(r.OutputTokensPer_1000Calls), thousandths(r.RetrievalHopsPer_1000Calls), thousandths(r.ToolCallsPer_1000Calls))...)
	}
	for _, r := range rows {
		add(keyTexts(r.GetKeys()), r)
	}
	if total != nil {
		add(padded("total", len(by)), total)
	}
	return g
}
