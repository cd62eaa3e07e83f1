package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// Boot is CLOCK_BOOTTIME: it goes on while the machine sleeps.
func (systemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // the clock exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
