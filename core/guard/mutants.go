//go:build mutants

// Package guard: see guard.go. Here the guards can be switched off.
package guard

// The guards, as in guard.go.
var (
	Fence              = true
	FreshIdentity      = true
	JournalCAS         = true
	GrantCAS           = true
	Quarantine         = true
	OwnQuarantine      = true
	BatchBytes         = true
	DeadlineFromSend   = true
	DeadlineCheck      = true
	ExpiryWhenChecked  = true
	UnknownIsUnknown   = true
	DebitBeforeReturn  = true
	TakeoverOnce       = true
	RequestOnce        = true
	OwnerGone          = true
	TermsRevision      = true
	SealedPeriod       = true
	CeilingCheck       = true
	HeldUntilCommitted = true
)

// All gives every guard by its name.
func All() map[string]*bool {
	return map[string]*bool{
		"Fence": &Fence, "FreshIdentity": &FreshIdentity, "JournalCAS": &JournalCAS, "GrantCAS": &GrantCAS,
		"Quarantine": &Quarantine, "OwnQuarantine": &OwnQuarantine, "BatchBytes": &BatchBytes,
		"DeadlineFromSend": &DeadlineFromSend, "DeadlineCheck": &DeadlineCheck, "ExpiryWhenChecked": &ExpiryWhenChecked,
		"UnknownIsUnknown": &UnknownIsUnknown, "DebitBeforeReturn": &DebitBeforeReturn, "TakeoverOnce": &TakeoverOnce, "RequestOnce": &RequestOnce,
		"OwnerGone": &OwnerGone, "TermsRevision": &TermsRevision, "SealedPeriod": &SealedPeriod,
		"CeilingCheck": &CeilingCheck, "HeldUntilCommitted": &HeldUntilCommitted,
	}
}
