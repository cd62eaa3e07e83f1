package preflight

import (
	"context"
	"errors"
	"time"
)

// Clock gives the time, and waits.
type Clock interface {
	// Now is the wall clock: periods, expiry and prices go by it.
	Now() time.Time
	// Boot is a clock that never jumps and goes on while the machine sleeps: the ownership deadline goes by it.
	Boot() time.Duration
	// Wait waits until ch has something or is closed, ctx ends, or d has passed. Errors: ctx's, ErrWaited.
	Wait(ctx context.Context, ch <-chan struct{}, d time.Duration) error
}

// ErrWaited says that a time has passed.
var ErrWaited = errors.New("the time has passed")

// Waiter waits by the clock of the process: the Wait of a Clock.
type Waiter struct{}

// Wait implements Clock.
func (Waiter) Wait(ctx context.Context, ch <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return ErrWaited
	}
}
