package policy

import (
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
)

// part is a part of the input that is read without building it.
type part int64

const (
	partRoot part = iota
	partRequest
	partLabels
	partToolCalls
	partBudgets
	partTime
	partTop
	partBudget // the first of the path; the others follow
)

// parts of the input, and the leaves of a part, by path.
var (
	partPaths = map[part]string{partRequest: "request", partLabels: "request.labels", partToolCalls: "request.tool_calls",
		partBudgets: "budgets", partTime: "time", partTop: "budget"}
	partsByPath = func() map[string]part {
		byPath := map[string]part{}
		for p, path := range partPaths {
			byPath[path] = p
		}
		return byPath
	}()
	leavesByPath = func() map[string]leaf {
		byPath := map[string]leaf{}
		for l, path := range leafPaths {
			byPath[path] = leaf(l)
		}
		return byPath
	}()
)

// unknown is what is below a part, but not read without building it.
const unknown leaf = -1

// names says for a name what it is below each part: a leaf, or unknown.
type names struct {
	text             string
	request, budget  leaf
	time             leaf
	below, inRequest part // of the root, and of the request; 0: none
}

func namesOf(text string) names {
	of := func(prefix string) leaf {
		if l, ok := leavesByPath[prefix+text]; ok {
			return l
		}
		return unknown
	}
	return names{text, of("request."), of("budget."), of("time."), partsByPath[text], partsByPath["request."+text]}
}

var weekdays = func() (texts [7]string) {
	for d := range texts {
		texts[d] = time.Weekday(d).String()
	}
	return texts
}()

// read gives what has a name below a part.
func (m *machine) read(p part, name *names) value {
	switch p {
	case partRoot:
		switch {
		case name.below != 0:
			return partValue(name.below)
		case name.text == "charter":
			return m.fixed(&m.stage.charter, m.charterTerm)
		case name.text == "catalog":
			return m.fixed(&m.stage.catalog, m.catalogTerm)
		case name.text == "able":
			return m.able()
		}
	case partRequest:
		if name.inRequest != 0 {
			return partValue(name.inRequest)
		}
		if v := m.requestLeaf(name.request); v.kind != undefined {
			return v
		}
	case partLabels:
		text, ok := m.in.Call.Labels[name.text]
		if !ok {
			return value{}
		}
		return textValue(&text)
	case partToolCalls:
		n, ok := m.in.Call.Estimate.ToolCalls[name.text]
		if !ok {
			return value{}
		}
		return intValue(n)
	case partTime:
		switch name.time {
		case timeUnix:
			return intValue(minute(m.in) * 60)
		case timeWeekday:
			return textValue(&weekdays[m.in.Now.UTC().Weekday()])
		case timeHour:
			return intValue(int64(m.in.Now.UTC().Hour()))
		}
	default:
		if v := m.budgetLeaf(p, name.budget); v.kind != undefined {
			return v
		}
	}
	object, ok := m.build(p).(ast.Object)
	if !ok {
		return value{}
	}
	return valueOfTerm(object.Get(ast.StringTerm(name.text)))
}

func (m *machine) requestLeaf(l leaf) value {
	c := m.in.Call
	switch l {
	case feature:
		return textValue(&c.Feature)
	case taskClass:
		return textValue(&c.TaskClass)
	case complexity:
		return intValue(int64(c.Complexity))
	case capabilityList:
		return m.once(l, func() ast.Value { return stringsTerm(c.Capabilities).Value })
	case inputTokens:
		return intValue(c.Estimate.InputTokens)
	case cachedInputTokens:
		return intValue(c.Estimate.CachedInputTokens)
	case maxOutputTokens:
		return intValue(c.Estimate.MaxOutputTokens)
	case retrievalHops:
		return intValue(c.Estimate.RetrievalHops)
	case user:
		return textValue(&c.User)
	case cohort:
		return textValue(&c.Cohort)
	case agent:
		return textValue(&c.Agent)
	case run:
		return textValue(&c.Run)
	case promptPattern:
		return textValue(&c.PromptPattern)
	case model:
		return textValue(&c.Model)
	case tier:
		return textValue(&c.Tier)
	}
	return value{}
}

func (m *machine) budgetLeaf(p part, l leaf) value {
	b := &m.top
	if p != partTop {
		b = &m.in.Budgets[p-partBudget]
	} else if !m.topKnown {
		m.top, m.topKnown = mostUtilized(m.in.Budgets), true
	}
	switch l {
	case topID:
		return textValue(&b.ID)
	case topUtilization:
		return permilleValue(b.UtilizationPermille)
	case topAlert:
		return permilleValue(b.AlertPermille)
	case topOverAlert:
		return boolValue(overAlert(b))
	case topExhausted:
		return boolValue(exhausted(b))
	}
	return value{}
}

// once builds a leaf's term at its first reading.
func (m *machine) once(l leaf, build func() ast.Value) value {
	if m.leaves[l] == nil {
		m.leaves[l] = build()
	}
	return valueOf(m.leaves[l])
}

// build gives the term of a part.
func (m *machine) build(p part) ast.Value {
	switch p {
	case partRoot:
		return m.whole()
	case partLabels:
		return m.once(labels, func() ast.Value { return labelsTerm(m.in.Call.Labels).Value }).ref.(ast.Value)
	case partTop:
		return m.at("budget")
	}
	if p >= partBudget {
		return m.whole().Get(ast.InternedTerm("budgets")).Value.(*ast.Array).Elem(int(p - partBudget)).Value
	}
	return m.at(partPaths[p])
}

func (m *machine) at(path string) ast.Value {
	var v ast.Value = m.whole()
	for name := range strings.SplitSeq(path, ".") {
		v = v.(ast.Object).Get(ast.StringTerm(name)).Value
	}
	return v
}

// whole is all of the input, built at the first reading of something that cannot be read otherwise.
func (m *machine) whole() ast.Object {
	if m.input == nil {
		m.input = m.inputs.build(m.in).(ast.Object)
	}
	return m.input
}
