package preflight

import (
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/routing"
)

// trickle lets through a number of calls a minute by feature. It starts anew with the process. The zero value is ready.
type trickle struct {
	mu       sync.Mutex
	features map[string]*routing.Trickle
}

// take lets a call through, or says how long to wait.
func (t *trickle) take(feature string, perMinute int32, now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.features[feature]
	if f == nil {
		if t.features == nil {
			t.features = map[string]*routing.Trickle{}
		}
		f = new(routing.Trickle)
		t.features[feature] = f
	}
	return f.Take(perMinute, now)
}
