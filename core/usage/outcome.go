package usage

import (
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// TaskKind says what an id of a Task is.
type TaskKind int32

// Kinds. Stores number them so.
const (
	KindRun  TaskKind = 1 // an agent run
	KindTask TaskKind = 2 // a user's task
)

// Task is a run or a user's task of a feature: many calls, one outcome.
type Task struct {
	Kind    TaskKind
	Feature string
	ID      string
}

// HoldOutcome is what is known of how one hold's call ended for the user.
type HoldOutcome struct {
	Owner   string // of the ledger, who made the hold
	Seq     uint64
	Outcome Outcome
}

// EffectAdjustment is the effect of an adjustment in rollups.
const EffectAdjustment = "adjustment"

// Adjustment corrects what is counted without changing it: an amount more, or less than 0, in one hour. It is counted as
// Cost.Other of the effect EffectAdjustment, so that reports show it apart.
type Adjustment struct {
	ID          string    // chosen by who posts it; once for each
	Time        time.Time // of posting
	Hour        time.Time
	Attribution // Effect is EffectAdjustment whatever it says
	Amount      money.Nanos
	Reason      string // one sentence
	Corrects    string // what it corrects, such as a price or an invoice line
}

// Decision is one decision of the gate, kept for search and simulation.
type Decision struct {
	ID      string // ascending with time
	Time    time.Time
	Feature string
	Effect  string
	Cohort  string
	Run     string
	Model   string // empty where the call was refused
	Reason  string // the code of the reason that decided, such as BUDGET_EXHAUSTED
	Data    []byte // the call, what was known and the answer, as JSON
}

// DecisionQuery searches decisions, the newest first. Empty fields fit all.
type DecisionQuery struct {
	ID                                          string
	From, To                                    time.Time // To is not included
	Feature, Effect, Cohort, Run, Model, Reason string
	Limit                                       int    // 1 to 1,000
	After                                       string // the id of the last of the page before
	OldestFirst                                 bool
}
