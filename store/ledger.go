package store

import (
	"context"
	"errors"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
)

// Ledger keeps the money: the records of the ledger protocol, shared by every server process on the store. Every write is
// fenced: it fails with ErrFenced once the session that Claim began is gone. After ErrUnavailable the outcome of a write
// is unknown: it may still land.
type Ledger interface {
	// Claim begins a session under a new identity and keeps it alive. addr is where other owners reach this one.
	Claim(ctx context.Context, addr string) (owner string, err error)
	// Heartbeat proves that the session lives, and reads who else does. Errors: ErrFenced, ErrUnavailable.
	Heartbeat(ctx context.Context) (Roster, error)
	// Resign ends the session, so that a successor need not wait for its lease. clean says that no grant is left: then
	// there is nothing to take over either.
	Resign(ctx context.Context, clean bool) error
	// Census reads every owner that lives or is gone, and the newest of those that are closed, at most so many.
	// Error: ErrUnavailable.
	Census(ctx context.Context, closed int) (Census, error)
	// Find tells what became of an owner.
	Find(ctx context.Context, owner string) (Whereabouts, error)

	// Open reads accounts; those that were never used have revision 0.
	Open(ctx context.Context, ids []ledger.AccountID) ([]ledger.Opened, error)
	// Keys gives the accounts that are kept of a budget in the period that starts then: of its keys, its overflow
	// allowances and its own.
	Keys(ctx context.Context, budget string, start int64) ([]ledger.AccountID, error)
	// Watch calls each for every budget record that is written from now on, by anybody, in order, until ctx ends or the
	// watch breaks: then what is open should be read again.
	Watch(ctx context.Context, each func(ledger.AccountID, ledger.Budget)) error
	// Adjust writes grants and budgets that still have their revisions, all or nothing. Errors: ErrConflict, ErrFenced,
	// ErrUnavailable; after the latter call Resolve.
	Adjust(ctx context.Context, changes []ledger.AccountChange) (rev int64, err error)
	// Resolve makes sure that an Adjust or Reclaim whose outcome is unknown can no longer land, and reads its accounts.
	Resolve(ctx context.Context, changes []ledger.AccountChange) ([]ledger.Opened, error)

	// Append commits a batch to its owner's journal. After ErrUnavailable append the same batch again: it counts once.
	// Errors: ErrConflict (nothing was written and this batch cannot land any more), ErrTaken (nor can it under this
	// number: somebody else has written it), ErrRecorded, ErrFenced, ErrUnavailable.
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

	// TakeOver looks after an owner that is gone, and quarantines its grants for a time. Errors: ErrConflict (it lives, is
	// closed, or another owner looks after it), ErrFenced, ErrUnavailable.
	TakeOver(ctx context.Context, owner string, quarantine time.Duration) (Takeover, error)
	// Grants gives the accounts that an owner has grants of.
	Grants(ctx context.Context, owner string) ([]ledger.AccountID, error)
	// Journal reads what an owner has settled, but for what was collected, and where its journal ends.
	Journal(ctx context.Context, owner string) (next uint64, hash []byte, settled []ledger.Settled, err error)
	// Batches calls each for every batch that is in the journal of an owner, in order.
	Batches(ctx context.Context, owner string, each func(OutboxBatch)) error
	// Reclaim writes the changes of ledger.NextReclaim. Errors: ErrConflict, ErrFenced, ErrUnavailable; call Resolve after
	// the latter. ErrQuarantined while the quarantine lasts.
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

// Roster is who lives, and who is gone.
type Roster struct {
	Owners []Owner
	// Gone are owners that have ended, not closed yet, that nobody looks after.
	Gone []string
	// Successors are the owners that look after others which are gone.
	Successors map[string]string
	// Epoch is the control records' epoch: charter.Snapshot.Epoch of a replica that knows them all.
	Epoch int64
}

// Owner is a server process that lives.
type Owner struct {
	ID, Addr, Host string
	PID            int64
	Start          time.Time
}

// Whereabouts tell what became of an owner.
type Whereabouts struct {
	Addr      string // where it lives; empty if it does not
	Successor string // who looks after it
	Known     bool   // there was one of this name
	Closed    bool   // nothing of it is left to reclaim
}

// Takeover is what a takeover found.
type Takeover struct {
	Rev   int64     // the store's revision of it
	Ready time.Time // when the owner's grants may be reclaimed
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
	// ErrTaken says that another process has written the journal.
	ErrTaken = errors.New("the journal was written by another process")
	// ErrRecorded says that the request of an entry was recorded before, by another process.
	ErrRecorded = errors.New("a request of the batch was recorded before")
	// ErrQuarantined says that the grants of an owner are still in quarantine.
	ErrQuarantined = errors.New("the owner's grants are in quarantine")
	// ErrNotFound says that there is no such entry.
	ErrNotFound = errors.New("there is no such entry")
)
