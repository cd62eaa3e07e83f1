//go:build !mutants

// Package guard names the guards of the ledger protocol, the conditions without which money could be spent twice or
// lost. They are constants: nothing can switch one off in a server. Under the build tag `mutants`, which only the
// simulation uses, they are variables, so that a test can show that each one is needed.
package guard

// The guards.
const (
	// Fence: every write of an owner compares the create revision of its session.
	Fence = true
	// FreshIdentity: an owner that starts again has another name.
	FreshIdentity = true
	// JournalCAS: a batch is written only where none is.
	JournalCAS = true
	// GrantCAS: grants and budgets are written only at the revisions that were read.
	GrantCAS = true
	// Quarantine: the grants of a dead owner stay out of reach until its last hold is over.
	Quarantine = true
	// OwnQuarantine: a successor counts the quarantine on its own clock too.
	OwnQuarantine = true
	// BatchBytes: a batch that is there already is ours only if its bytes are.
	BatchBytes = true
	// DeadlineFromSend: the deadline counts from before the heartbeat was sent.
	DeadlineFromSend = true
	// DeadlineCheck: no reserve after the deadline.
	DeadlineCheck = true
	// ExpiryWhenChecked: a hold's time counts from when the money was checked.
	ExpiryWhenChecked = true
	// UnknownIsUnknown: a transaction without an answer may still land, until Resolve.
	UnknownIsUnknown = true
	// DebitBeforeReturn: money is subtracted in memory before it is sent back.
	DebitBeforeReturn = true
	// TakeoverOnce: only an owner that nobody looks after is taken over.
	TakeoverOnce = true
	// OwnerGone: only an owner without session is taken over.
	OwnerGone = true
	// TermsRevision: an older view of a ceiling never replaces a newer one.
	TermsRevision = true
	// SealedPeriod: a period whose rest was rolled over grants nothing more.
	SealedPeriod = true
	// CeilingCheck: grants stay within the ceiling.
	CeilingCheck = true
	// RequestOnce: usage under a request id is written only where none is.
	RequestOnce = true
	// HeldUntilCommitted: a hold stays held until its settlement is committed.
	HeldUntilCommitted = true
)
