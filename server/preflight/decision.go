package preflight

import (
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
)

// Code says what kind a reason is, numbered as in the API.
type Code int32

// Codes.
const (
	CodeUnspecified Code = iota
	CodePolicy
	CodeBudgetExhausted
	CodeBudgetHeld
	CodeBudgetAlert
	CodeFittedToBudget
	CodeOverflow
	CodeTrickleLimit
	CodeNoPrice
	CodeNotPermitted
	CodeCapabilityMissing
	CodePolicyFailed
	CodeStage
	CodeContextTooLong
	CodeEvaluationMissing

	CodeNoExchangeRate Code = 20
)

func (c Code) String() string {
	return [...]string{
		"", "POLICY", "BUDGET_EXHAUSTED", "BUDGET_HELD", "BUDGET_ALERT", "FITTED_TO_BUDGET", "OVERFLOW", "TRICKLE_LIMIT", "NO_PRICE",
		"NOT_PERMITTED", "CAPABILITY_MISSING", "POLICY_FAILED", "STAGE", "CONTEXT_TOO_LONG",
		"EVALUATION_MISSING", CodeNoExchangeRate: "NO_EXCHANGE_RATE",
	}[c]
}

// Reason is one machine-readable reason.
type Reason struct {
	Code    Code
	Message string
	Budget  string // status name of the binding budget, if one is concerned
}

// Alternate is another model that may serve the call.
type Alternate struct {
	Tier, Model string
	Cost        money.Nanos
}

// Decision is the gate's answer.
type Decision struct {
	Effect                routing.Effect
	Tier, Model, Provider string
	Alternates            []Alternate
	MaxInputTokens        int64
	MaxOutputTokens       int64
	TrimContextToTokens   int64
	PromptCache           routing.PromptCache
	Reasons               []Reason
	RetryDelay            time.Duration // 0: time alone changes nothing
	Cost                  money.Nanos   // of the estimate on the chosen model
	Currency              string
	Price                 *pricing.Price // of the chosen model; nil where there is none
	PolicyRevision        string
	PriceRevision         int64
	CharterRevision       int64

	offline bool // its hold is counted in Config.Offline
}

// Hold is money set aside for one call.
type Hold struct {
	Token   string
	Amount  money.Nanos
	Expires time.Time
}
