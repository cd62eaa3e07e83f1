package usage

import (
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Dimensions that usage is summed by. A label of the charter is `label:` and its key.
const (
	DimFeature       = "feature"
	DimOwner         = "owner" // the budget owner's name
	DimTeam          = "team"
	DimBudget        = "budget"      // the leaf budget's id
	DimBudgetPath    = "budget_path" // ids from the root to the leaf, joined by `/`
	DimCohort        = "cohort"
	DimTier          = "tier"
	DimModel         = "model"
	DimProvider      = "provider"
	DimPromptPattern = "prompt_pattern"
	DimEffect        = "effect"
	DimLabel         = "label:"
)

// OtherKey stands for the keys of a dimension beyond the most that an hour keeps; an empty key says that the call named
// none.
const OtherKey = "(other)"

// Attribution is whom usage is counted for.
type Attribution struct {
	Feature, Owner, Team, Budget, BudgetPath     string
	Cohort, Tier, Model, Provider, PromptPattern string
	Effect                                       string
	Currency                                     string
	Labels                                       map[string]string
}

// Rollup is what was counted in one hour for one attribution.
type Rollup struct {
	Hour   time.Time // its start, UTC
	Newest time.Time // the newest settlement in it; zero: not known
	Attribution
	Totals
	// Outcomes of single calls that Totals leave out: a store counts each hold's once.
	Outcomes []HoldOutcome
	// Tasks are the runs and users' tasks that its calls are part of.
	Tasks []Task
}

// Totals are sums over settlements, and over decisions that held nothing.
type Totals struct {
	Calls     int64 // settled; a slice counts the calls that it served
	Refused   int64 // decisions that denied or throttled
	Usage     Usage // ToolCalls only by name
	Cost      Cost
	Forced    money.Nanos // the part of the cost above holds, late, or without a hold
	Saved     Saved
	Signals   Signals
	Successes int64
	Failures  int64
}

// Saved is what was not spent, against the same tokens at the model's uncached rate, or at the model that was wanted.
type Saved struct {
	CacheRead  money.Nanos // cached tokens at the input rate, less their cost
	CacheWrite money.Nanos // premium paid for cache writes above the input rate: a cost, counted positive
	Downgrade  money.Nanos // the call at the wanted model, less its cost; negative where the downgrade cost more
}

// Signals are the evidence for why prompt caching saves what it saves, per call in the order in which one server saw the
// calls of a feature and prompt pattern.
type Signals struct {
	Repeats       int64 // calls whose prefix was sent before
	PrefixChanges int64 // calls whose prefix differs from the last of the pattern
	LateRepeats   int64 // repeats more than 5 minutes after the last
	ShortPrompts  int64 // calls with fewer input tokens than providers cache
	RepeatTokens  int64 // input tokens in prefixes that were sent before
	RunGrowth     int64 // input tokens that a run's call has more than its call before
	RunCalls      int64 // calls with a run that had a call before
}

// Query asks for sums of rollups.
type Query struct {
	From, To time.Time           // whole hours; To is not included
	By       []string            // dimensions of the answer, in order; none: one sum
	Where    map[string][]string // by dimension: one of these keys
	Step     Step
}

// Step is the time that each row of an answer covers.
type Step int

// Steps, in UTC.
const (
	Whole Step = iota // the query's window
	Hour
	Day
	Month
)

// Row is one sum.
type Row struct {
	Start    time.Time // of its step
	Keys     []string  // as Query.By
	Currency string    // sums of two currencies are two rows
	Totals
}

// Coverage says which part of the ledger an answer includes.
type Coverage struct {
	Through []Position // by owner
	AsOf    time.Time  // the newest settlement that is included
}

// Position is up to where one owner's journal is counted: every batch up to Batch.
type Position struct {
	Owner string
	Batch uint64
}
