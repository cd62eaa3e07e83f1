package server

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	allow     = chartergatev1.Effect_EFFECT_ALLOW
	downgrade = chartergatev1.Effect_EFFECT_DOWNGRADE
	throttle  = chartergatev1.Effect_EFFECT_THROTTLE
	deny      = chartergatev1.Effect_EFFECT_DENY
)

// revisions fills in what was decided with, so that the rest of a decision can be compared whole.
func (g *gateRig) revisions(t *testing.T, d *chartergatev1.Decision, policy string) {
	t.Helper()
	snap := control.Snapshot()
	d.PolicyRevision, d.CharterRevision = policy, snap.Charter("chat").Revision
	d.PriceRevision, d.Currency = snap.Record("priceBooks/dollars").Etag(), "USD"
}

func TestReserveTellsTheGatewayAllItNeeds(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	const wide = `package chartergate.routing

decision := {
	"effect": "allow", "tiers": ["premium", "economy"], "reasons": ["because"],
	"max_input_tokens": 5000, "max_output_tokens": 300, "trim_context_to_tokens": 900, "prompt_cache": "1h",
}
`
	const economical = `package chartergate.routing

decision := {"effect": "allow", "tiers": ["economy", "premium"]}
`
	for name, c := range map[string]struct {
		rego string
		call *chartergatev1.Call
		want *chartergatev1.Decision
	}{
		"the shipped policy": {
			call: aCall(2000, 500),
			want: &chartergatev1.Decision{
				Effect: allow, Tier: "economy", Model: "small", Provider: "acme", MaxInputTokens: 99_500, MaxOutputTokens: 500,
				PromptCache: chartergatev1.PromptCache_PROMPT_CACHE_5M, EstimatedCostNanos: 3_000_000,
			},
		},
		"no output limit is the model's own": {
			call: aCall(1000, 0),
			want: &chartergatev1.Decision{
				Effect: allow, Tier: "economy", Model: "small", Provider: "acme", MaxInputTokens: 96_000, MaxOutputTokens: 4000,
				EstimatedCostNanos: 9_000_000,
			},
		},
		"a policy with an answer to everything": {
			rego: wide,
			call: &chartergatev1.Call{Feature: "chat", Estimate: &chartergatev1.Estimate{InputTokens: 1000, MaxOutputTokens: 500}},
			want: &chartergatev1.Decision{
				Effect: allow, Tier: "premium", Model: "large", Provider: "acme", MaxInputTokens: 5000, MaxOutputTokens: 300,
				TrimContextToTokens: 900, PromptCache: chartergatev1.PromptCache_PROMPT_CACHE_1H, EstimatedCostNanos: 16_000_000,
				Alternates: []*chartergatev1.Alternate{{Tier: "economy", Model: "small", EstimatedCostNanos: 1_600_000}},
				Reasons:    []*chartergatev1.Reason{{Code: chartergatev1.ReasonCode_REASON_CODE_POLICY, Message: "because"}},
			},
		},
		"an alternate is never dearer than the hold": {
			rego: economical,
			call: &chartergatev1.Call{Feature: "chat", Estimate: &chartergatev1.Estimate{InputTokens: 1000, MaxOutputTokens: 500}},
			want: &chartergatev1.Decision{
				Effect: allow, Tier: "economy", Model: "small", Provider: "acme", MaxInputTokens: 99_500, MaxOutputTokens: 500,
				EstimatedCostNanos: 2_000_000,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			modules, revision := policy.Builtin(), "builtin/shipped"
			if c.rego != "" {
				modules, revision = map[string]string{"routing.rego": c.rego}, "policies/routing/revisions/wide"
			}
			p, err := policy.Compile(modules)
			if err != nil {
				t.Fatal(err)
			}
			g.decider.Use(policy.One(p, revision))
			want := proto.CloneOf(c.want)
			g.revisions(t, want, revision)
			resp := g.reserve(t, c.call)
			if len(want.Reasons) == 0 { // the shipped policy's words may change
				want.Reasons = resp.Decision.Reasons
			}
			if !proto.Equal(resp.Decision, want) {
				t.Errorf("decision is\n%v, want\n%v", resp.Decision, want)
			}
			if want.PriceRevision == 0 || want.CharterRevision == 0 {
				t.Errorf("revisions are not told: %v", want)
			}
			h := resp.Hold
			if h.GetToken() == "" || len(h.Token) > maxToken || h.AmountNanos != want.EstimatedCostNanos ||
				!h.ExpireTime.AsTime().Equal(noon.Add(2*time.Minute)) {
				t.Errorf("hold is %v", h)
			}
			before := g.status(t, "budgets/support")
			check, err := g.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: c.call})
			if err != nil || !proto.Equal(check.Decision, want) {
				t.Errorf("check gives %v (%v), want %v", check, err, want)
			}
			if after := g.status(t, "budgets/support"); !proto.Equal(before, after) {
				t.Errorf("check changed the budget: %v, was %v", after, before)
			}
		})
	}
}

func TestSettleReleaseAndExtend(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	both := func(held, settled, forced int64) {
		t.Helper()
		for _, name := range []string{"budgets/support", "budgets/acme"} {
			if st := g.status(t, name); st.HeldNanos != held || st.SettledNanos != settled || st.ForcedNanos != forced ||
				st.RemainingNanos != st.LimitNanos-held-settled {
				t.Errorf("%s is %v, want held %d, settled %d, forced %d", name, st, held, settled, forced)
			}
		}
	}
	g.clock.advance(1_234_567) // a moment that is no whole millisecond
	token := g.hold(t, aCall(1000, 500))
	both(2_000_000, 0, 0)

	// Below the hold: the rest is free again. With tools, each line is told and they add up.
	s := g.settle(t, token, &chartergatev1.Usage{InputTokens: 700, OutputTokens: 100})
	want := &chartergatev1.Settlement{
		Feature: "chat", Tier: "economy", Model: "small", CostNanos: 900_000, ReleasedNanos: 1_100_000, Currency: "USD",
		Lines: []*chartergatev1.CostLine{
			{Unit: "input_tokens", Quantity: 700, CostNanos: 700_000}, {Unit: "output_tokens", Quantity: 100, CostNanos: 200_000},
		},
		SettleTime: s.SettleTime, Journal: s.Journal,
	}
	if !proto.Equal(s, want) || !s.SettleTime.AsTime().Truncate(time.Second).Equal(noon) || !strings.HasPrefix(s.Journal, "jr/") {
		t.Errorf("settlement is\n%v, want\n%v", s, want)
	}
	both(0, 900_000, 0)
	if again := g.settle(t, token, &chartergatev1.Usage{InputTokens: 700, OutputTokens: 100}); !proto.Equal(again, s) {
		t.Errorf("settling again gives\n%v, first\n%v", again, s)
	}

	// Above the hold, on another model: forced.
	token = g.hold(t, aCall(1000, 500))
	resp, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{
		Hold: token, Model: "large", Usage: used(1000, 0), Outcome: chartergatev1.Outcome_OUTCOME_SUCCESS,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := resp.Settlement; s.CostNanos != 10_000_000 || s.ForcedNanos != 8_000_000 || s.Model != "large" || s.Tier != "premium" || s.Late || s.ReleasedNanos != 0 {
		t.Errorf("settlement on another model is %v", s)
	}
	both(0, 10_900_000, 8_000_000)

	// Released: nothing is spent, and again gives the same.
	token = g.hold(t, aCall(1000, 500))
	for range 2 {
		if r, err := g.preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: token}); err != nil || r.ReleasedNanos != 2_000_000 {
			t.Errorf("release gives %v (%v)", r, err)
		}
	}
	both(0, 10_900_000, 8_000_000)

	// Extended: the new token and the old one are the same money.
	token = g.hold(t, aCall(1000, 500))
	g.clock.advance(time.Minute)
	x, err := g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token, Ttl: durationpb.New(5 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if h := x.Hold; h.AmountNanos != 2_000_000 || !h.ExpireTime.AsTime().Equal(g.clock.Now().Add(5*time.Minute)) || h.Token == token {
		t.Errorf("the extended hold is %v", h)
	}
	if x, err := g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: x.Hold.Token, Ttl: durationpb.New(time.Second)}); err != nil ||
		!x.Hold.ExpireTime.AsTime().Equal(g.clock.Now().Add(5*time.Minute)) {
		t.Errorf("a shorter time gives %v (%v), want the longer one kept", x, err)
	}
	both(2_000_000, 10_900_000, 8_000_000)
	g.clock.advance(4 * time.Minute)
	if s := g.settle(t, x.Hold.Token, used(1000, 500)); s.Late || s.ForcedNanos != 0 || s.CostNanos != 2_000_000 {
		t.Errorf("settled within its new time: %v", s)
	}
	if s := g.settle(t, token, used(1000, 500)); s.CostNanos != 2_000_000 {
		t.Errorf("settled by its first token too: %v", s)
	}
	both(0, 12_900_000, 8_000_000)
}

// A hold that has expired is settled late, in full as forced spend, once.
func TestSettleAfterExpiry(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	token := g.hold(t, aCall(1000, 500))
	g.clock.advance(2*time.Minute + 30*time.Second)
	eventually(t, "the hold is freed", func() bool { return g.status(t, "budgets/support").HeldNanos == 0 })
	s := g.settle(t, token, used(1000, 100))
	if !s.Late || s.CostNanos != 1_200_000 || s.ForcedNanos != 1_200_000 || s.ReleasedNanos != 0 {
		t.Errorf("settlement is %v", s)
	}
	if again := g.settle(t, token, used(1000, 100)); !proto.Equal(again, s) {
		t.Errorf("again gives\n%v, first\n%v", again, s)
	}
	if st := g.status(t, "budgets/acme"); st.SettledNanos != 1_200_000 || st.ForcedNanos != 1_200_000 {
		t.Errorf("acme is %v", st)
	}
}
