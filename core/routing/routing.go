// Package routing holds what a routing policy is asked and what it answers.
package routing

import (
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
)

// Effect is what the gate says of a call.
type Effect int32

// Effects, numbered as in the API.
const (
	EffectUnspecified Effect = iota
	Allow
	Downgrade
	Throttle
	Deny
)

func (e Effect) String() string {
	return [...]string{"unspecified", "allow", "downgrade", "throttle", "deny"}[e]
}

// Estimate is what a call is expected to use at most.
type Estimate struct {
	InputTokens        int64 // cached and written ones included
	CachedInputTokens  int64
	CacheWrite5mTokens int64 // 0 with CacheWrite1hTokens 0: as the decision's PromptCache says
	CacheWrite1hTokens int64
	MaxOutputTokens    int64 // 0: the model's own maximum
	RetrievalHops      int64
	EmbeddingTokens    int64
	VectorQueries      int64
	ToolCalls          map[string]int64
	GPUMilliseconds    int64
	Accelerator        string // of the GPU time
	StorageBytes       int64
	EgressBytes        int64
}

// Call is one AI call that is about to be made.
type Call struct {
	Feature       string
	TaskClass     string
	Complexity    int32 // 1 to 100; 0: unknown
	Capabilities  []string
	Estimate      Estimate
	User          string
	Cohort        string
	Agent         string
	Run           string
	PromptPattern string
	Task          string // the user's
	Model         string // asked for; may be empty
	Tier          string // asked for; may be empty
	Labels        map[string]string
	ServiceTier   string        // of the provider; empty: the standard one
	Region        string        // of the provider, where prices depend on it
	LatencyTarget time.Duration // whole milliseconds; 0: not said
	Residency     string        // the region that the data must stay in; empty: anywhere
	Prefix        usage.Prefix
	Recorded      time.Time // of a replayed call; zero: now
}

// Usage is the usage that the estimate stands for with a given output.
func (e *Estimate) Usage(outputTokens int64) usage.Usage {
	queries := e.VectorQueries
	if queries == 0 {
		queries = e.RetrievalHops
	}
	return usage.Usage{
		InputTokens:     e.InputTokens - e.CachedInputTokens - e.CacheWrite5mTokens - e.CacheWrite1hTokens,
		CacheReadTokens: e.CachedInputTokens, CacheWrite5mTokens: e.CacheWrite5mTokens, CacheWrite1hTokens: e.CacheWrite1hTokens, OutputTokens: outputTokens,
		RetrievalHops: e.RetrievalHops, EmbeddingTokens: e.EmbeddingTokens, VectorQueries: queries, ToolCalls: e.ToolCalls,
		GPUMilliseconds: e.GPUMilliseconds, Accelerator: e.Accelerator, StorageBytes: e.StorageBytes, EgressBytes: e.EgressBytes,
	}
}

// Cost is what the estimate costs at most with a given output and advice: all output may be reasoning, and where the
// estimate does not say what is written to the cache, all uncached input may be, if these cost more. It does not allocate.
// Errors: those of pricing.Price.Cost.
func (e *Estimate) Cost(p *pricing.Price, outputTokens int64, cache PromptCache) (money.Nanos, error) {
	u := e.Usage(outputTokens)
	cost, err := p.Cost(&u)
	if err != nil {
		return 0, err
	}
	if cache >= Cache5m && e.CacheWrite5mTokens+e.CacheWrite1hTokens == 0 && p.WritesCache() {
		w := u
		w.InputTokens, w.CacheWrite5mTokens = 0, u.InputTokens
		if cache == Cache1h {
			w.CacheWrite5mTokens, w.CacheWrite1hTokens = 0, u.InputTokens
		}
		written, err := p.Cost(&w)
		if err != nil {
			return 0, err
		}
		if written > cost {
			cost, u = written, w
		}
	}
	if !p.Reasons() {
		return cost, nil
	}
	u.OutputTokens, u.ReasoningTokens = 0, u.OutputTokens
	reasoned, err := p.Cost(&u)
	return max(cost, reasoned), err
}

// BudgetState is how one budget of the path stands.
type BudgetState struct {
	ID                  string
	UtilizationPermille int32 // (settled + held) / ceiling, rounded down
	AlertPermille       int32 // the lowest alert threshold
	Start, End          int64 // of its window, in Unix seconds
	// Budget is the budget's record: the same whenever ID and the input's Epoch are.
	Budget *charter.Budget
}

// Input is all that a routing policy may see of a call.
type Input struct {
	Now     time.Time
	Call    *Call
	Charter *charter.Charter
	Budgets []BudgetState // from the leaf to the root
	Catalog *charter.Catalog
	Prices  *pricing.Book
	// Epoch is the control state's revision. Charter, Catalog and Prices are the same whenever Epoch and the charter's
	// id are.
	Epoch int64
}

// PromptCache is advice on the provider's prompt cache.
type PromptCache int32

// Advice, numbered as in the API.
const (
	CacheUnspecified PromptCache = iota
	CacheOff
	Cache5m
	Cache1h
)

// String is the word that policies have for it; empty where none is given.
func (c PromptCache) String() string {
	switch c {
	case CacheOff:
		return "off"
	case Cache5m:
		return "5m"
	case Cache1h:
		return "1h"
	default:
		return ""
	}
}

// Plan is a policy's answer, before money: which tiers or models to try, in what order. It is shared between calls and
// must not be changed.
type Plan struct {
	Effect Effect
	// Models to try in order, if the policy names models; otherwise Tiers.
	Models []string
	// Tiers to try in order; the first that is permitted, capable and fits the money left serves the call.
	Tiers               []string
	MaxInputTokens      int64 // 0: no limit
	MaxOutputTokens     int64 // 0: no limit
	TrimContextToTokens int64 // 0: leave it
	PromptCache         PromptCache
	Reasons             []string
	// Revision of the policy that answered.
	Revision string
}
