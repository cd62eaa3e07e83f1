package metering

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/server/preflight"
)

// Limits of decisions. Where more are to be kept, they are dropped and counted.
const (
	maxDecisions   = 2000 // waiting to be written: as many a second
	maxRefusalKeys = 5000 // kinds of refusals counted apart until the next write
)

// decisions wait to be written.
type decisions struct {
	queue         chan usage.Decision
	server        uint32 // so that ids of two servers differ
	number        atomic.Uint32
	kept, dropped atomic.Int64
}

func (d *decisions) init() {
	d.queue, d.server = make(chan usage.Decision, maxDecisions), rand.Uint32()
}

// refusal is what calls that were refused are counted by.
type refusal struct {
	hour                                           int64
	feature, tier, model, cohort, prompt, currency string
	effect                                         routing.Effect
}

// Decided implements preflight.Meter.
func (m *Meter) Decided(in *routing.Input, d *preflight.Decision) {
	refused := d.Effect == routing.Deny || d.Effect == routing.Throttle
	if refused {
		r := refusal{in.Now.Unix() / 3600 * 3600, in.Call.Feature, in.Call.Tier, in.Call.Model, in.Call.Cohort, in.Call.PromptPattern, d.Currency, d.Effect}
		m.mu.Lock()
		if _, known := m.refused[r]; !known && len(m.refused) >= maxRefusalKeys {
			r.tier, r.model, r.cohort, r.prompt = "", "", usage.OtherKey, usage.OtherKey
		}
		m.refused[r]++
		m.mu.Unlock()
	}
	if !refused && d.Effect != routing.Downgrade && rand.Int64N(1_000_000) >= m.SamplePPM {
		return
	}
	if len(m.decisions.queue) == cap(m.decisions.queue) {
		m.decisions.dropped.Add(1)
		return
	}
	select {
	case m.decisions.queue <- m.decision(in, d):
	default:
		m.decisions.dropped.Add(1)
	}
}

// decided is what is kept of a decision, as JSON.
type decided struct {
	Call            askedCall       `json:"call"`
	Budgets         []decidedBudget `json:"budgets,omitempty"`
	Answer          answer          `json:"answer"`
	Epoch           int64           `json:"epoch,omitempty"` // of the control records
	CharterRevision int64           `json:"charter_revision,omitempty"`
	PriceRevision   int64           `json:"price_revision,omitempty"`
	PolicyRevision  string          `json:"policy_revision,omitempty"`
}

type askedCall struct {
	Feature       string            `json:"feature"`
	TaskClass     string            `json:"task_class,omitempty"`
	Complexity    int32             `json:"complexity,omitempty"`
	Capabilities  []string          `json:"required_capabilities,omitempty"`
	User          string            `json:"user,omitempty"`
	Cohort        string            `json:"cohort,omitempty"`
	Agent         string            `json:"agent,omitempty"`
	Run           string            `json:"run,omitempty"`
	Task          string            `json:"task,omitempty"`
	PromptPattern string            `json:"prompt_pattern,omitempty"`
	Model         string            `json:"model,omitempty"`
	Tier          string            `json:"tier,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	ServiceTier   string            `json:"service_tier,omitempty"`
	Region        string            `json:"region,omitempty"`
	LatencyMillis int64             `json:"latency_target_milliseconds,omitempty"`
	Residency     string            `json:"residency,omitempty"`
	Estimate      askedEstimate     `json:"estimate"`
}

type askedEstimate struct {
	InputTokens        int64            `json:"input_tokens,omitempty"`
	CachedInputTokens  int64            `json:"cached_input_tokens,omitempty"`
	CacheWrite5mTokens int64            `json:"cache_write_5m_tokens,omitempty"`
	CacheWrite1hTokens int64            `json:"cache_write_1h_tokens,omitempty"`
	MaxOutputTokens    int64            `json:"max_output_tokens,omitempty"`
	RetrievalHops      int64            `json:"retrieval_hops,omitempty"`
	EmbeddingTokens    int64            `json:"embedding_tokens,omitempty"`
	VectorQueries      int64            `json:"vector_queries,omitempty"`
	ToolCalls          map[string]int64 `json:"tool_calls,omitempty"`
	GPUMilliseconds    int64            `json:"gpu_milliseconds,omitempty"`
	Accelerator        string           `json:"accelerator,omitempty"`
	StorageBytes       int64            `json:"storage_bytes,omitempty"`
	EgressBytes        int64            `json:"egress_bytes,omitempty"`
}

type decidedBudget struct {
	ID                  string `json:"id"`
	UtilizationPermille int32  `json:"utilization_permille"`
	AlertPermille       int32  `json:"alert_permille"`
}

type answer struct {
	Effect              string   `json:"effect"`
	Tier                string   `json:"tier,omitempty"`
	Model               string   `json:"model,omitempty"`
	CostNanos           int64    `json:"estimated_cost_nanos,omitempty"`
	Currency            string   `json:"currency,omitempty"`
	MaxOutputTokens     int64    `json:"max_output_tokens,omitempty"`
	TrimContextToTokens int64    `json:"trim_context_to_tokens,omitempty"`
	PromptCache         int32    `json:"prompt_cache,omitempty"` // as routing.PromptCache has it
	RetryMilliseconds   int64    `json:"retry_milliseconds,omitempty"`
	Reasons             []reason `json:"reasons,omitempty"`
}

type reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Budget  string `json:"budget,omitempty"`
}

func (m *Meter) decision(in *routing.Input, d *preflight.Decision) usage.Decision {
	c := in.Call
	all := decided{
		Call: askedCall{
			c.Feature, c.TaskClass, c.Complexity, c.Capabilities, c.User, c.Cohort, c.Agent, c.Run, c.Task, c.PromptPattern, c.Model, c.Tier, c.Labels,
			c.ServiceTier, c.Region, c.LatencyTarget.Milliseconds(), c.Residency, askedEstimate(c.Estimate),
		},
		Answer: answer{
			d.Effect.String(), d.Tier, d.Model, int64(d.Cost), d.Currency, d.MaxOutputTokens, d.TrimContextToTokens, int32(d.PromptCache),
			d.RetryDelay.Milliseconds(), nil,
		},
		Epoch: in.Epoch, CharterRevision: d.CharterRevision, PriceRevision: d.PriceRevision, PolicyRevision: d.PolicyRevision,
	}
	for _, b := range in.Budgets {
		all.Budgets = append(all.Budgets, decidedBudget{b.ID, b.UtilizationPermille, b.AlertPermille})
	}
	code := ""
	for _, r := range d.Reasons {
		code = r.Code.String()
		all.Answer.Reasons = append(all.Answer.Reasons, reason{code, r.Message, r.Budget})
	}
	data, _ := json.Marshal(&all) // strings and numbers marshal
	return usage.Decision{
		ID:   fmt.Sprintf("%012x-%08x-%06x", in.Now.UnixMilli(), m.decisions.server, m.decisions.number.Add(1)&0xffffff),
		Time: in.Now, Feature: c.Feature, Effect: d.Effect.String(), Cohort: c.Cohort, Run: c.Run, Model: d.Model, Reason: code, Data: data,
	}
}

// Kept reads what is kept of a decision, as a simulation takes it, and the revisions of the policies that decided it.
func Kept(d *usage.Decision) (call *simulate.Call, policies string, err error) {
	var all decided
	if err := json.Unmarshal(d.Data, &all); err != nil {
		return nil, "", fmt.Errorf("the kept decision %s cannot be read: %w", d.ID, err)
	}
	c, a := &all.Call, &all.Answer
	call = &simulate.Call{
		Time: d.Time,
		Call: &routing.Call{
			Feature: c.Feature, TaskClass: c.TaskClass, Complexity: c.Complexity, Capabilities: c.Capabilities, Estimate: routing.Estimate(c.Estimate),
			User: c.User, Cohort: c.Cohort, Agent: c.Agent, Run: c.Run, Task: c.Task, PromptPattern: c.PromptPattern, Model: c.Model, Tier: c.Tier,
			Labels: c.Labels, ServiceTier: c.ServiceTier, Region: c.Region, LatencyTarget: time.Duration(c.LatencyMillis) * time.Millisecond, Residency: c.Residency,
		},
		Decided: &simulate.Answer{
			Effect: effectOf(a.Effect), Tier: a.Tier, Model: a.Model, MaxOutputTokens: a.MaxOutputTokens, TrimContextToTokens: a.TrimContextToTokens,
			PromptCache: routing.PromptCache(a.PromptCache), Cost: money.Nanos(a.CostNanos),
		},
	}
	for _, b := range all.Budgets {
		call.Budgets = append(call.Budgets, routing.BudgetState{ID: b.ID, UtilizationPermille: b.UtilizationPermille, AlertPermille: b.AlertPermille})
	}
	for _, r := range a.Reasons {
		call.Decided.Reasons = append(call.Decided.Reasons, r.Message)
		switch r.Code {
		case preflight.CodeOverflow.String():
			call.Decided.Overflow, call.Decided.Exhausted = true, simulate.BudgetOf(r.Budget)
		case preflight.CodeBudgetExhausted.String(), preflight.CodeTrickleLimit.String():
			call.Decided.Exhausted = simulate.BudgetOf(r.Budget)
		}
	}
	return call, all.PolicyRevision, nil
}

func effectOf(name string) routing.Effect {
	for e := routing.Allow; e <= routing.Deny; e++ {
		if e.String() == name {
			return e
		}
	}
	return routing.EffectUnspecified
}

// keepDecisions writes what waits.
func (m *Meter) keepDecisions(ctx context.Context) error {
	list := make([]usage.Decision, 0, len(m.decisions.queue))
	for len(list) < maxDecisions {
		select {
		case d := <-m.decisions.queue:
			list = append(list, d)
			continue
		default:
		}
		break
	}
	if len(list) == 0 {
		return nil
	}
	if err := m.Store.KeepDecisions(ctx, list); err != nil {
		m.decisions.dropped.Add(int64(len(list)))
		return err
	}
	m.decisions.kept.Add(int64(len(list)))
	if m.Kept != nil {
		m.Kept(list)
	}
	return nil
}

// countRefused counts refusals, in no batch.
func (m *Meter) countRefused(ctx context.Context, refused map[refusal]int64) error {
	if len(refused) == 0 {
		return nil
	}
	snap := m.Control.Snapshot()
	list := make([]usage.Rollup, 0, len(refused))
	for r, n := range refused {
		k := attributed{hour: r.hour, feature: r.feature, tier: r.tier, model: r.model, cohort: r.cohort, prompt: r.prompt, effect: r.effect}
		if c := snap.Charter(r.feature); c != nil {
			k.budget = c.Budget
			var buf [charter.MaxDepth]*charter.Budget
			if path, ok := snap.Path(buf[:0], c.Budget); ok {
				for i := len(path) - 1; i >= 0; i-- {
					if k.path != "" {
						k.path += "/"
					}
					k.path += path[i].ID
				}
			}
		}
		a := attribution(snap, &k, time.Unix(r.hour, 0))
		a.Currency = r.currency
		list = append(list, usage.Rollup{Hour: time.Unix(r.hour, 0).UTC(), Attribution: a, Totals: usage.Totals{Refused: n}})
	}
	return m.Store.Apply(ctx, nil, list)
}
