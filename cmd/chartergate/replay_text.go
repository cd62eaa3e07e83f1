package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/chartergate/chartergate/replay"
)

// grid is a table of aligned columns. A column whose title starts with `>` is aligned right.
type grid struct {
	right []bool
	rows  [][]string
	notes []string // lines under the table
}

func newGrid(titles ...string) *grid {
	g := &grid{right: make([]bool, len(titles))}
	for i, t := range titles {
		titles[i], g.right[i] = strings.CutPrefix(t, ">")
	}
	g.rows = append(g.rows, titles)
	return g
}

// add adds a row. Cells are escaped: callers choose ids and names.
func (g *grid) add(cells ...string) {
	for i, c := range cells {
		cells[i] = visible(c)
	}
	g.rows = append(g.rows, cells)
}

// write prints the table, each line after indent; nothing when it has no rows but its titles.
func (g *grid) write(w io.Writer, indent string) {
	if len(g.rows) == 1 {
		return
	}
	widths := make([]int, len(g.right))
	for _, row := range g.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range g.rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if g.right[i] {
				line.WriteString(pad + cell + "  ")
			} else {
				line.WriteString(cell + pad + "  ")
			}
		}
		fmt.Fprintln(w, indent+strings.TrimRight(line.String(), " "))
	}
	for i, note := range g.notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, indent+visible(note))
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// amount writes nanos as currency units with four decimals, rounded half up: 1,234.5678. What is less than 0.0001 has
// all its decimals, so that only 0 shows as 0. For people; the JSON output is exact.
func amount(nanos int64) string {
	sign := ""
	if nanos < 0 {
		sign, nanos = "-", -nanos
	}
	if nanos > 0 && nanos < 100_000 {
		return sign + strings.TrimRight(fmt.Sprintf("0.%09d", nanos), "0")
	}
	tenThousandths := nanos / 100_000
	if nanos%100_000 >= 50_000 {
		tenThousandths++
	}
	return fmt.Sprintf("%s%s.%04d", sign, thousands(tenThousandths/10_000), tenThousandths%10_000)
}

// percent writes part of whole as 12.3%, rounded down; `-` where whole is 0.
func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", float64(int64(float64(part)/float64(whole)*1000))/10)
}

func millis(ms float64) string {
	return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
}

// wait writes a delay shortly, such as 45s or 7h30m.
func wait(d time.Duration) string {
	switch {
	case d <= 0:
		return "-"
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// printReplay writes a result for people.
func printReplay(w io.Writer, r *replay.Result) {
	rate := 0.0
	if r.DurationSeconds > 0 {
		rate = float64(r.Requests) / r.DurationSeconds
	}
	fmt.Fprintf(w, "%s: %s requests in %.1f s, %s a second\n\n", r.Feature, thousands(r.Requests), r.DurationSeconds, thousands(int64(rate)))
	counts := newGrid("EFFECT", ">REQUESTS", ">SHARE")
	for _, c := range []struct {
		name string
		n    int64
	}{{"allowed", r.Allowed}, {"downgraded", r.Downgraded}, {"throttled", r.Throttled}, {"denied", r.Denied}, {"errors", r.Errors}} {
		counts.add(c.name, thousands(c.n), percent(c.n, r.Requests))
	}
	counts.write(w, "  ")
	fmt.Fprintf(w, "\n  settled %s %s, of which forced %s\n", amount(r.SettledNanos), r.Currency, amount(r.ForcedNanos))
	fmt.Fprintf(w, "  reserve p50 %s, p99 %s; settle p99 %s", millis(r.ReserveP50ms), millis(r.ReserveP99ms), millis(r.SettleP99ms))
	if r.Retries > 0 {
		fmt.Fprintf(w, "; %s retries", thousands(r.Retries))
	}
	fmt.Fprintln(w)
	printSection(w, "What served the calls", tierGrid(r.ByTier, r.Currency))
	printSection(w, "What was refused, and why", refusalGrid(r.Refusals))
	printSection(w, "The budgets of the path", standingGrid(r.Budgets))
	if r.Interrupted {
		fmt.Fprintln(w, "\nInterrupted: the rest of the trace was not sent.")
	}
}

func printSection(w io.Writer, title string, g *grid) {
	if len(g.rows) > 1 {
		fmt.Fprintf(w, "\n%s\n", title)
		g.write(w, "  ")
	}
}

func tierGrid(costs []replay.TierCost, currency string) *grid {
	g := newGrid("TIER", "MODEL", ">REQUESTS", ">INPUT TOKENS", ">CACHED", ">OUTPUT TOKENS", ">COST "+currency, ">PER 1,000")
	for _, c := range costs {
		g.add(c.Tier, c.Model, thousands(c.Requests), thousands(c.InputTokens), percent(c.CachedTokens, c.InputTokens),
			thousands(c.OutputTokens), amount(c.SettledNanos), amount(perThousand(c.SettledNanos, c.Requests)))
	}
	return g
}

func perThousand(nanos, requests int64) int64 {
	if requests == 0 {
		return 0
	}
	return int64(float64(nanos) / float64(requests) * 1000) // shown with four decimals
}

func refusalGrid(refusals []replay.Refusal) *grid {
	g := newGrid("EFFECT", "REASON", "BUDGET", ">REQUESTS", ">FIRST AT ROW", ">RETRY AFTER", "THE FIRST MESSAGE")
	for _, f := range refusals {
		g.add(f.Effect, f.Reason, f.Budget, thousands(f.Requests), thousands(f.FirstRow),
			wait(time.Duration(f.RetryMs*float64(time.Millisecond))), f.Message)
	}
	return g
}

// mostKeys is how many keys of `per` budgets a table shows.
const mostKeys = 8

func standingGrid(budgets []replay.BudgetStanding) *grid {
	g := newGrid("BUDGET", "PERIOD", "CURRENCY", ">LIMIT", ">SETTLED", ">FORCED", ">HELD", ">LEFT", ">USED", ">ALERTS")
	keys := 0
	for _, b := range budgets {
		if strings.Contains(b.Name, "/keys/") {
			if keys++; keys > mostKeys {
				continue
			}
		}
		g.add(b.Name, b.Period, b.Currency, amount(b.LimitNanos), amount(b.SettledNanos), amount(b.ForcedNanos), amount(b.HeldNanos),
			amount(b.RemainingNanos), percent(b.SettledNanos+b.HeldNanos, b.LimitNanos), strconv.Itoa(b.Alerts))
	}
	if keys > mostKeys {
		g.add(fmt.Sprintf("… and %s more keys (-o json shows all)", thousands(int64(keys-mostKeys))), "", "", "", "", "", "", "", "", "")
	}
	return g
}
