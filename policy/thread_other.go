//go:build !linux

package policy

import "time"

// threadTime is not known here: the wall clock counts.
func threadTime() time.Duration { return time.Duration(time.Now().UnixNano()) }
