package store

import "time"

// Census is every owner of the ledger, read at one revision of the store.
type Census struct {
	Members []Member
	Epoch   int64 // of the control records
	Batches int64 // of all journals, in the store
}

// Member is an owner, and what has become of it.
type Member struct {
	Owner     // only ID once it is closed
	Live      bool
	Closed    time.Time // zero until then
	Successor string    // who looks after it
	// Of one that was taken over: when its quarantine began, and how long it lasts from now on, as far as the store says.
	// The successor counts by its own clock too.
	Dead           time.Time
	QuarantineLeft time.Duration
}
