package vetting

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"
)

// childAttributes end the child with its parent.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// confine limits this process: processor time, address space beyond what it has, and no files to write.
func confine(j *job) error {
	debug.SetMaxStack(maxStack)
	seconds := uint64((j.CPU + time.Second - 1) / time.Second)
	var pages uint64
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(string(statm), &pages); err != nil {
		return err
	}
	space := pages*uint64(os.Getpagesize()) + uint64(j.Memory)
	for _, l := range []struct {
		what int
		most uint64
	}{{syscall.RLIMIT_CPU, seconds}, {syscall.RLIMIT_AS, space}, {syscall.RLIMIT_FSIZE, 0}, {syscall.RLIMIT_CORE, 0}} {
		if err := syscall.Setrlimit(l.what, &syscall.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return err
		}
	}
	return nil
}

// spent says whether a child ended for want of processor time.
func spent(state *os.ProcessState, cpu time.Duration) bool {
	s, ok := state.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && state.UserTime()+state.SystemTime() >= cpu*8/10
}

// mostMemory is the largest resident set that a process had, in bytes.
func mostMemory(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}
