package policy

import (
	"slices"
	"unicode/utf8"

	"github.com/chartergate/chartergate/core/routing"
)

// finish gives the plan that a decision says, which is kept for its content.
func (m *machine) finish(e *evaluator) (*routing.Plan, error) {
	m.plan = routing.Plan{Revision: e.revision}
	m.texts = m.texts[:0]
	if m.result.kind == isBag && m.decision(m.result.ref.(*bag)) {
		return e.plans.intern(&m.plan, true), nil
	}
	result := m.ast(&m.result)
	if m.err != nil {
		return nil, m.err
	}
	plan, err := decode(result)
	if err != nil {
		return nil, err
	}
	plan.Revision = e.revision
	return e.plans.intern(plan, false), nil
}

// decision reads a decision that is well-formed and common; decode judges all others.
func (m *machine) decision(b *bag) bool {
	if b.set {
		return false
	}
	p := &m.plan
	for i := range b.keys {
		v, ok := &b.vals[i], false
		switch b.keys[i].text() {
		case "effect":
			if v.kind == isString {
				p.Effect, ok = effects[v.text()]
			}
		case "prompt_cache":
			if v.kind == isString {
				p.PromptCache, ok = promptCaches[v.text()]
			}
		case "tiers":
			p.Tiers, ok = m.list(v, MaxChoices, 64)
		case "models":
			p.Models, ok = m.list(v, MaxChoices, 128)
		case "reasons":
			p.Reasons, ok = m.list(v, MaxReasons, MaxReasonBytes)
		case "max_input_tokens":
			p.MaxInputTokens, ok = v.n, v.kind == isInt && v.n >= 0
		case "max_output_tokens":
			p.MaxOutputTokens, ok = v.n, v.kind == isInt && v.n >= 0
		case "trim_context_to_tokens":
			p.TrimContextToTokens, ok = v.n, v.kind == isInt && v.n >= 0
		}
		if !ok {
			return false
		}
	}
	return p.Effect != routing.EffectUnspecified && (p.Effect > routing.Downgrade || len(p.Tiers)+len(p.Models) > 0)
}

// list reads texts; those of a set are in order.
func (m *machine) list(v *value, most, mostBytes int) ([]string, bool) {
	set, ok := v.ref.(*bag)
	n := 0
	switch {
	case v.kind == isArray:
		n = m.length(v)
	case ok && set.set && most == MaxReasons:
		n = len(set.keys)
	default:
		return nil, false
	}
	if n > most {
		return nil, false
	}
	from := len(m.texts)
	for i := range n {
		var e value
		if ok {
			e = set.keys[i]
		} else {
			e = v.elem(i)
		}
		if e.kind != isString {
			return nil, false
		}
		text := e.text()
		if text == "" || len(text) > mostBytes || !utf8.ValidString(text) {
			return nil, false
		}
		m.texts = append(m.texts, text)
	}
	list := m.texts[from:len(m.texts):len(m.texts)]
	if ok {
		slices.Sort(list)
	}
	return list, true
}
