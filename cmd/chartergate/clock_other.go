//go:build !linux

package main

import "time"

var booted = time.Now()

// Boot is Go's monotonic clock, which on some systems stops while the machine sleeps.
func (systemClock) Boot() time.Duration { return time.Since(booted) }
