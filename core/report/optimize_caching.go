package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// caching measures what prompt caching saved: of the input cost of repeated prefixes, and of the whole cost. What it saved
// is the reads' discount less the writes' premium, as counted at settlement.
func (m *measure) caching() (repeated, total Effect) {
	t := &m.Totals
	saved := m.sub(t.Saved.CacheRead, t.Saved.CacheWrite)
	total = Effect{Lever: LeverCachingTotal, Baseline: m.add(m.Cost, saved), Saved: saved}
	repeated = Effect{Lever: LeverCaching, Saved: saved}
	of := "of what repeated prefixes would have cost"
	if t.Signals.Prefixed > 0 {
		for _, r := range m.rows { // tokens that are read were sent before, also where no fingerprints say so
			n := max(r.Signals.RepeatTokens+r.Signals.LateTokens, r.Usage.CacheReadTokens)
			repeated.Baseline = m.add(repeated.Baseline, m.asInput(r, n))
		}
	} else {
		of = "of what all input would have cost (calls gave no fingerprints of their prompts, so what is repeated is not known)"
		repeated.Baseline = m.add(m.add(t.Cost.Input, t.Cost.ContextOverhead), saved)
	}
	repeated.judge()
	total.judge()
	reads, in := t.Usage.CacheReadTokens, t.Usage.AllInput()
	switch {
	case in == 0:
		repeated.Summary = "There was no input to cache."
	case repeated.Verdict == NotMeasured:
		repeated.Summary = fmt.Sprintf("Nothing of the input was repeated within an hour: there was nothing to cache. %s of the input tokens were read from a cache.", part(reads, in))
	default:
		repeated.Summary = fmt.Sprintf("Prompt caching saved %s, %s %s: %s. %s of the input tokens were read from a cache.",
			m.amount(saved), percent(repeated.Permille), of, repeated.against(), part(reads, in))
	}
	total.Summary = fmt.Sprintf("Prompt caching saved %s of the whole cost: %s for a copilot.", percent(total.Permille), total.against())
	if repeated.Verdict <= Below || total.Verdict == Below {
		repeated.Causes = m.cachingCauses()
	}
	return repeated, total
}

func (m *measure) cachingCauses() (causes []Cause) {
	t, s := &m.Totals, &m.Totals.Signals
	add := func(c Cause) { causes = append(causes, c) }
	if s.Prefixed == 0 && t.Calls > 0 {
		add(Cause{
			Code: CauseNoFingerprints, Calls: t.Calls, Of: t.Calls,
			Summary: say("None of %d calls gave fingerprints of its prompt, so the causes are not known.", t.Calls),
			Action:  "Send prefix_hashes and prefix_block_tokens with Reserve.",
		})
	}
	if s.LateRepeats > 0 {
		gain := m.longer()
		c := Cause{Code: CauseShortTTL, Calls: s.LateRepeats, Of: s.Repeats, Tokens: s.LateTokens, CouldSave: &gain,
			Summary: say("%d of %d repeats of a prefix came more than 5 minutes after the last, %d of them more than an hour: %d tokens more were sent within an hour.",
				s.LateRepeats, s.Repeats, s.StaleRepeats, s.LateTokens),
			Action: "Write the prefix for 1 hour, or keep it warm with a call every 5 minutes."}
		if gain == 0 {
			c.Action = "A cache of 1 hour would cost more for its writes than it saves: send calls of a conversation closer together."
		}
		add(c)
	}
	if s.PrefixChanges > 0 {
		gain, n := m.steady()
		add(Cause{Code: CausePrefixChanges, Calls: s.PrefixChanges, Of: s.Prefixed, Tokens: n, CouldSave: &gain,
			Summary: say("%d of %d calls began with a prefix that was not sent before, though their prompt pattern was in use; the first calls of conversations are among them.",
				s.PrefixChanges, s.Prefixed),
			Action: say("Put what stays the same first, and what changes (time, user, retrieved passages) last. What it would save is for the least that the provider caches, %d tokens in all; a longer common prefix saves more.", n),
		})
	}
	if s.ShortPrompts > 0 {
		add(Cause{Code: CauseShortPrompts, Calls: s.ShortPrompts, Of: s.Prefixed,
			Summary: say("%d of %d calls had fewer input tokens than the provider caches (%s).", s.ShortPrompts, s.Prefixed, m.minima()),
			Action:  "Share one longer prefix among these prompts, or leave them uncached.",
		})
	}
	if unused := m.unread(); unused.tokens > 0 {
		add(Cause{Code: CauseUnusedCache, Tokens: unused.tokens, Calls: s.Repeats - s.LateRepeats, Of: s.Prefixed, CouldSave: &unused.worth,
			Summary: say("%d tokens were sent again within 5 minutes and not read from a cache.", unused.tokens),
			Action:  "Turn prompt caching on, mark the end of the stable prefix, and send a conversation to one region and model.",
		})
	}
	if premium := t.Saved.CacheWrite; premium > 0 {
		add(m.writePremium(premium))
	}
	if s.Prefixed > 0 && 2*s.Repeats < s.Prefixed {
		add(Cause{Code: CauseFewRepeats, Calls: s.Prefixed - s.Repeats, Of: s.Prefixed, Tokens: s.RepeatTokens + s.LateTokens,
			Summary: say("%d of %d calls repeat a prefix; %s of the input tokens were sent within the hour before. More cannot be read from a cache.",
				s.Repeats, s.Prefixed, part(s.RepeatTokens+s.LateTokens, t.Usage.AllInput())),
			Action: "Prompts that are not repeated are made cheaper by routing and trimming.",
		})
	}
	return ordered(causes)
}

// ordered puts what would save most first.
func ordered(causes []Cause) []Cause {
	worth := func(c Cause) money.Nanos {
		if c.CouldSave == nil {
			return 0
		}
		return *c.CouldSave
	}
	slices.SortStableFunc(causes, func(a, b Cause) int { return cmp.Compare(worth(b), worth(a)) })
	return causes
}

// longer is what a cache of one hour would save more: the reads, less the dearer writes; 0 where it saves nothing.
func (m *measure) longer() (gain money.Nanos) {
	for _, r := range m.rows {
		p := m.price(modelOf(r))
		n := r.Usage.CacheWrite5mTokens
		short, ok := m.cost(p, usage.Usage{CacheWrite5mTokens: n})
		long, ok2 := m.cost(p, usage.Usage{CacheWrite1hTokens: n})
		if ok && ok2 {
			gain = m.add(gain, m.sub(m.worth(r, r.Signals.LateTokens), m.sub(long, short)))
		}
	}
	return max(0, gain)
}

// steady is what calls with a changed prefix would save, if they began with the least that the provider caches of a
// prefix which is in the cache; n is how many tokens that is.
func (m *measure) steady() (gain money.Nanos, n int64) {
	for _, r := range m.rows {
		least := usage.MinCacheable(providerOf(r), modelOf(r)) * r.Signals.PrefixChanges
		gain = m.add(gain, m.worth(r, least))
		n += least
	}
	return gain, n
}

// writePremium is what cache writes cost too much: at least the premium of the tokens that were written and never read,
// which are no fewer than what was written more than was read; all of what they cost more than the reads save, if that is
// more.
func (m *measure) writePremium(premium money.Nanos) Cause {
	u, saved := &m.Totals.Usage, m.Totals.Saved.CacheRead
	written := u.CacheWrite5mTokens + u.CacheWrite1hTokens
	unread := max(0, written-u.CacheReadTokens)
	var wasted money.Nanos
	if unread > 0 {
		n, err := money.MulDiv(int64(premium), unread, written)
		m.fail(err)
		wasted = money.Nanos(n)
	}
	c := Cause{Code: CauseWritePremium, Tokens: unread, CouldSave: &wasted,
		Summary: say("Cache writes cost %s above the input rate, and reads saved %s. At least %d of %d written tokens were never read.",
			m.amount(premium), m.amount(saved), unread, written),
		Action: "Write to the cache only what is read again: put the cache mark behind what conversations share."}
	if lost := m.sub(premium, saved); lost > 0 {
		wasted = max(wasted, lost)
		c.Action = "Turn the cache off for these prompts: its writes cost more than its reads save."
	}
	return c
}

// unread is what was repeated within 5 minutes and not read from a cache.
func (m *measure) unread() (u struct {
	tokens int64
	worth  money.Nanos
}) {
	for _, r := range m.rows {
		if n := r.Signals.RepeatTokens - r.Usage.CacheReadTokens; n > 0 {
			u.tokens += n
			u.worth = m.add(u.worth, m.worth(r, n))
		}
	}
	return u
}

// minima names the fewest tokens that the models cache.
func (m *measure) minima() string {
	var list []string
	for _, r := range m.rows {
		if n := usage.MinCacheable(providerOf(r), modelOf(r)); n > 0 && r.Signals.ShortPrompts > 0 {
			list = append(list, say("%s: %d", modelOf(r), n))
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	if len(list) > 3 {
		list = append(list[:3], "…")
	}
	return strings.Join(list, ", ")
}
