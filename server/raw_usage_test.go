package server

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// What a provider says is settled as the same usage, decomposed by hand: at once, through a session, over REST, without a
// hold, and from a stream that broke off.
func TestRawUsageIsSettled(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	raw := func(provider, api, body string) *chartergatev1.RawUsage {
		return &chartergatev1.RawUsage{Provider: provider, Api: api, Json: body}
	}
	const chat = `{"model":"small-2026-01-01","usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}`
	const broken = `data: {"type":"message_start","message":{"usage":{"input_tokens":1000,"output_tokens":100}}}`
	const cost = 1_200_000
	hold := func() string { return g.hold(t, aCall(1000, 500)) }

	resp, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: hold(), RawUsage: raw("openai", "chat", chat)})
	if err != nil || resp.Settlement.CostNanos != cost {
		t.Errorf("settled %v (%v)", resp, err)
	}
	resp, err = g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: hold(), RawUsage: raw("anthropic", "", broken)})
	if err != nil || resp.Settlement.CostNanos != cost {
		t.Errorf("an interrupted stream settled %v (%v)", resp, err)
	}
	results := g.session(t).doAll(t, op(1, &chartergatev1.SettleRequest{Hold: hold(), RawUsage: raw("vllm", "", chat)}),
		op(2, &chartergatev1.SettleRequest{Hold: hold(), RawUsage: raw("", "chat", `{"prompt_tokens":-1,"completion_tokens":1}`)}))
	if s := results[1].GetSettle().GetSettlement(); s.GetCostNanos() != cost {
		t.Errorf("in a session: %v", results[1])
	}
	if e := results[2].GetError(); e.GetReason() != "USAGE_INVALID" || codes.Code(e.GetCode()) != codes.InvalidArgument {
		t.Errorf("in a session: %v", results[2])
	}
	body, err := json.Marshal(map[string]any{"hold": hold(), "raw_usage": map[string]string{"provider": "groq", "json": chat}})
	if err != nil {
		t.Fatal(err)
	}
	if s := g.rest(t, "POST", "/v1/preflight:settle", string(body), 200)["settlement"].(map[string]any); s["cost_nanos"] != "1200000" {
		t.Errorf("over REST: %v", s)
	}
	use := aUse("raw-1", func(r *chartergatev1.RecordUsageRequest) { r.Usage, r.RawUsage = nil, raw("openai", "", chat) })
	for range 2 {
		if r, err := g.usage.RecordUsage(t.Context(), use); err != nil || r.Settlement.ForcedNanos != cost {
			t.Errorf("without a hold: %v (%v)", r, err)
		}
	}
	use = aUse("raw-2", func(r *chartergatev1.RecordUsageRequest) {
		r.Usage, r.RawUsage = nil, raw("openai", "", `{"service_tier":"flex","usage":{"prompt_tokens":1,"completion_tokens":1}}`)
	})
	refused(t, second(g.usage.RecordUsage(t.Context(), use)), codes.FailedPrecondition, noPrice, map[string]string{"unit": "service_tier/flex"})
	if st := g.status(t, "budgets/support"); st.SettledNanos != 5*cost {
		t.Errorf("the budget is %v", st)
	}
}

func TestRawUsageThatCannotBeSettled(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	token := g.hold(t, aCall(1000, 500))
	const unknown, invalid = chartergatev1.ErrorReason_ERROR_REASON_USAGE_FORMAT_UNKNOWN, chartergatev1.ErrorReason_ERROR_REASON_USAGE_INVALID
	for name, c := range map[string]struct {
		provider, api, json string
		reason              chartergatev1.ErrorReason
		meta                map[string]string
		says                string
	}{
		"another api's fields": {"openai", "chat", `{"usage":{"input_tokens":5,"output_tokens":3}}`, unknown,
			map[string]string{"provider": "openai", "api": "chat", "seen": "input_tokens,output_tokens"}, "has prompt_tokens and completion_tokens, the payload has input_tokens"},
		"an api that is not known": {"openai", "telepathy", `{}`, unknown, map[string]string{"api": "telepathy"}, `there is no api "telepathy"`},
		"a stream without usage":   {"openai", "", "data: {\"choices\":[]}\n\ndata: {\"choices\":[]}\n", unknown, nil, "ended before its usage came"},
		"more cached than sent": {"openai", "", `{"usage":{"prompt_tokens":5,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":6}}}`, invalid,
			map[string]string{"at": "usage.prompt_tokens_details.cached_tokens"}, "is 6, more than the 5 of prompt_tokens"},
		"a fraction": {"anthropic", "", `{"input_tokens":0.5,"output_tokens":1}`, invalid, map[string]string{"at": "input_tokens"}, "is 0.5, a count is a whole number"},
		"counts that the api has not": {"openai", "responses", `{"input_tokens":5,"output_tokens":1,"cache_read_input_tokens":7}`, invalid,
			map[string]string{"at": "cache_read_input_tokens"}, "name the api that the usage comes from"},
		"another model's tokens": {"anthropic", "", `{"input_tokens":5,"output_tokens":1,"iterations":[{"type":"advisor_message","model":"large","input_tokens":7,"output_tokens":1}]}`, invalid,
			map[string]string{"at": "iterations[0]"}, "was used by large"},
		"not JSON":        {"openai", "chat", "prompt_tokens=5", invalid, nil, "is not JSON"},
		"very long names": {"openai", "chat", `{"` + strings.Repeat("a", 60_000) + `":1}`, unknown, nil, "the payload has aaaa"},
		"no JSON":         {"openai", "chat", "", invalidReason, map[string]string{"field": "raw_usage.json"}, "raw_usage.json: "},
		"too much JSON":   {"openai", "chat", strings.Repeat(" ", maxRawUsage+1), invalidReason, map[string]string{"field": "raw_usage.json"}, "65536"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := &chartergatev1.RawUsage{Provider: c.provider, Api: c.api, Json: c.json}
			_, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: token, RawUsage: raw})
			refused(t, err, codes.InvalidArgument, c.reason, c.meta, c.says)
		})
	}
	both := &chartergatev1.SettleRequest{Hold: token, Usage: used(1, 1), RawUsage: &chartergatev1.RawUsage{Json: "{}"}}
	refused(t, second(g.preflight.Settle(t.Context(), both)), codes.InvalidArgument, invalidReason, nil, "only one of usage, raw_usage can be set")
	if st := g.status(t, "budgets/support"); st.HeldNanos != 2_000_000 || st.SettledNanos != 0 {
		t.Errorf("after refused settlements the budget is %v", st)
	}
}
