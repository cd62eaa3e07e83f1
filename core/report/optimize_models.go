package report

import (
	"fmt"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// routing measures cheaper tiers: every call on the dearest permitted tier, against what the calls cost.
func (m *measure) routing() Effect {
	e := Effect{Lever: LeverRouting}
	tiers := m.tiers()
	if len(tiers) < 2 {
		e.Summary = "The charter permits models of one tier only: there is nothing to route."
		return e
	}
	top := tiers[len(tiers)-1]
	model := m.modelOf(top)
	saved, compared := m.instead(model, m.rows, false)
	e.Saved, e.Baseline = saved, m.add(compared, saved)
	e.judge()
	var calls int64
	var dear []*usage.Row
	for _, r := range m.rows {
		if tierOf(r) == top {
			calls += r.Calls
			dear = append(dear, r)
		}
	}
	if e.Verdict == NotMeasured {
		e.Summary = "Nothing was spent that could be compared."
		return e
	}
	e.Summary = say("Calls cost %s less than on %s (tier %s): %s saved, %s. %s of the calls ran on tier %s.",
		m.amount(e.Saved), model, top, percent(e.Permille), e.against(), part(calls, m.Totals.Calls), top)
	if e.Verdict == Below && calls > 0 {
		next := tiers[len(tiers)-2]
		cheaper := m.modelOf(next)
		most, _ := m.instead(cheaper, dear, false)
		most = -most
		want, err := money.MulDiv(int64(e.Baseline), Ranges[LeverRouting].Low, 1000)
		m.fail(err)
		gain := max(0, min(most, m.sub(money.Nanos(want), e.Saved)))
		c := Cause{Code: CauseExpensiveTier, Calls: calls, Of: m.Totals.Calls, CouldSave: &gain,
			Summary: say("%d of %d calls ran on tier %s, the dearest. On %s (tier %s) they would cost %s less.",
				calls, m.Totals.Calls, top, cheaper, next, m.amount(most)),
			Action: say("Route %s of them to tier %s: simple task classes and low complexity first.", part(int64(gain), int64(most)), next)}
		if most <= 0 {
			c.Action = fmt.Sprintf("Tier %s is no cheaper: review its models.", next)
		}
		e.Causes = []Cause{c}
	}
	return e
}

// tiers are the tiers that the charter permits models of, from the cheapest to the dearest.
func (m *measure) tiers() (tiers []string) {
	c := m.o.Charter(m.Feature)
	if m.o.Catalog == nil {
		return nil
	}
	for _, t := range m.o.Catalog.Tiers {
		if slices.ContainsFunc(m.o.Catalog.Models, func(model charter.Model) bool { return model.Tier == t.ID && permits(c, &model) }) {
			tiers = append(tiers, t.ID)
		}
	}
	return tiers
}

func permits(c *charter.Charter, m *charter.Model) bool {
	return c == nil || (len(c.PermittedTiers) == 0 || slices.Contains(c.PermittedTiers, m.Tier)) &&
		(len(c.PermittedModels) == 0 || slices.Contains(c.PermittedModels, m.ID))
}

// modelOf is the model that stands for a tier: the permitted one that served most calls, else the first with a price.
func (m *measure) modelOf(tier string) string {
	calls := map[string]int64{}
	for _, r := range m.rows {
		if tierOf(r) == tier {
			calls[modelOf(r)] += r.Calls
		}
	}
	best := ""
	c := m.o.Charter(m.Feature)
	for i := range m.o.Catalog.Models {
		model := &m.o.Catalog.Models[i]
		if model.Tier != tier || !permits(c, model) || calls[model.ID] == 0 && best != "" {
			continue
		}
		if (best == "" || calls[model.ID] > calls[best]) && m.price(model.ID) != nil {
			best = model.ID
		}
	}
	return best
}

// instead is what rows would cost more on a model, negative where that is cheaper, and what the rows did cost that can be
// compared. plain also takes their cached tokens as input and adds what was trimmed.
func (m *measure) instead(model string, rows []*usage.Row, plain bool) (more, compared money.Nanos) {
	p := m.price(model)
	for _, r := range rows {
		own := tokens(&r.Usage)
		other := own
		if plain {
			other.InputTokens += own.CacheReadTokens + own.CacheWrite5mTokens + own.CacheWrite1hTokens + r.Signals.TrimmedTokens
			other.CacheReadTokens, other.CacheWrite5mTokens, other.CacheWrite1hTokens = 0, 0, 0
		}
		own.GPUMilliseconds = r.Usage.GPUMilliseconds
		is, ok := m.cost(m.price(modelOf(r)), own)
		would, ok2 := m.cost(p, other)
		if !ok || !ok2 {
			continue
		}
		more = m.add(more, m.sub(would, is))
		cost, err := r.Cost.Total()
		m.fail(err)
		compared = m.add(compared, cost)
	}
	return more, compared
}

// substitution measures calls that ran on a cheaper model than they wanted, as counted at settlement.
func (m *measure) substitution() Effect {
	e := Effect{Lever: LeverSubstitution}
	var cost money.Nanos
	var calls int64
	for _, r := range m.rows {
		if effectOf(r) != routing.Downgrade.String() || r.Saved.Downgrade == 0 {
			continue
		}
		c, err := r.Cost.Total()
		m.fail(err)
		cost, calls = m.add(cost, c), calls+r.Calls
		e.Saved = m.add(e.Saved, r.Saved.Downgrade)
	}
	e.Baseline = m.add(cost, e.Saved)
	e.judge()
	if e.Verdict == NotMeasured {
		e.Summary = "No call ran on another model than it wanted."
		return e
	}
	e.Summary = say("%d of %d calls ran on a cheaper model than they wanted and saved %s, %s of their cost on that: %s.",
		calls, m.Totals.Calls, m.amount(e.Saved), percent(e.Permille), e.against())
	return e
}

// trimming measures what the contexts that were to be trimmed had less than estimated, of the input cost.
func (m *measure) trimming() Effect {
	e := Effect{Lever: LeverTrimming}
	t, s := &m.Totals, &m.Totals.Signals
	in := t.Usage.AllInput()
	for _, r := range m.rows {
		e.Saved = m.add(e.Saved, m.asInput(r, r.Signals.TrimmedTokens))
	}
	input := m.add(t.Cost.Input, t.Cost.ContextOverhead)
	if s.TrimCalls > 0 {
		e.Baseline = m.add(input, e.Saved)
		e.judge()
	}
	overhead := fmt.Sprintf("%s of the input tokens, %s, are context overhead.", part(t.Usage.ContextOverheadTokens, in), m.amount(t.Cost.ContextOverhead))
	if e.Verdict == NotMeasured {
		e.Summary = "No decision said to trim a context. " + overhead
	} else {
		e.Summary = say("%d calls were told to trim and sent %d tokens less than estimated: %s, %s of the input cost, %s. %s",
			s.TrimCalls, s.TrimmedTokens, m.amount(e.Saved), percent(e.Permille), e.against(), overhead)
	}
	if e.Verdict > Below {
		return e
	}
	if n := t.Usage.ContextOverheadTokens; n > 0 {
		gain := t.Cost.ContextOverhead
		e.Causes = append(e.Causes, Cause{Code: CauseContextOverhead, Calls: t.Calls, Of: t.Calls, Tokens: n, CouldSave: &gain,
			Summary: say("%d of %d input tokens are context overhead: at most %s to save.", n, in, m.amount(gain)),
			Action:  "Have the routing policy set trim_context_to_tokens.",
		})
	}
	if s.RunGrowth > 0 && s.RunCalls > 0 {
		var gain money.Nanos
		for _, r := range m.rows {
			gain = m.add(gain, m.asInput(r, r.Signals.RunGrowth))
		}
		each, _ := Ratio(s.RunGrowth, 1, s.RunCalls)
		e.Causes = append(e.Causes, Cause{Code: CauseGrowingHistory, Calls: s.RunCalls, Of: t.Calls, Tokens: s.RunGrowth, CouldSave: &gain,
			Summary: say("The history of runs grows by %d tokens a call (%d calls).", each, s.RunCalls),
			Action:  "Summarize or drop old turns and tool results. What is counted is the growth alone, at the uncached rate.",
		})
	}
	e.Causes = ordered(e.Causes)
	return e
}

// all measures the levers together: every call untrimmed and uncached on the dearest permitted tier.
func (m *measure) all() Effect {
	e := Effect{Lever: LeverAll}
	model := ""
	if tiers := m.tiers(); len(tiers) > 0 {
		model = m.modelOf(tiers[len(tiers)-1])
	}
	if model == "" {
		e.Summary = "No permitted model has a price to compare with."
		return e
	}
	saved, compared := m.instead(model, m.rows, true)
	e.Saved, e.Baseline = saved, m.add(compared, saved)
	if e.judge(); e.Verdict == NotMeasured {
		e.Summary = "Nothing was spent that could be compared."
		return e
	}
	e.Summary = say("Together: %s less than %s on %s without caching, routing and trimming, %s saved: %s.",
		m.amount(e.Saved), m.amount(e.Baseline), model, percent(e.Permille), e.against())
	if e.Verdict == Below {
		var could money.Nanos
		for i := range m.Effects {
			for _, c := range m.Effects[i].Causes {
				if c.CouldSave != nil {
					could = m.add(could, *c.CouldSave)
				}
			}
		}
		then, _ := Ratio(int64(m.add(e.Saved, could)), 1000, int64(e.Baseline))
		e.Summary += fmt.Sprintf(" The causes above would save %s more at most: %s.", m.amount(could), percent(min(then, 1000)))
	}
	return e
}
