package main

import (
	"fmt"
	"io"
	"strings"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// printRisks writes the budgets at risk for people, and what to do.
func printRisks(w io.Writer, a *pb.BudgetsAtRisk) {
	if len(a.GetBudgets()) == 0 {
		fmt.Fprintf(w, "No budget is at risk of %s looked at. %s\n", plural(a.GetChecked(), "account", "accounts"), coverageText(a.GetScope()))
		return
	}
	riskGrid(a.GetBudgets()).write(w, "")
	for _, r := range a.GetBudgets() {
		fmt.Fprintf(w, "\n%s, %s:\n", visible(bareID(r.GetBudget())), visible(ownerText(r.GetOwner())))
		for _, action := range r.GetActions() {
			fmt.Fprintln(w, "  - "+visible(action))
		}
	}
	if n := a.GetMoreBudgets(); n > 0 {
		fmt.Fprintf(w, "\n%s at risk; give --rows for more.\n", plural(n, "more budget is", "more budgets are"))
	}
	fmt.Fprintf(w, "\n%s looked at. %s\n", plural(a.GetChecked(), "account", "accounts"), coverageText(a.GetScope()))
}

func riskGrid(risks []*pb.BudgetRisk) *grid {
	g := newGrid("SEVERITY", "BUDGET", "OWNER", "PERIOD", "CURRENCY", ">LIMIT", ">SETTLED", ">USED", ">FORECAST", "RUNS OUT", "WHY")
	for _, r := range risks {
		forecast, lasts := "n/a", "lasts"
		if f := r.GetForecast(); f != nil {
			forecast = amount(f.GetExpectedNanos())
		}
		switch {
		case r.GetReasons()[0] == pb.RiskReason_RISK_REASON_EXHAUSTED:
			lasts = "used up"
		case r.GetRunOutTime() != nil:
			lasts = minute(r.GetRunOutTime())
		}
		g.add(short(r.GetSeverity(), "RISK_SEVERITY_"), bareID(r.GetBudget()), r.GetOwner().GetName(), r.GetPeriod(), r.GetCurrency(), amount(r.GetLimitNanos()),
			amount(r.GetSettledNanos()), permille(int64(r.GetSettledPermille())), forecast, lasts, reasonsText(r))
	}
	return g
}

func reasonsText(r *pb.BudgetRisk) string {
	var why []string
	for _, reason := range r.GetReasons() {
		switch reason {
		case pb.RiskReason_RISK_REASON_EXHAUSTED:
			why = append(why, "used up")
		case pb.RiskReason_RISK_REASON_FORECAST:
			why = append(why, "will not last")
		case pb.RiskReason_RISK_REASON_FORECAST_HIGH:
			why = append(why, "may not last")
		case pb.RiskReason_RISK_REASON_THRESHOLD:
			why = append(why, "above "+permille(int64(r.GetThresholdPermille())))
		case pb.RiskReason_RISK_REASON_FORCED:
			why = append(why, "forced "+amount(r.GetForcedNanos()))
		case pb.RiskReason_RISK_REASON_OVERFLOW:
			why = append(why, "overflow in use")
		}
	}
	return strings.Join(why, ", ")
}

// page is a report of sections, for a terminal or as Markdown.
type page struct {
	title    string
	sections []section
}

// section is lines, then a table.
type section struct {
	title string
	lines []string
	grid  *grid
}

func (p *page) add(title string, g *grid, lines ...string) {
	if len(lines) > 0 || g != nil && len(g.rows) > 1 {
		p.sections = append(p.sections, section{title, lines, g})
	}
}

func (p *page) text(w io.Writer) {
	fmt.Fprintln(w, visible(p.title))
	for _, s := range p.sections {
		fmt.Fprintf(w, "\n%s\n", visible(s.title))
		for _, line := range s.lines {
			fmt.Fprintln(w, "  "+visible(line))
		}
		if s.grid != nil {
			s.grid.write(w, "  ")
		}
	}
}

// markdown writes the page in GitHub's Markdown.
func (p *page) markdown(w io.Writer) {
	fmt.Fprintln(w, "# "+inMarkdown(visible(p.title)))
	for _, s := range p.sections {
		fmt.Fprintf(w, "\n## %s\n", inMarkdown(visible(s.title)))
		for _, line := range s.lines {
			fmt.Fprintf(w, "\n%s\n", inMarkdown(visible(line)))
		}
		if s.grid != nil {
			fmt.Fprintln(w)
			s.grid.markdown(w)
		}
	}
}

// markdown writes the table in GitHub's Markdown. Its cells are escaped for a terminal already.
func (g *grid) markdown(w io.Writer) {
	if len(g.rows) == 1 {
		return
	}
	for i, row := range g.rows {
		cells := make([]string, len(row))
		for j, c := range row {
			cells[j] = inMarkdown(c)
		}
		fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |")
		if i > 0 {
			continue
		}
		for _, right := range g.right {
			fmt.Fprint(w, map[bool]string{false: "| --- ", true: "| ---: "}[right])
		}
		fmt.Fprintln(w, "|")
	}
	for _, note := range g.notes {
		fmt.Fprintf(w, "\n%s\n", inMarkdown(visible(note)))
	}
}

// inMarkdown escapes what Markdown and HTML would act on.
var inMarkdown = strings.NewReplacer(`\`, `\\`, "|", `\|`, "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "&", "&amp;").Replace

// executivePage makes the page of an executive summary.
func executivePage(a *pb.ExecutiveSummary) *page {
	p := &page{title: title("AI spend", nil, a.GetScope())}
	if len(a.GetTables()) == 0 {
		var b strings.Builder
		nothing(&b, a.GetScope())
		p.add("Spend", nil, strings.TrimSpace(b.String()))
	}
	before := minute(a.GetPreviousStartTime()) + " to " + minute(a.GetPreviousEndTime())
	for _, t := range a.GetTables() {
		x, c := t.GetTotals(), coinsFor(max(t.GetTotals().GetCostNanos(), t.GetPreviousCostNanos()))
		lines := []string{fmt.Sprintf("%s %s in %s calls, %s against %s %s of %s.", c.text(x.GetCostNanos()), t.GetCurrency(), thousands(x.GetCalls()),
			change(t.ChangePermille), c.text(t.GetPreviousCostNanos()), t.GetCurrency(), before)}
		if f := t.GetForecast(); f != nil {
			text := fmt.Sprintf("By the end of %s it may come to %s %s", f.GetPeriod(), c.text(f.GetExpectedNanos()), t.GetCurrency())
			if f.LowNanos != nil {
				text += fmt.Sprintf(" (nominally 8 of 10 cases: %s to %s)", c.text(f.GetLowNanos()), c.text(f.GetHighNanos()))
			}
			lines = append(lines, text+".")
		}
		lines = append(lines, fmt.Sprintf("Saved %s %s: %s by reading from prompt caches, less %s for writing them, and %s by downgrades.", c.text(t.GetSavedNanos()), t.GetCurrency(),
			c.text(x.GetSavedCacheReadNanos()), c.text(x.GetCacheWritePremiumNanos()), c.text(x.GetSavedDowngradeNanos())))
		if n := x.GetRefusedCalls(); n > 0 {
			lines = append(lines, plural(n, "call was", "calls were")+" refused.")
		}
		if n := x.GetForcedNanos(); n > 0 {
			lines = append(lines, fmt.Sprintf("%s %s was settled above holds, late, or without a hold.", c.text(n), t.GetCurrency()))
		}
		if n := t.GetAdjustmentsNanos(); n != 0 {
			lines = append(lines, fmt.Sprintf("%s of it is adjustments posted after settlement.", exact(n, t.GetCurrency())))
		}
		p.add("Spend in "+t.GetCurrency(), nil, lines...)
		movers := newGrid("FEATURE", ">"+t.GetCurrency(), ">BEFORE", ">CHANGE", ">CHANGE %")
		for _, m := range t.GetMovers() {
			movers.add(keyText(m.GetFeature()), c.text(m.GetCostNanos()), c.text(m.GetPreviousCostNanos()), c.text(m.GetChangeNanos()), change(m.ChangePermille))
		}
		p.add("What moved, in "+t.GetCurrency(), movers)
		if met, missed := t.GetTargetsMet(), t.GetTargetsMissed(); met+missed > 0 {
			p.add("Cost of 1,000 successes, in "+t.GetCurrency(), unitGrid([]string{"feature"}, t.GetCurrency(), t.GetTargets(), nil),
				fmt.Sprintf("%s of %s with a target and successes met it.", thousands(met), plural(met+missed, "feature", "features")))
		}
	}
	if len(a.GetBudgetsAtRisk()) > 0 {
		g := riskGrid(a.GetBudgetsAtRisk())
		if n := a.GetMoreBudgetsAtRisk(); n > 0 {
			g.notes = append(g.notes, plural(n, "more budget is", "more budgets are")+" at risk.")
		}
		p.add("Budgets at risk now", g)
	}
	stages := newGrid("STAGE", ">FEATURES", ">COST")
	for _, s := range a.GetStages() {
		name := short(s.GetStage(), "STAGE_")
		if name == "" {
			name = "no charter now"
		}
		var costs []string
		for _, c := range s.GetCosts() {
			costs = append(costs, coinsFor(c.GetCostNanos()).text(c.GetCostNanos())+" "+c.GetCurrency())
		}
		stages.add(name, thousands(s.GetFeatures()), strings.Join(costs, ", "))
	}
	p.add("Features by stage", stages)
	p.add("What this covers", nil, coverageText(a.GetScope()))
	return p
}
