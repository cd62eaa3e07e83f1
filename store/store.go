// Package store says what Chartergate keeps and what each store promises. Implementations: etcd (embedded or a
// cluster) and mem, the reference; storetest proves them all with one suite.
package store

import (
	"context"
	"errors"

	"github.com/chartergate/chartergate/core/charter"
)

// Control keeps the control records: charters, budgets, the catalog, price books and policies.
type Control interface {
	// Snapshot gives the records as this replica knows them, at most a second old while the store is in reach. It never
	// waits and never changes; the next call may give a newer one.
	Snapshot() *charter.Snapshot

	// Commit makes decide's changes in one transaction, checked (charter.Snapshot.With) against exactly the state that
	// they change: on a conflict with another writer decide is called again with the newer snapshot. It returns the
	// snapshot that holds the changes, which Snapshot gives from then on. Records are stored with new Meta. No changes is
	// no transaction. Errors: decide's and With's own, ErrTooLarge, ErrUnavailable; then nothing is written, but for
	// ErrUnavailable, after which the outcome is unknown.
	Commit(ctx context.Context, decide func(*charter.Snapshot) ([]charter.Change, error)) (*charter.Snapshot, error)

	// OnChange calls f after each newer snapshot, from one goroutine, in order. f must not call Commit, which waits for
	// that goroutine.
	OnChange(f func(*charter.Snapshot))
}

// Errors of Control. Those that wrap them say why.
var (
	// ErrUnavailable says that the store does not answer.
	ErrUnavailable = errors.New("the store does not answer")
	// ErrTooLarge says that the changes are more than one transaction of the store takes.
	ErrTooLarge = errors.New("the changes are more than one transaction takes")
)
