package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func exhausted(mode chartergatev1.ExhaustedMode, overflow int64, perMinute int32) func(*chartergatev1.Charter) {
	return func(c *chartergatev1.Charter) {
		c.Exhausted = &chartergatev1.Exhausted{Mode: mode, OverflowAllowanceNanos: overflow, RequestsPerMinute: perMinute}
	}
}

// A refusal is an answer: there is no gRPC error, no hold and no model, but a reason with the budget that binds, and
// when to try again.
func TestRefusalsAreAnswers(t *testing.T) {
	const midnight = 12 * time.Hour
	for name, c := range map[string]struct {
		limit   int64
		budget  func(*chartergatev1.Budget)
		charter func(*chartergatev1.Charter)
		call    *chartergatev1.Call
		before  func(t *testing.T, g *gateRig)
		effect  chartergatev1.Effect
		code    chartergatev1.ReasonCode
		bound   string
		says    []string
		retry   time.Duration
	}{
		"the budget is spent": {
			limit:  2_000_000,
			before: func(t *testing.T, g *gateRig) { g.settle(t, g.hold(t, aCall(1000, 500)), used(1000, 500)) },
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, bound: "budgets/support",
			says: []string{"0.00 USD is left", "2026-11-24T00:00:00Z"}, retry: midnight,
		},
		"too little is left": {
			limit:  2_500_000,
			before: func(t *testing.T, g *gateRig) { g.settle(t, g.hold(t, aCall(1000, 500)), used(1000, 0)) },
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, bound: "budgets/support",
			says: []string{"0.0015 USD is left", "may cost 0.002 USD"}, retry: midnight,
		},
		"what is left is held by calls in flight": {
			limit:  2_500_000,
			before: func(t *testing.T, g *gateRig) { g.hold(t, aCall(1000, 500)) },
			effect: throttle, code: chartergatev1.ReasonCode_REASON_CODE_BUDGET_HELD, bound: "budgets/support",
			says: []string{"in flight"}, retry: time.Second,
		},
		"the window of the budget is over": {
			limit: 1e9,
			budget: func(b *chartergatev1.Budget) {
				b.Period = window(noon.Add(-2*time.Hour), noon.Add(-time.Hour))
			},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, bound: "budgets/support", says: []string{"window"},
		},
		"the window of the budget is to come": {
			limit: 1e9,
			budget: func(b *chartergatev1.Budget) {
				b.Period = window(noon.Add(time.Hour), noon.Add(2*time.Hour))
			},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_BUDGET_EXHAUSTED, bound: "budgets/support", says: []string{"window"}, retry: time.Hour,
		},
		"the feature is retired": {
			limit: 1e9, charter: func(c *chartergatev1.Charter) { c.Stage = chartergatev1.Stage_STAGE_RETIRED },
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_STAGE, says: []string{"retired"},
		},
		"the only model has no price": {
			limit: 1e9, charter: func(c *chartergatev1.Charter) {
				c.PermittedTiers, c.PermittedModels = []string{"exotic"}, []string{"unpriced"}
			},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_NO_PRICE, says: []string{`"unpriced"`, "price book"},
		},
		"the only model is priced in another currency": {
			limit: 1e9, charter: func(c *chartergatev1.Charter) {
				c.PermittedTiers, c.PermittedModels = []string{"exotic"}, []string{"foreign"}
			},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_NO_EXCHANGE_RATE, says: []string{"foreign", "EUR", "USD"},
		},
		"a tool has no price": {
			limit:  1e9,
			call:   &chartergatev1.Call{Feature: "chat", Tier: "economy", Estimate: &chartergatev1.Estimate{ToolCalls: map[string]int64{"telephone": 1}}},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_NO_PRICE, says: []string{"tool_calls/telephone"},
		},
		"no model has the capability": {
			limit:  1e9,
			call:   &chartergatev1.Call{Feature: "chat", RequiredCapabilities: []string{"telepathy"}, Estimate: &chartergatev1.Estimate{InputTokens: 1}},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_CAPABILITY_MISSING, says: []string{"telepathy"},
		},
		"the call is longer than any context": {
			limit: 1000e9, call: aCall(100_001, 10),
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_CONTEXT_TOO_LONG, says: []string{"100001", "100000"},
		},
		"the policy fails": {
			limit: 1e9,
			before: func(t *testing.T, g *gateRig) {
				p, err := policy.Compile(map[string]string{"routing.rego": "package chartergate.routing\n\ndecision := {\"effect\": \"allow\", \"tiers\": [\"economy\"]} if input.request.model == \"none\"\n"})
				if err != nil {
					t.Fatal(err)
				}
				g.decider.Use(policy.One(p, "policies/routing/revisions/broken"))
			},
			effect: deny, code: chartergatev1.ReasonCode_REASON_CODE_POLICY_FAILED, says: []string{"fail mode"},
		},
		"the trickle is taken": {
			limit: 2_000_000, charter: exhausted(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_TRICKLE, 1e9, 2),
			before: func(t *testing.T, g *gateRig) {
				g.settle(t, g.hold(t, aCall(1000, 500)), used(1000, 500))
				g.hold(t, aCall(1000, 500)) // by the trickle
			},
			effect: throttle, code: chartergatev1.ReasonCode_REASON_CODE_TRICKLE_LIMIT, bound: "budgets/support",
			says: []string{"2 calls a minute"}, retry: 30 * time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := startGate(t)
			support, chat := daily("support", "acme", c.limit), allTiers("chat", "support")
			if c.budget != nil {
				c.budget(support)
			}
			if c.charter != nil {
				c.charter(chat)
			}
			g.apply(t, daily("acme", "", 1e15), support, chat)
			if c.before != nil {
				c.before(t, g)
			}
			call := c.call
			if call == nil {
				call = aCall(1000, 500)
			}
			resp := g.reserve(t, call)
			d := resp.Decision
			if d.Effect != c.effect || resp.Hold != nil || d.Tier != "" || d.Model != "" || d.EstimatedCostNanos != 0 {
				t.Fatalf("the answer is %v, want %s", resp, c.effect)
			}
			var reason *chartergatev1.Reason
			for _, r := range d.Reasons {
				if r.Code == c.code {
					reason = r
				}
			}
			if reason == nil {
				t.Fatalf("reasons are %v, want %s", d.Reasons, c.code)
			}
			if reason.Budget != c.bound {
				t.Errorf("the binding budget is %q, want %q", reason.Budget, c.bound)
			}
			for _, text := range c.says {
				if !strings.Contains(reason.Message, text) {
					t.Errorf("the reason %q does not say %q", reason.Message, text)
				}
			}
			if got := d.RetryDelay.AsDuration(); got != c.retry || (c.retry == 0) != (d.RetryDelay == nil) {
				t.Errorf("retry delay is %v, want %s", d.RetryDelay, c.retry)
			}
			check, err := g.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: call})
			if name != "the trickle is taken" && (err != nil || !proto.Equal(check.Decision, d)) { // looking takes none of it
				t.Errorf("check gives %v (%v), want %v", check, err, d)
			}
		})
	}
}

// What the money left does not pay for is answered by a cheaper tier, and says so.
func TestDowngradesSayWhy(t *testing.T) {
	g := startGate(t)
	g.chat(t, 5_000_000)
	call := &chartergatev1.Call{Feature: "chat", Complexity: 90, Estimate: &chartergatev1.Estimate{InputTokens: 1000, MaxOutputTokens: 500}}
	resp := g.reserve(t, call)
	reason := resp.Decision.Reasons[len(resp.Decision.Reasons)-1]
	if resp.Decision.Effect != downgrade || resp.Decision.Model != "small" || resp.Hold.GetAmountNanos() != 2_000_000 ||
		reason.Code != chartergatev1.ReasonCode_REASON_CODE_FITTED_TO_BUDGET || reason.Budget != "budgets/support" {
		t.Errorf("20,000,000 nanos wanted, 5,000,000 left: %v", resp)
	}
	g.settle(t, resp.Hold.Token, used(1000, 1750)) // 4,500,000: over the alert threshold
	resp = g.reserve(t, aCall(100, 50))
	found := false
	for _, r := range resp.Decision.Reasons {
		found = found || r.Code == chartergatev1.ReasonCode_REASON_CODE_BUDGET_ALERT && r.Budget == "budgets/support"
	}
	if !found || resp.Hold == nil {
		t.Errorf("over the threshold: %v", resp)
	}
}

// When the leaf is used up, the charter's overflow allowance pays in its place.
func TestOverflowAllowance(t *testing.T) {
	g := startGate(t)
	g.apply(t, daily("acme", "", 1000e9), daily("support", "acme", 2_000_000),
		allTiers("chat", "support", exhausted(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE, 3_000_000, 0)))
	g.settle(t, g.hold(t, aCall(1000, 500)), used(1000, 500))
	resp := g.reserve(t, &chartergatev1.Call{Feature: "chat", Complexity: 90, Estimate: &chartergatev1.Estimate{InputTokens: 1000, MaxOutputTokens: 500}})
	reason := resp.Decision.Reasons[len(resp.Decision.Reasons)-1]
	if resp.Decision.Effect != downgrade || resp.Decision.Model != "small" || reason.Code != chartergatev1.ReasonCode_REASON_CODE_OVERFLOW ||
		reason.Budget != "budgets/support/overflow/chat" {
		t.Fatalf("the answer is %v", resp)
	}
	g.settle(t, resp.Hold.Token, used(1000, 500))
	for name, settled := range map[string]int64{"budgets/support": 2_000_000, "budgets/support/overflow/chat": 2_000_000, "budgets/acme": 4_000_000} {
		if st := g.status(t, name); st.SettledNanos != settled || st.HeldNanos != 0 {
			t.Errorf("%s is %v, want %d settled", name, st, settled)
		}
	}
	if resp := g.reserve(t, aCall(1000, 500)); resp.Decision.Effect != deny || resp.Decision.RetryDelay.AsDuration() != 12*time.Hour {
		t.Errorf("with 1,000,000 of the allowance left: %v", resp)
	}
}

// An error means that there is no answer: the writer is gone, so nobody may hold.
func TestLedgerUnavailable(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	token := g.hold(t, aCall(1000, 500))
	g.stopWriter()
	for name, err := range map[string]error{
		"check":   second(g.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: aCall(1, 1)})),
		"reserve": second(g.preflight.Reserve(t.Context(), &chartergatev1.ReserveRequest{Call: aCall(1, 1)})),
		"extend":  second(g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token, Ttl: aReserve("").Ttl})),
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, err, codes.Unavailable, chartergatev1.ErrorReason_ERROR_REASON_LEDGER_UNAVAILABLE, nil, "retry with the same request_id")
		})
	}
}

func second[V any](_ V, err error) error { return err }

func window(from, to time.Time) *chartergatev1.Period {
	return &chartergatev1.Period{StartTime: timestamppb.New(from), EndTime: timestamppb.New(to)}
}
