package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
)

// actions say what to do about a risk, one sentence each.
func (m *Maker) actions(r *Risk) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	end, currency := stamp(r.Period.End), r.Budget.Currency
	need := money.Nanos(0)
	if r.Forecast != nil && r.Forecast.Expected > r.Limit {
		need = r.Forecast.Expected - r.Limit
	}
	for _, reason := range r.Reasons {
		switch reason {
		case Exhausted:
			if need > 0 {
				say("Raise the limit by %s %s to last until %s; until then %s.", About(need), currency, end, m.consequence(r.Account))
			} else {
				say("Raise the limit, or wait for the next period at %s; until then %s.", end, m.consequence(r.Account))
			}
		case Overspend:
			say("Spend %s %s a day instead of %s to last until %s, or raise the limit by %s.", About(r.Affordable), currency, About(r.Rate), end, About(need))
		case MayOverspend:
			say("Watch it: it may come to %s %s by %s.", About(r.Forecast.High), currency, end)
		case AboveThreshold:
			if r.Reasons[0] == AboveThreshold {
				say("Watch it: at the rate of late it lasts until %s.", end)
			}
		case ForcedSpend:
			say("%s %s was settled above its holds, late, or without one: let calls declare the output that they may need, and settle before holds expire.", About(r.Forced), currency)
		case OverflowInUse:
			say("Feature %s runs on its overflow allowance, on its cheapest tier: raise the limit of budgets/%s, or let it end.", r.Overflow, r.Budget.ID)
		}
	}
	if r.Severity < High {
		return list
	}
	if len(r.Features) > 0 && r.Features[0].Feature != "" {
		f := r.Features[0]
		say("Feature %s spends %d.%d%% of it: route it to a cheaper tier, trim its context or cache its prompts first.", f.Feature, f.Share/10, f.Share%10)
	}
	if path := m.escalation(r.Budget.ID); path != "" {
		say("Escalate: %s.", path)
	}
	return list
}

// consequence says what becomes of calls when an account is used up.
func (m *Maker) consequence(a *Account) string {
	if a.Key != "" || a.Overflow != "" {
		return "its calls are denied"
	}
	modes := map[charter.ExhaustedMode]bool{}
	for _, c := range m.chartersOf(a.Budget.ID) {
		modes[max(c.Exhausted.Mode, charter.ExhaustedDeny)] = true
	}
	if len(modes) == 1 {
		switch {
		case modes[charter.ExhaustedDowngrade]:
			return "calls run on the cheapest tier, paid from the overflow allowance"
		case modes[charter.ExhaustedTrickle]:
			return "a few calls a minute run on the cheapest tier, paid from the overflow allowance"
		}
	}
	return "calls under it are denied, or run on overflow allowances"
}

// escalation names who is told in turn, by the first charter of a leaf budget that says so.
func (m *Maker) escalation(budget string) string {
	charters := m.chartersOf(budget)
	i := slices.IndexFunc(charters, func(c *charter.Charter) bool { return len(c.Escalation) > 0 })
	if i < 0 {
		return ""
	}
	var names []string
	for _, step := range charters[i].Escalation {
		names = append(names, step.Owner.Name)
	}
	return strings.Join(names, ", then ")
}

// chartersOf are the charters whose leaf a budget is, by id.
func (m *Maker) chartersOf(budget string) []*charter.Charter {
	if m.byLeaf == nil {
		m.byLeaf = map[string][]*charter.Charter{}
		for _, c := range m.Charters.Charters() {
			m.byLeaf[c.Budget] = append(m.byLeaf[c.Budget], c)
		}
	}
	return m.byLeaf[budget]
}

// About writes an amount for people: two decimals from one unit on, else four, or all below 0.0001.
func About(n money.Nanos) string {
	abs, unit := n, money.Nanos(10_000_000)
	if n < 0 {
		abs = -n
	}
	decimals := 2
	if abs < money.Unit {
		decimals, unit = 4, 100_000
	}
	if abs < 100_000 {
		return n.String()
	}
	q, _ := Ratio(int64(abs), 1, int64(unit))
	scale := int64(money.Unit / unit)
	sign := ""
	if n < 0 {
		sign = "-"
	}
	whole := fmt.Sprint(q / scale)
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return fmt.Sprintf("%s%s.%0*d", sign, whole, decimals, q%scale)
}
