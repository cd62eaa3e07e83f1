package preflight

import (
	"sync"
	"time"
)

// trickle lets through a number of calls a minute by feature, evenly spaced (GCRA with a burst of one). It starts anew
// with the process. The zero value is ready.
type trickle struct {
	mu   sync.Mutex
	next map[string]time.Time
}

// take lets a call through, or says how long to wait.
func (t *trickle) take(feature string, perMinute int32, now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next := t.next[feature]; now.Before(next) {
		return next.Sub(now)
	}
	if t.next == nil {
		t.next = map[string]time.Time{}
	}
	t.next[feature] = now.Add(time.Minute / time.Duration(perMinute))
	return 0
}
