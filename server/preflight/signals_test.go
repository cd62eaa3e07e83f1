package preflight_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// The signals of a call are in the journal with its settlement, also where the hold was extended, and take the time at
// which a replayed call was recorded.
func TestSignalsReachTheJournal(t *testing.T) {
	w := newWorld(t)
	w.company(10_000_000_000)
	recorded := noon.Add(-48 * time.Hour)
	for i, test := range []struct {
		at     time.Time
		extend bool
		want   usage.CallSignals
	}{
		{want: usage.CallSignals{Flags: usage.Prefixed}},
		{extend: true, want: usage.CallSignals{Flags: usage.Prefixed | usage.Repeated | usage.RunCall, RepeatTokens: 1024, RunGrowth: 10}},
		{at: recorded, want: usage.CallSignals{Flags: usage.Prefixed | usage.Repeated | usage.RunCall, RepeatTokens: 1024, RunGrowth: 10}},
		{at: recorded.Add(10 * time.Minute), want: usage.CallSignals{Flags: usage.Prefixed | usage.Repeated | usage.LateRepeat | usage.RunCall, LateTokens: 1024, RunGrowth: 10}},
	} {
		tokens := int64(1500 + 10*i)
		_, h, err := w.gate.Reserve(t.Context(), &routing.Call{
			Feature: "chat", Model: "large", Run: "run-1", PromptPattern: "v1", Estimate: routing.Estimate{InputTokens: tokens, MaxOutputTokens: 10},
			Prefix: usage.Prefix{Hashes: []uint64{7, 8}, BlockTokens: 512}, Recorded: test.at,
		}, 0)
		if err != nil || h == nil {
			t.Fatalf("hold %v, %v", h, err)
		}
		token := h.Token
		if test.extend {
			longer, err := w.gate.Extend(t.Context(), token, 5*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			token = longer.Token
		}
		s, err := w.gate.Settle(t.Context(), token, &usage.Usage{InputTokens: tokens}, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		var owner string
		var batch uint64
		if _, err := fmt.Sscanf(s.Journal, "jr/%32s/%d", &owner, &batch); err != nil {
			t.Fatal(err)
		}
		e, err := w.gate.Ledger.Entry(t.Context(), owner, batch, uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if e.Call.Signals != test.want {
			t.Errorf("call %d: %+v, want %+v", i, e.Call.Signals, test.want)
		}
	}
}
