package replay

import (
	"cmp"
	"slices"
	"strings"
	"time"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Result is what became of a trace. Amounts are in nanos of Currency.
// Requests = Allowed + Downgraded + Throttled + Denied + Errors.
type Result struct {
	Requests        int64            `json:"requests"`
	Allowed         int64            `json:"allowed"`    // effect ALLOW, and settled
	Downgraded      int64            `json:"downgraded"` // effect DOWNGRADE, and settled
	Throttled       int64            `json:"throttled"`
	Denied          int64            `json:"denied"`
	Errors          int64            `json:"errors"` // without an answer, or admitted and never settled
	SettledNanos    int64            `json:"settled_nanos"`
	ForcedNanos     int64            `json:"forced_nanos"` // the part of SettledNanos above its hold or late
	DurationSeconds float64          `json:"duration_seconds"`
	ReserveP50ms    float64          `json:"reserve_p50_ms"` // of the tries that succeeded, without waits between tries
	ReserveP99ms    float64          `json:"reserve_p99_ms"`
	SettleP99ms     float64          `json:"settle_p99_ms"`
	RefusedByReason map[string]int64 `json:"refused_by_reason"` // by each refusal's decisive reason
	ByTier          []TierCost       `json:"by_tier"`           // dearest first
	Budgets         []BudgetStanding `json:"budgets"`           // from the leaf to the root; filled by the caller, see Path

	RunID       string    `json:"run_id"`
	Feature     string    `json:"feature"` // several are joined by commas
	Currency    string    `json:"currency"`
	Retries     int64     `json:"retries"`               // tries that failed for now and were made again
	Refusals    []Refusal `json:"refusals"`              // most frequent first
	FirstError  string    `json:"first_error,omitempty"` // one example
	Interrupted bool      `json:"interrupted,omitempty"` // stopped before the end of the trace
}

// TierCost is what one model of a tier served.
type TierCost struct {
	Tier         string `json:"tier"`
	Model        string `json:"model"`
	Requests     int64  `json:"requests"`
	InputTokens  int64  `json:"input_tokens"` // cached ones included
	CachedTokens int64  `json:"cached_tokens"`
	CacheWrites  int64  `json:"cache_write_tokens"`
	OutputTokens int64  `json:"output_tokens"`
	SettledNanos int64  `json:"settled_nanos"`
}

// Refusal is refusals of one kind. Budget has `*` for the key of a `per` budget.
type Refusal struct {
	Effect   string  `json:"effect"`
	Reason   string  `json:"reason"`
	Budget   string  `json:"budget,omitempty"`
	Requests int64   `json:"requests"`
	Message  string  `json:"message"`             // of the first
	RetryMs  float64 `json:"retry_ms,omitempty"`  // the retry delay of the first
	FirstRow int64   `json:"first_row,omitempty"` // the row of the first, from 1
}

// BudgetStanding is how a budget of the feature's path, a key of it or its overflow allowance stands.
type BudgetStanding struct {
	Name           string `json:"name"`
	Period         string `json:"period"`
	Currency       string `json:"currency"`
	LimitNanos     int64  `json:"limit_nanos"`
	SettledNanos   int64  `json:"settled_nanos"`
	ForcedNanos    int64  `json:"forced_nanos"`
	HeldNanos      int64  `json:"held_nanos"`
	RemainingNanos int64  `json:"remaining_nanos"`
	Alerts         int    `json:"alerts"` // recorded in this period
}

// reasonName is a reason as the result shows it, such as BUDGET_EXHAUSTED.
func reasonName(c pb.ReasonCode) string { return strings.TrimPrefix(c.String(), "REASON_CODE_") }

func effectName(e pb.Effect) string { return strings.TrimPrefix(e.String(), "EFFECT_") }

// Decisive is the reason that decided a refusal: a decision's last one, after what led to it; an alert decides
// nothing. Nil when there is none.
func Decisive(d *pb.Decision) *pb.Reason {
	var last *pb.Reason
	for _, r := range d.GetReasons() {
		if last == nil || r.GetCode() != pb.ReasonCode_REASON_CODE_BUDGET_ALERT {
			last = r
		}
	}
	return last
}

// tally counts answers into a result.
type tally struct {
	result   Result
	reserve  Latencies
	settle   Latencies
	tiers    map[[2]string]*TierCost
	refusals map[[3]string]*Refusal
}

func newTally(o *Options) *tally {
	return &tally{
		result: Result{
			RunID: o.RunID, Feature: strings.Join(o.AllFeatures(), ","),
			RefusedByReason: map[string]int64{}, ByTier: []TierCost{}, Budgets: []BudgetStanding{}, Refusals: []Refusal{},
		},
		tiers: make(map[[2]string]*TierCost), refusals: make(map[[3]string]*Refusal),
	}
}

func (t *tally) add(a *Answer) {
	r := &t.result
	r.Requests++
	r.Retries += a.Retries
	if a.ReserveTime > 0 {
		t.reserve.Add(a.ReserveTime)
	}
	if a.SettleTime > 0 {
		t.settle.Add(a.SettleTime)
	}
	if c := a.Decision.GetCurrency(); c != "" {
		r.Currency = c
	}
	if a.Err != nil {
		r.Errors++
		if r.FirstError == "" {
			r.FirstError = a.Err.Error()
		}
		return
	}
	switch a.Decision.GetEffect() {
	case pb.Effect_EFFECT_ALLOW:
		r.Allowed++
		t.addSettlement(a)
	case pb.Effect_EFFECT_DOWNGRADE:
		r.Downgraded++
		t.addSettlement(a)
	case pb.Effect_EFFECT_THROTTLE:
		r.Throttled++
		t.addRefusal(a)
	default:
		r.Denied++
		t.addRefusal(a)
	}
}

func (t *tally) addSettlement(a *Answer) {
	s := a.Settlement
	t.result.SettledNanos += s.GetCostNanos()
	t.result.ForcedNanos += s.GetForcedNanos()
	key := [2]string{s.GetTier(), s.GetModel()}
	c := t.tiers[key]
	if c == nil {
		c = &TierCost{Tier: key[0], Model: key[1]}
		t.tiers[key] = c
	}
	c.Requests++
	c.InputTokens += a.Row.InputTokens
	c.CachedTokens += a.Row.CachedTokens
	c.CacheWrites += a.Row.WrittenTokens
	c.OutputTokens += a.Row.OutputTokens
	c.SettledNanos += s.GetCostNanos()
}

func (t *tally) addRefusal(a *Answer) {
	reason := Decisive(a.Decision)
	name := reasonName(reason.GetCode())
	t.result.RefusedByReason[name]++
	budget := reason.GetBudget()
	if leaf, _, keyed := strings.Cut(budget, "/keys/"); keyed {
		budget = leaf + "/keys/*"
	}
	key := [3]string{effectName(a.Decision.GetEffect()), name, budget}
	f := t.refusals[key]
	if f == nil {
		f = &Refusal{
			Effect: key[0], Reason: name, Budget: budget, Message: reason.GetMessage(), FirstRow: a.Number,
			RetryMs: milliseconds(a.Decision.GetRetryDelay().AsDuration()),
		}
		t.refusals[key] = f
	}
	f.Requests++
}

func (t *tally) finish(took time.Duration) *Result {
	r := &t.result
	r.DurationSeconds = took.Seconds()
	r.ReserveP50ms = milliseconds(t.reserve.Percentile(500))
	r.ReserveP99ms = milliseconds(t.reserve.Percentile(990))
	r.SettleP99ms = milliseconds(t.settle.Percentile(990))
	for _, c := range t.tiers {
		r.ByTier = append(r.ByTier, *c)
	}
	slices.SortFunc(r.ByTier, func(a, b TierCost) int {
		return cmp.Or(cmp.Compare(b.SettledNanos, a.SettledNanos), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Model, b.Model))
	})
	for _, f := range t.refusals {
		r.Refusals = append(r.Refusals, *f)
	}
	slices.SortFunc(r.Refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Budget, b.Budget))
	})
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
