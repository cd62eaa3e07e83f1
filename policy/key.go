package policy

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"

	"github.com/chartergate/chartergate/core/routing"
)

// leaf is a part of the input that differs between calls of one charter at one epoch.
type leaf int

const (
	feature leaf = iota
	taskClass
	complexity
	capabilityList
	inputTokens
	cachedInputTokens
	maxOutputTokens
	retrievalHops
	toolCalls
	user
	cohort
	agent
	run
	promptPattern
	model
	tier
	labels
	ableModels
	topID
	topUtilization
	topAlert
	topOverAlert
	topExhausted
	pathID
	pathUtilization
	pathAlert
	pathOverAlert
	pathExhausted
	inputPrice
	outputPrice
	timeUnix
	timeWeekday
	timeHour
	leafCount
)

// leafPaths says where below `input` each leaf stands.
var leafPaths = [leafCount]string{
	feature:           "request.feature",
	taskClass:         "request.task_class",
	complexity:        "request.complexity",
	capabilityList:    "request.required_capabilities",
	inputTokens:       "request.input_tokens",
	cachedInputTokens: "request.cached_input_tokens",
	maxOutputTokens:   "request.max_output_tokens",
	retrievalHops:     "request.retrieval_hops",
	toolCalls:         "request.tool_calls",
	user:              "request.user",
	cohort:            "request.cohort",
	agent:             "request.agent",
	run:               "request.run",
	promptPattern:     "request.prompt_pattern",
	model:             "request.model",
	tier:              "request.tier",
	labels:            "request.labels",
	ableModels:        "able",
	topID:             "budget.id",
	topUtilization:    "budget.utilization",
	topAlert:          "budget.alert",
	topOverAlert:      "budget.over_alert",
	topExhausted:      "budget.exhausted",
	pathID:            "budgets.*.id",
	pathUtilization:   "budgets.*.utilization",
	pathAlert:         "budgets.*.alert",
	pathOverAlert:     "budgets.*.over_alert",
	pathExhausted:     "budgets.*.exhausted",
	inputPrice:        "catalog.models.*.input_nanos_per_mtok",
	outputPrice:       "catalog.models.*.output_nanos_per_mtok",
	timeUnix:          "time.unix",
	timeWeekday:       "time.weekday",
	timeHour:          "time.hour",
}

// scale is what a leaf's number in Rego is multiplied by to be whole; 0 where the leaf is not a number.
func (l leaf) scale() int64 {
	switch l {
	case complexity, inputTokens, cachedInputTokens, maxOutputTokens, retrievalHops, timeUnix, timeHour:
		return 1
	case topUtilization, topAlert, pathUtilization, pathAlert:
		return 1000
	}
	return 0
}

// parseCut reads a number that a leaf is compared with, scaled to be whole. False if it is not: then the leaf's own
// value has to be in the key.
func parseCut(number string, scale int64) (int64, bool) {
	if scale == 0 || number == "" {
		return 0, false
	}
	whole, fraction, _ := strings.Cut(number, ".")
	digits := len(strconv.FormatInt(scale, 10)) - 1
	if len(fraction) > digits || len(whole) > 15 {
		return 0, false
	}
	n, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", digits-len(fraction)), 10, 64)
	return n, err == nil
}

// field is a part of the memo's key.
type field struct {
	leaf leaf
	name string  // of the entry of a map; empty: all of it
	cuts []int64 // if not nil only how the number compares with each of these counts
}

// appendKey appends all that the policy can read of the input, such that two inputs with the same key are the same to
// it. It does not allocate while dst has room.
func (p *Policy) appendKey(dst []byte, in *routing.Input) []byte {
	return appendFields(dst, in, p.fields)
}

func appendFields(dst []byte, in *routing.Input, fields []field) []byte {
	dst = binary.AppendVarint(dst, in.Epoch)
	dst = appendString(dst, in.Charter.ID)
	for i := range fields {
		dst = fields[i].append(dst, in)
	}
	return dst
}

func (f *field) append(dst []byte, in *routing.Input) []byte {
	c := in.Call
	switch f.leaf {
	case feature:
		return appendString(dst, c.Feature)
	case taskClass:
		return appendString(dst, c.TaskClass)
	case complexity:
		return f.number(dst, int64(c.Complexity))
	case capabilityList, ableModels: // what is able differs with what is required
		dst = binary.AppendUvarint(dst, uint64(len(c.Capabilities)))
		for _, s := range c.Capabilities {
			dst = appendString(dst, s)
		}
		return dst
	case inputTokens:
		return f.number(dst, c.Estimate.InputTokens)
	case cachedInputTokens:
		return f.number(dst, c.Estimate.CachedInputTokens)
	case maxOutputTokens:
		return f.number(dst, c.Estimate.MaxOutputTokens)
	case retrievalHops:
		return f.number(dst, c.Estimate.RetrievalHops)
	case toolCalls:
		return f.toolCalls(dst, c.Estimate.ToolCalls)
	case user:
		return appendString(dst, c.User)
	case cohort:
		return appendString(dst, c.Cohort)
	case agent:
		return appendString(dst, c.Agent)
	case run:
		return appendString(dst, c.Run)
	case promptPattern:
		return appendString(dst, c.PromptPattern)
	case model:
		return appendString(dst, c.Model)
	case tier:
		return appendString(dst, c.Tier)
	case labels:
		return f.labels(dst, c.Labels)
	case topID, topUtilization, topAlert, topOverAlert, topExhausted:
		top := mostUtilized(in.Budgets)
		return f.budget(dst, f.leaf-topID, &top)
	case pathID, pathUtilization, pathAlert, pathOverAlert, pathExhausted:
		dst = binary.AppendUvarint(dst, uint64(len(in.Budgets)))
		for i := range in.Budgets {
			dst = f.budget(dst, f.leaf-pathID, &in.Budgets[i])
		}
		return dst
	case inputPrice, outputPrice: // the only part of the catalog that time alone changes
		return binary.AppendVarint(dst, minute(in))
	case timeUnix:
		return f.number(dst, minute(in)*60)
	case timeWeekday:
		return append(dst, byte(in.Now.UTC().Weekday()))
	case timeHour:
		return f.number(dst, int64(in.Now.UTC().Hour()))
	}
	panic("policy: a leaf has no key: " + leafPaths[f.leaf])
}

// budget appends one field of a budget; its place is that of the leaf after the first of its kind.
func (f *field) budget(dst []byte, place leaf, b *routing.BudgetState) []byte {
	switch place {
	case 0:
		return appendString(dst, b.ID)
	case topUtilization - topID:
		return f.number(dst, int64(b.UtilizationPermille))
	case topAlert - topID:
		return f.number(dst, int64(b.AlertPermille))
	case topOverAlert - topID:
		return appendBool(dst, overAlert(b))
	}
	return appendBool(dst, exhausted(b))
}

// number appends n, or only its place among the cuts: two numbers that compare alike with each have the same.
func (f *field) number(dst []byte, n int64) []byte {
	if f.cuts == nil {
		return binary.AppendVarint(dst, n)
	}
	place := uint64(0)
	for _, cut := range f.cuts {
		if n > cut {
			place += 2
		} else if n == cut {
			place++
		}
	}
	return binary.AppendUvarint(dst, place)
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// sortedNames appends the names of a map to dst, in order.
func sortedNames[V any](dst []string, m map[string]V) []string {
	for name := range m {
		dst = append(dst, name)
	}
	slices.Sort(dst)
	return dst
}

// toolCalls appends the count of one tool or, without a name, all of them.
func (f *field) toolCalls(dst []byte, m map[string]int64) []byte {
	if f.name != "" {
		n, ok := m[f.name]
		return binary.AppendVarint(appendBool(dst, ok), n)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m)))
	var room [32]string
	for _, name := range sortedNames(room[:0], m) {
		dst = binary.AppendVarint(appendString(dst, name), m[name])
	}
	return dst
}

// labels appends the value of one label or, without a name, all of them.
func (f *field) labels(dst []byte, m map[string]string) []byte {
	if f.name != "" {
		text, ok := m[f.name]
		return appendString(appendBool(dst, ok), text)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m)))
	var room [32]string
	for _, name := range sortedNames(room[:0], m) {
		dst = appendString(appendString(dst, name), m[name])
	}
	return dst
}
