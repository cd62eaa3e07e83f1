package preflight

import (
	"errors"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// failureTold is how often the failures of one feature's policy are logged at most.
const failureTold = time.Minute

// policyFailures are the failures that were not logged, by feature.
type policyFailures struct {
	mu   sync.Mutex
	told map[string]*toldFailure
}

type toldFailure struct {
	at    time.Time
	since int64 // failures after that
}

// policyFailed counts a failure, and raises the alarm once a minute for each feature.
func (s *Service) policyFailed(c *charter.Charter, now time.Time, err error) {
	reason := routing.FailureError
	if f, ok := errors.AsType[interface {
		error
		Failure() routing.PolicyFailure
	}](err); ok {
		reason = f.Failure()
	}
	s.Metrics.PolicyFailed(reason)
	f := &s.failures
	f.mu.Lock()
	told := f.told[c.ID]
	if told != nil && now.Sub(told.at) < failureTold && now.Sub(told.at) >= 0 {
		told.since++
		f.mu.Unlock()
		return
	}
	calls := int64(1)
	if told != nil {
		calls += told.since
	}
	if f.told == nil || len(f.told) >= maxFailing {
		f.told = map[string]*toldFailure{}
	}
	f.told[c.ID] = &toldFailure{at: now}
	f.mu.Unlock()
	mode := "deny"
	if c.FailMode == charter.FailStrictestTier {
		mode = "strictest tier"
	}
	s.Log.Error("the routing policy gave no decision: the charter's fail mode applies", "feature", c.ID, "fail_mode", mode,
		"reason", string(reason), "calls", calls, "error", err)
}

// maxFailing bounds the features whose failures are counted between two lines of the log.
const maxFailing = 10_000
