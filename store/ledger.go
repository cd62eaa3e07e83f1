package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
)

// Ledger keeps the money: the records of the ledger protocol. Every write is fenced: it fails with ErrFenced once the
// session that Claim began is gone. After ErrUnavailable the outcome of a write is unknown: it may still land.
type Ledger interface {
	// Claim makes this process the ledger's only owner, under a new identity, and keeps its session alive. Error:
	// *OwnedError while another process owns it.
	Claim(ctx context.Context) (owner string, err error)
	// Heartbeat proves that the session lives. Errors: ErrFenced, ErrUnavailable.
	Heartbeat(ctx context.Context) error
	// Resign ends the session, so that the next owner need not wait for its lease.
	Resign(ctx context.Context) error

	// Open reads accounts; those that were never used have revision 0.
	Open(ctx context.Context, ids []ledger.AccountID) ([]ledger.Opened, error)
	// Keys gives the accounts that are kept of a budget in the period that starts then: of its keys, its overflow
	// allowances and its own.
	Keys(ctx context.Context, budget string, start int64) ([]ledger.AccountID, error)
	// Adjust writes grants and budgets that still have their revisions, all or nothing. Errors: ErrConflict, ErrFenced,
	// ErrUnavailable; after either but ErrFenced call Resolve.
	Adjust(ctx context.Context, changes []ledger.AccountChange) (rev int64, err error)
	// Resolve makes sure that an Adjust whose outcome is a conflict or unknown can no longer land, and reads its accounts.
	Resolve(ctx context.Context, changes []ledger.AccountChange) ([]ledger.Opened, error)

	// Append commits a batch to its owner's journal. After ErrUnavailable append the same batch again: it counts once.
	// Errors: ErrConflict (nothing was written and this batch cannot land any more), ErrFenced, ErrUnavailable, ErrMoved.
	Append(ctx context.Context, b *ledger.Batch) (rev int64, hash []byte, err error)
	// Entry reads the entry of a hold. Error: ErrNotFound.
	Entry(ctx context.Context, owner string, batch, seq uint64) (*ledger.Entry, error)
	// Usage reads of usage without a hold, by its request id, what a repeated request is answered from: amount, time,
	// feature, tier, model, time of the call, request hash, Batch.Owner and Batch.N. Error: ErrNotFound.
	Usage(ctx context.Context, requestID string) (*ledger.Entry, error)
	// Collect moves the oldest batches of a journal to out and then, leaving a mark of each hold, out of the store: at most
	// a transaction's worth. Nothing of a live owner but this one, or of an owner that another process has taken over.
	// Errors: out's, ErrConflict, ErrFenced, ErrUnavailable; after any but ErrFenced collect again.
	Collect(ctx context.Context, out Outbox, c Collection) (Collected, error)
	// Mark reads how a hold ended whose batch was collected; 0 where there is no such batch.
	Mark(ctx context.Context, owner string, seq uint64) (ledger.Mark, error)
	// Journals gives the other owners whose journals hold batches.
	Journals(ctx context.Context) ([]string, error)
	// Lag says what the own journal holds that is not collected.
	Lag() (batches int, bytes int64)
	// Tidy looks at the next page of what is kept for a time, and deletes what is older: marks and owners that are closed
	// after ledger.KeepFor, request ids after ledger.RetryFor. done says that it has seen all and begins anew.
	Tidy(ctx context.Context) (done bool, err error)

	// Predecessors takes over every owner that is gone and not closed, and quarantines its grants for a time.
	Predecessors(ctx context.Context, quarantine time.Duration) ([]Predecessor, error)
	// Known says whether there was an owner of this name, and whether it is closed.
	Known(ctx context.Context, owner string) (known, closed bool, err error)
	// Journal reads what an owner has settled, but for what was collected, and where its journal ends.
	Journal(ctx context.Context, owner string) (next uint64, hash []byte, settled []ledger.Settled, err error)
	// Reclaim writes the changes of ledger.NextReclaim. Errors: ErrConflict, ErrFenced, ErrUnavailable; call Resolve then.
	// ErrQuarantined while another replica may still count on the grants.
	Reclaim(ctx context.Context, owner string, changes []ledger.AccountChange) (rev int64, err error)
	// CloseOwner says that nothing of an owner is left to reclaim.
	CloseOwner(ctx context.Context, owner string) error

	// RecordAlert keeps an alert; first is false when it was kept before.
	RecordAlert(ctx context.Context, a ledger.Alert) (first bool, err error)
	// Alerts gives the alerts of a budget, or of all for "", the newest first, at most limit.
	Alerts(ctx context.Context, budget string, limit int) ([]ledger.Alert, error)
	// AccountAlerts gives the alerts of one account, the newest first.
	AccountAlerts(ctx context.Context, id ledger.AccountID) ([]ledger.Alert, error)

	// Secret is the key that hold tokens are signed with; made at the first call ever.
	Secret(ctx context.Context) ([]byte, error)
}

// Predecessor is an owner that is gone.
type Predecessor struct {
	Owner    string
	Accounts []ledger.AccountID // that it has grants of
	// Ready is when its grants may be reclaimed: now, if every grant is settled in full, so that nothing can be held.
	Ready time.Time
}

// Collection says what to collect.
type Collection struct {
	Owner string
	// Below: batches from this number on stay, because whether they are committed is not settled yet.
	Below uint64
	// Before: batches that were sealed before go.
	Before time.Time
	// Keep: of the own journal, also the oldest batches go that exceed this many bytes.
	Keep int64
}

// Collected says how far a journal is collected.
type Collected struct {
	Next uint64 // all batches before have left the journal
	More bool   // there may be more to collect at once
}

// Errors of Ledger.
var (
	// ErrFenced says that this process has lost its ownership and must stop.
	ErrFenced = errors.New("this process has lost its ownership of the ledger")
	// ErrConflict says that a record changed in between; nothing was written.
	ErrConflict = errors.New("a record of the ledger changed in between")
	// ErrMoved says that another process has written on in the journal of an owner that is gone: it must be read again.
	// Whether the batch was committed is unknown.
	ErrMoved = errors.New("the journal was written on by another process")
	// ErrQuarantined says that the grants of an owner are still in quarantine.
	ErrQuarantined = errors.New("the owner's grants are in quarantine")
	// ErrNotFound says that there is no such entry.
	ErrNotFound = errors.New("there is no such entry")
)

// OwnedError says which process owns the ledger.
type OwnedError struct {
	Host  string
	PID   int64
	Since time.Time
}

func (e *OwnedError) Error() string {
	return fmt.Sprintf("the ledger in this etcd is owned by process %d on %s since %s: several replicas on one etcd are not supported in this version; stop that one first",
		e.PID, e.Host, e.Since.UTC().Format(time.RFC3339))
}
