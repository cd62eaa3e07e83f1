package store

import (
	"context"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/usage"
)

// Usage keeps what was used, for reports: rollups by the hour, later by the day. Implementations: sql (SQLite,
// PostgreSQL); storetest proves them with one suite.
type Usage interface {
	// Apply counts rollups that are all that some batches of journals hold, in one transaction, so that each batch counts
	// once. No batches is what is in no journal. The hour of a rollup keeps a number of cohorts, prompt patterns and label
	// values apart, those that come first; the others are counted as usage.OtherKey. Errors: ErrConflict where one of the
	// batches was applied before, usage.ErrOverflow, ErrUnavailable; then nothing is written, but for ErrUnavailable, after
	// which the outcome is unknown.
	Apply(ctx context.Context, batches []BatchID, rollups []usage.Rollup) error
	// Applied says which of some batches were applied before.
	Applied(ctx context.Context, batches []BatchID) (map[BatchID]bool, error)
	// Sum answers a query. Rows are ordered by start, then keys, then currency. No data is no rows. Coverage names the
	// journals with settlements since the window began, each up to its first batch that is missing. Errors:
	// *usage.QueryError, ErrTooLarge for more than 200,000 rows, usage.ErrOverflow.
	Sum(ctx context.Context, q usage.Query) ([]usage.Row, usage.Coverage, error)
	// Compact turns the hours before a time, which is the start of a day, into days: sums by hour of them are by day then.
	// It also tidies up what Apply has added: call it every minute or so. Several servers may at once.
	Compact(ctx context.Context, before time.Time) error
	Close() error

	// RecordOutcome counts how a hold's call ended, in the hour and for the attribution that it was made with. first is
	// what stands: another outcome where one was recorded before, which is not changed.
	RecordOutcome(ctx context.Context, o usage.HoldOutcome, hour time.Time, a usage.Attribution) (first usage.Outcome, err error)
	// RecordTaskOutcome counts how a run or task ended, where its last call is counted; where none is known yet, once one
	// is. first is what stands. Outcomes are remembered for 31 days after the last call.
	RecordTaskOutcome(ctx context.Context, t usage.Task, o usage.Outcome) (first usage.Outcome, err error)

	// Adjust posts adjustments, all or none of those whose ids are new. Error: ErrConflict where one of an id was posted
	// before with something else.
	Adjust(ctx context.Context, list []usage.Adjustment) error
	// Adjustments lists what was posted for hours of a window, by hour and id, at most limit.
	Adjustments(ctx context.Context, from, to time.Time, limit int) ([]usage.Adjustment, error)

	// KeepDecisions keeps decisions; one whose id is kept already is left out.
	KeepDecisions(ctx context.Context, list []usage.Decision) error
	// Decisions searches. next continues as DecisionQuery.After; empty at the end.
	Decisions(ctx context.Context, q usage.DecisionQuery) (list []usage.Decision, next string, err error)
	// CountDecisions counts what Decisions would find in all.
	CountDecisions(ctx context.Context, q usage.DecisionQuery) (int64, error)

	// Position is a number that was kept under a name; 0 where none was.
	Position(ctx context.Context, name string) (uint64, error)
	// SetPosition keeps it.
	SetPosition(ctx context.Context, name string, n uint64) error

	// Prune deletes what is older than it is kept for. Months go as a whole. Zero times keep all.
	Prune(ctx context.Context, p Prune) error
	// Lead says whether this process is the one to tidy up for a time from now on.
	Lead(ctx context.Context, now time.Time, d time.Duration) (bool, error)
}

// Prune says before when things are deleted.
type Prune struct {
	Days      time.Time // days, months, adjustments, and batches that are counted in no later ones
	Decisions time.Time
	Outcomes  time.Time // of holds and tasks: those are refused as unknown or counted anew then
}

// ErrUsageUnavailable is ErrUnavailable of a usage store.
var ErrUsageUnavailable = fmt.Errorf("the usage database: %w", ErrUnavailable)

// BatchID names a batch of a journal.
type BatchID struct {
	Owner string
	N     uint64
}
