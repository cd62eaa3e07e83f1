package preflight

import "time"

// Clock gives the time.
type Clock interface {
	// Now is the wall clock: periods, expiry and prices go by it.
	Now() time.Time
	// Boot is a clock that never jumps and goes on while the machine sleeps: the ownership deadline goes by it.
	Boot() time.Duration
}
