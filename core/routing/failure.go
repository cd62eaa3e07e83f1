package routing

// PolicyFailure is why a policy gave no decision. The errors of a decider have it as `Failure() PolicyFailure`.
type PolicyFailure string

// Failures of policies.
const (
	FailureTimeout   PolicyFailure = "timeout"    // it was cut off
	FailureBounds    PolicyFailure = "bounds"     // it would have made more than it may
	FailureError     PolicyFailure = "error"      // it failed, as by a conflict of two rules
	FailureUndefined PolicyFailure = "undefined"  // it said nothing
	FailureIllFormed PolicyFailure = "ill_formed" // it said something that is no decision
)

// PolicyFailures are all of them.
var PolicyFailures = []PolicyFailure{FailureTimeout, FailureBounds, FailureError, FailureUndefined, FailureIllFormed}
