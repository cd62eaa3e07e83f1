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
	// once. Error: ErrConflict where one of the batches was applied before; then nothing is written.
	Apply(ctx context.Context, batches []BatchID, rollups []usage.Rollup) error
	// Applied says which of some batches were applied before.
	Applied(ctx context.Context, batches []BatchID) (map[BatchID]bool, error)
	// Sum answers a query. Rows are ordered by start, then keys. No data is no rows.
	Sum(ctx context.Context, q usage.Query) ([]usage.Row, usage.Coverage, error)
	// Compact turns the hours before a time, which is the start of a day, into days: sums by hour of them are by day then.
	Compact(ctx context.Context, before time.Time) error
	Close() error
}

// BatchID names a batch of a journal.
type BatchID struct {
	Owner string
	N     uint64
}
