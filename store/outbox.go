package store

import "context"

// Outbox takes settlements that leave the ledger's journal.
type Outbox interface {
	// Put keeps batches; they are durable when it returns without an error. A batch may be put again, after an error or a
	// lost answer: readers count each (Owner, N) once.
	Put(ctx context.Context, batches []OutboxBatch) error
}

// OutboxBatch is one batch of a journal.
type OutboxBatch struct {
	Owner string
	N     uint64
	Data  []byte // the record as it was stored
}
