package preflight

import (
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// signal adds to a hold what its prompt says about caching and trimming.
func (s *Service) signal(call *routing.Call, d *Decision, h *ledger.Hold) {
	if len(call.Prefix.Hashes) == 0 && call.Run == "" && d.TrimContextToTokens == 0 {
		return
	}
	at := call.Recorded
	if at.IsZero() {
		at = h.Call.Time
	}
	signals := s.signals.Take(&usage.SignalCall{
		Feature: call.Feature, PromptPattern: call.PromptPattern, Run: call.Run, Provider: d.Provider, Model: d.Model,
		InputTokens: call.Estimate.InputTokens, Prefix: call.Prefix, At: at,
	})
	if d.TrimContextToTokens > 0 {
		signals.Untrimmed = call.Estimate.InputTokens
	}
	s.mu.Lock()
	h.Call.Signals = signals
	s.mu.Unlock()
}
