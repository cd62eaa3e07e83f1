//go:build !unix

package policy

import "time"

// processorTime is not known here: the wall clock counts.
func processorTime() time.Duration { return time.Duration(time.Now().UnixNano()) }
