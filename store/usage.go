package store

import (
	"context"
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
}

// BatchID names a batch of a journal.
type BatchID struct {
	Owner string
	N     uint64
}
