//go:build !linux

package vetting

import (
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

func childAttributes() *syscall.SysProcAttr { return nil }

// confine leaves the limits of time to the clock, and of memory to the collector and the stack.
func confine(*job) error {
	debug.SetMaxStack(maxStack)
	return nil
}

func spent(state *os.ProcessState, cpu time.Duration) bool {
	return state.UserTime()+state.SystemTime() >= cpu
}

func mostMemory(*os.ProcessState) int64 { return 0 }
