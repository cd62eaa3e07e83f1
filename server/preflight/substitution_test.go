package preflight_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/server/preflight"
)

// A call that names a model gets a smaller one with an evaluation that passed and has not expired, also from the overflow
// allowance, and no other.
func TestSubstitutionNeedsEvidence(t *testing.T) {
	w := newWorld(t)
	c := *w.company(1000 * money.Unit)
	named := func() (*preflight.Decision, *preflight.Hold) {
		asked := call(10, 10)
		asked.Model, asked.Tier = "large", ""
		return w.reserve(asked)
	}
	missing := func(d *preflight.Decision) bool {
		return slices.ContainsFunc(d.Reasons, func(r preflight.Reason) bool {
			return r.Code == preflight.CodeEvaluationMissing && strings.Contains(r.Message, `model small may not serve in place of large`) &&
				strings.Contains(r.Message, `evaluation of it for "chat"`)
		})
	}
	if d, h := named(); h == nil || d.Model != "large" || d.Effect != routing.Allow {
		t.Errorf("what was asked for: %+v", d)
	}
	c.PermittedTiers = []string{"economy"}
	w.apply(&c)
	if d, h := named(); h != nil || d.Effect != routing.Deny || !missing(d) {
		t.Errorf("without evidence: %+v", d)
	}
	if d, h := w.reserve(&routing.Call{Feature: "chat", TaskClass: "code", Tier: "premium", Estimate: routing.Estimate{InputTokens: 1, MaxOutputTokens: 1}}); h == nil || d.Model != "small" {
		t.Errorf("a tier is no name of a model: %+v", d)
	}
	c.Evaluations = []charter.Evaluation{{Capability: "chat", Model: "small", Passed: true, Expires: w.clock.Now().Add(time.Hour)}}
	w.apply(&c)
	if d, h := named(); h == nil || d.Model != "small" || d.Effect != routing.Downgrade || missing(d) {
		t.Errorf("with evidence: %+v", d)
	}
	w.clock.advance(time.Hour + time.Minute)
	if d, h := named(); h != nil || !missing(d) {
		t.Errorf("when it has expired: %+v", d)
	}

	c.Exhausted = charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: 100 * money.Unit}
	w.apply(&c, budget(t, "chat", "org", 1))
	w.reserve(call(1, 1)) // more than is left
	if d, h := named(); h != nil {
		t.Errorf("the overflow allowance pays without evidence: %+v", d)
	}
	c.Evaluations[0].Expires = time.Time{}
	w.apply(&c)
	if d, h := named(); h == nil || d.Model != "small" {
		t.Errorf("the overflow allowance does not pay: %+v", d)
	}
}
