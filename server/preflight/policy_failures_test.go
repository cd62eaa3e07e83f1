package preflight_test

import (
	"bytes"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
)

// Policies that fail in all ways, for charters that deny then and for ones that take the strictest tier.
func TestPolicyFailures(t *testing.T) {
	w := newWorld(t)
	c := w.company(1e15)
	log := &bytes.Buffer{}
	w.gate.Log = slog.New(slog.NewTextHandler(log, nil))
	for _, f := range []struct {
		why        routing.PolicyFailure
		body, says string
	}{
		{routing.FailureTimeout, "ns := numbers.range(1, 9000)\n\ndecision := {\"effect\": \"deny\"} if {\n\tsome a in ns\n\tsome b in ns\n\ta * b < 0\n}", "longer than 10ms"},
		{routing.FailureBounds, `decision := {"effect": "deny", "reasons": [sprintf("%0900000d", [1])]}`, "sprintf: it would make a text of more than 262144 bytes"},
		{routing.FailureError, "decision := {\"effect\": \"deny\"}\n\ndecision := {\"effect\": \"allow\", \"tiers\": [\"economy\"]}", "conflict"},
		{routing.FailureUndefined, `decision := {"effect": "deny"} if input.request.model == "none"`, "undefined"},
		{routing.FailureIllFormed, `decision := {"effect": "perhaps"}`, "perhaps"},
	} {
		p, err := policy.Compile(map[string]string{"routing.rego": "package chartergate.routing\n\n" + f.body + "\n"})
		if err != nil {
			t.Fatal(err)
		}
		w.gate.Decider.(*policy.Decider).Use(policy.One(p, string(f.why)))
		for mode, want := range map[charter.FailMode]routing.Effect{charter.FailDeny: routing.Deny, charter.FailStrictestTier: routing.Downgrade} {
			failing := *c
			failing.FailMode = mode
			w.apply(&failing)
			w.metrics.failed = nil
			log.Reset()
			w.clock.advance(2 * time.Minute)
			for range 3 {
				d, hold := w.reserve(call(1000, 100))
				r := d.Reasons[0]
				if d.Effect != want || r.Code != preflight.CodePolicyFailed || !strings.Contains(r.Message, f.says) {
					t.Errorf("%s, fail mode %d: %v, %+v", f.why, mode, d.Effect, d.Reasons)
				}
				if (hold != nil) != (want == routing.Downgrade) || hold != nil && d.Tier != "economy" {
					t.Errorf("%s, fail mode %d: tier %q, hold %v", f.why, mode, d.Tier, hold)
				}
			}
			if all := []routing.PolicyFailure{f.why, f.why, f.why}; !reflect.DeepEqual(w.metrics.failed, all) {
				t.Errorf("counted as %v, want %v", w.metrics.failed, all)
			}
			if n := strings.Count(log.String(), "the routing policy gave no decision"); n != 1 || !strings.Contains(log.String(), "reason="+string(f.why)) {
				t.Errorf("%s: %d lines of the log in one minute, want one\n%s", f.why, n, log)
			}
		}
	}
	log.Reset()
	w.clock.advance(time.Minute)
	w.reserve(call(1000, 100))
	if !strings.Contains(log.String(), "calls=3") { // this one and two before that were not told
		t.Errorf("a minute later the log says\n%s", log)
	}
}
