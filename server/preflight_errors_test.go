package server

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	invalidReason  = chartergatev1.ErrorReason_ERROR_REASON_INVALID
	holdUnknown    = chartergatev1.ErrorReason_ERROR_REASON_HOLD_UNKNOWN
	holdSettled    = chartergatev1.ErrorReason_ERROR_REASON_HOLD_SETTLED
	holdReleased   = chartergatev1.ErrorReason_ERROR_REASON_HOLD_RELEASED
	holdExpired    = chartergatev1.ErrorReason_ERROR_REASON_HOLD_EXPIRED
	noPrice        = chartergatev1.ErrorReason_ERROR_REASON_NO_PRICE
	noRate         = chartergatev1.ErrorReason_ERROR_REASON_NO_EXCHANGE_RATE
	overflow       = chartergatev1.ErrorReason_ERROR_REASON_AMOUNT_OVERFLOW
	conflict       = chartergatev1.ErrorReason_ERROR_REASON_REQUEST_ID_CONFLICT
	keyRequired    = chartergatev1.ErrorReason_ERROR_REASON_KEY_REQUIRED
	featureUnknown = chartergatev1.ErrorReason_ERROR_REASON_FEATURE_UNKNOWN
)

func (g *gateRig) tryReserve(t *testing.T, call *chartergatev1.Call, ttl time.Duration) error {
	req := &chartergatev1.ReserveRequest{Call: call}
	if ttl != 0 {
		req.Ttl = durationpb.New(ttl)
	}
	return second(g.preflight.Reserve(t.Context(), req))
}

func (g *gateRig) trySettle(t *testing.T, token, model string, usage *chartergatev1.Usage) error {
	return second(g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: token, Model: model, Usage: usage}))
}

func (g *gateRig) tryRelease(t *testing.T, token string) error {
	return second(g.preflight.Release(t.Context(), &chartergatev1.ReleaseRequest{Hold: token}))
}

func (g *gateRig) tryExtend(t *testing.T, token string, ttl time.Duration) error {
	return second(g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token, Ttl: durationpb.New(ttl)}))
}

func TestCallsThatCannotBeDecided(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9, daily("each", "acme", 1e9, perKey(chartergatev1.BudgetKey_BUDGET_KEY_RUN)), allTiers("agents", "each"),
		allTiers("oracle", "support", func(c *chartergatev1.Charter) {
			c.PermittedTiers, c.PermittedModels = []string{"exotic"}, []string{"dear"}
		}))
	most := &chartergatev1.Estimate{InputTokens: 90_000, ToolCalls: map[string]int64{"telephone": 1e6, "telegraph": 1e6}}
	with := func(change func(*chartergatev1.Call)) *chartergatev1.Call {
		call := aCall(1000, 500)
		change(call)
		return call
	}
	for name, c := range map[string]struct {
		call   *chartergatev1.Call
		ttl    time.Duration
		code   codes.Code
		reason chartergatev1.ErrorReason
		meta   map[string]string
		says   string
	}{
		"a feature without a charter": {with(func(c *chartergatev1.Call) { c.Feature = "nobody" }), 0,
			codes.NotFound, featureUnknown, map[string]string{"feature": "nobody"}, `no charter has the id "nobody": apply one`},
		"a budget per run and no run": {with(func(c *chartergatev1.Call) { c.Feature = "agents" }), 0,
			codes.InvalidArgument, keyRequired, map[string]string{"budget": "budgets/each", "field": "call.run"}, "set call.run"},
		"the largest counts at the largest price": {with(func(c *chartergatev1.Call) { c.Feature, c.Tier, c.Estimate = "oracle", "", most }), 0,
			codes.OutOfRange, overflow, nil, "check the"},
		"negative tokens": {with(func(c *chartergatev1.Call) { c.Estimate.InputTokens = -1 }), 0,
			codes.InvalidArgument, invalidReason, map[string]string{"field": "call.estimate.input_tokens"}, "call.estimate.input_tokens: must be greater than or equal to 0"},
		"absurd tokens": {with(func(c *chartergatev1.Call) { c.Estimate.MaxOutputTokens = 1e9 + 1 }), 0,
			codes.InvalidArgument, invalidReason, map[string]string{"field": "call.estimate.max_output_tokens"}, "less than or equal to 1000000000"},
		"more cached than input": {with(func(c *chartergatev1.Call) { c.Estimate.CachedInputTokens = 1001 }), 0,
			codes.InvalidArgument, invalidReason, map[string]string{"field": "estimate.cached_input_tokens"}, "is 1001, more than the 1000 input_tokens"},
		"no estimate": {with(func(c *chartergatev1.Call) { c.Estimate = nil }), 0,
			codes.InvalidArgument, invalidReason, map[string]string{"field": "call.estimate"}, "call.estimate: value is required"},
		"no feature": {with(func(c *chartergatev1.Call) { c.Feature = "" }), 0,
			codes.InvalidArgument, invalidReason, map[string]string{"field": "call.feature"}, "call.feature"},
		"no call":  {nil, 0, codes.InvalidArgument, invalidReason, map[string]string{"field": "call"}, "call: value is required"},
		"a moment": {aCall(1, 1), time.Second - 1, codes.InvalidArgument, invalidReason, map[string]string{"field": "ttl"}, "greater than or equal to 1s"},
		"longer than the server holds": {aCall(1, 1), maxHold + 1, codes.InvalidArgument, invalidReason,
			map[string]string{"field": "ttl", "longest": "10m0s"}, "1s to 10m0s; extend the hold"},
		"longer than a day": {aCall(1, 1), 25 * time.Hour, codes.InvalidArgument, invalidReason, map[string]string{"field": "ttl"}, "less than or equal to 86400s"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, g.tryReserve(t, c.call, c.ttl), c.code, c.reason, c.meta, c.says)
			if c.ttl == 0 {
				err := second(g.preflight.Check(t.Context(), &chartergatev1.CheckRequest{Call: c.call}))
				refused(t, err, c.code, c.reason, c.meta, c.says)
			}
			if c.code == codes.InvalidArgument {
				bad := detail[*errdetails.BadRequest](status.Convert(g.tryReserve(t, c.call, c.ttl)))
				if len(bad.GetFieldViolations()) != 1 || bad.FieldViolations[0].Field != c.meta["field"] {
					t.Errorf("BadRequest is %v", bad)
				}
			}
		})
	}
	for _, name := range []string{"budgets/support", "budgets/acme"} {
		if st := g.status(t, name); st.HeldNanos != 0 {
			t.Errorf("%s holds %d after calls that got no answer", name, st.HeldNanos)
		}
	}
}

func TestUsageThatCannotBeSettled(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	token := g.hold(t, aCall(1000, 500))
	for name, c := range map[string]struct {
		token, model string
		usage        *chartergatev1.Usage
		code         codes.Code
		reason       chartergatev1.ErrorReason
		meta         map[string]string
		says         string
	}{
		"a model that nobody knows": {token, "ghost", used(1, 1), codes.FailedPrecondition, noPrice, map[string]string{"model": "ghost"}, "add one to a price book"},
		"a unit without a rate": {token, "", &chartergatev1.Usage{AudioInputTokens: 1}, codes.FailedPrecondition, noPrice,
			map[string]string{"model": "small", "unit": "audio_input_tokens"}, "add one to its price book"},
		"a tool without a rate": {token, "", &chartergatev1.Usage{ToolCalls: map[string]int64{"telephone": 1}}, codes.FailedPrecondition, noPrice,
			map[string]string{"model": "small", "unit": "tool_calls/telephone"}, "add one to its price book"},
		"a model priced in another currency":      {token, "foreign", used(1, 1), codes.FailedPrecondition, noRate, map[string]string{"model": "foreign"}, "EUR"},
		"the largest counts at the largest price": {token, "dear", used(1e12, 1e12), codes.OutOfRange, overflow, nil, "check the"},
		"more than one call can cost":             {token, "large", used(1e12, 0), codes.OutOfRange, overflow, nil, "check the"},
		"negative tokens":                         {token, "", used(-5, 0), codes.InvalidArgument, invalidReason, map[string]string{"field": "usage.input_tokens"}, "greater than or equal to 0"},
		"absurd tokens":                           {token, "", used(0, 1e12+1), codes.InvalidArgument, invalidReason, map[string]string{"field": "usage.output_tokens"}, "1000000000000"},
		"more overhead than input": {token, "", &chartergatev1.Usage{InputTokens: 1, ContextOverheadTokens: 2}, codes.InvalidArgument, invalidReason,
			map[string]string{"field": "usage"}, "context_overhead_tokens is 2, more than the 1 input tokens"},
		"no usage":         {token, "", nil, codes.InvalidArgument, invalidReason, map[string]string{"field": "usage"}, "usage: value is required"},
		"no hold":          {"", "", used(1, 1), codes.InvalidArgument, invalidReason, map[string]string{"field": "hold"}, "hold: "},
		"too long a token": {strings.Repeat("a", maxToken+1), "", used(1, 1), codes.InvalidArgument, invalidReason, map[string]string{"field": "hold"}, "4096"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, g.trySettle(t, c.token, c.model, c.usage), c.code, c.reason, c.meta, c.says)
		})
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 2_000_000 || st.SettledNanos != 0 {
		t.Errorf("after refused settlements the budget is %v", st)
	}
	if s := g.settle(t, token, used(1000, 500)); s.CostNanos != 2_000_000 || s.ForcedNanos != 0 {
		t.Errorf("then it settles as %v", s)
	}
}

func TestHoldsThatAreUnknown(t *testing.T) {
	other := ""
	t.Run("another ledger", func(t *testing.T) {
		g := startGate(t)
		g.chat(t, 1e9)
		other = g.hold(t, aCall(1000, 500))
	})
	g := startGate(t)
	g.chat(t, 1e9)
	token := g.hold(t, aCall(1000, 500))
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		t.Fatal(err)
	}
	raw[20]++ // past version and owner: a cheaper hold
	for name, token := range map[string]string{
		"garbage": "no hold at all", "not base64": "ä", "forged": base64.RawURLEncoding.EncodeToString(raw),
		"cut off": token[:len(token)-4], "with a tail": token + "AAAA", "of another ledger": other,
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{g.trySettle(t, token, "", used(1, 1)), g.tryRelease(t, token), g.tryExtend(t, token, time.Minute)} {
				refused(t, err, codes.NotFound, holdUnknown, nil, "not one of this ledger's", "RecordUsage")
			}
		})
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 2_000_000 || st.SettledNanos != 0 {
		t.Errorf("the budget is %v", st)
	}
}

func TestHoldsThatAreOver(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	pre := codes.FailedPrecondition

	token := g.hold(t, aCall(1000, 500))
	g.settle(t, token, used(700, 0))
	first := map[string]string{"settled_nanos": "700000"}
	refused(t, g.trySettle(t, token, "", used(701, 0)), pre, holdSettled, first, "0.0007", "a hold settles once")
	refused(t, g.tryRelease(t, token), pre, holdSettled, first, "0.0007", "settled before")
	refused(t, g.tryExtend(t, token, time.Minute), pre, holdSettled, first, "0.0007", "settled before")

	token = g.hold(t, aCall(1000, 500))
	if err := g.tryRelease(t, token); err != nil {
		t.Fatal(err)
	}
	refused(t, g.trySettle(t, token, "", used(1, 1)), pre, holdReleased, nil, "record the spend with UsageService.RecordUsage")
	refused(t, g.tryExtend(t, token, time.Minute), pre, holdReleased, nil, "released before")

	token = g.hold(t, aCall(1000, 500))
	expiry := map[string]string{"expire_time": g.clock.Now().Add(2 * time.Minute).Format(time.RFC3339)}
	g.clock.advance(2*time.Minute + time.Second) // within the grace: not swept yet
	refused(t, g.tryRelease(t, token), pre, holdExpired, expiry, "can still be settled")
	refused(t, g.tryExtend(t, token, time.Minute), pre, holdExpired, expiry, "not released or extended")
	g.clock.advance(time.Minute)
	eventually(t, "the hold is freed", func() bool { return g.status(t, "budgets/support").HeldNanos == 0 })
	refused(t, g.tryRelease(t, token), pre, holdExpired, expiry, "can still be settled")
	refused(t, g.tryExtend(t, token, time.Minute), pre, holdExpired, expiry, "not released or extended")
	if s := g.settle(t, token, used(1000, 500)); !s.Late || s.ForcedNanos != s.CostNanos {
		t.Errorf("late settlement is %v", s)
	}

	token = g.hold(t, aCall(1000, 500))
	refused(t, g.tryExtend(t, token, maxHold+1), codes.InvalidArgument, invalidReason, map[string]string{"field": "ttl"}, "1s to 10m0s")
	refused(t, second(g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token})), codes.InvalidArgument, invalidReason,
		map[string]string{"field": "ttl"}, "ttl: value is required")
}

// The same id and body give the same answer, hold token included, whether they come alone or in a session; another body
// is an error.
func TestRequestIDs(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9)
	s := g.session(t)
	reserve := &chartergatev1.ReserveRequest{Call: aCall(1000, 500), RequestId: "r-1"}
	first, err := g.preflight.Reserve(t.Context(), reserve)
	if err != nil {
		t.Fatal(err)
	}
	again, err := g.preflight.Reserve(t.Context(), reserve)
	if err != nil || !proto.Equal(again, first) || first.Hold.GetToken() == "" {
		t.Errorf("again gives\n%v (%v), first\n%v", again, err, first)
	}
	if r := s.do(t, op(1, reserve)).GetReserve(); !proto.Equal(r, first) {
		t.Errorf("in a session it gives\n%v, first\n%v", r, first)
	}
	inSession := s.do(t, op(2, &chartergatev1.ReserveRequest{Call: aCall(1000, 500), RequestId: "r-2"})).GetReserve()
	if alone, err := g.preflight.Reserve(t.Context(), &chartergatev1.ReserveRequest{Call: aCall(1000, 500), RequestId: "r-2"}); err != nil || !proto.Equal(alone, inSession) {
		t.Errorf("alone it gives\n%v (%v), in the session\n%v", alone, err, inSession)
	}
	if inSession.GetHold().GetToken() == first.Hold.Token {
		t.Error("two ids have one hold")
	}
	if st := g.status(t, "budgets/support"); st.HeldNanos != 4_000_000 {
		t.Errorf("%d held for two requests", st.HeldNanos)
	}

	meta := map[string]string{"request_id": "r-1"}
	other := &chartergatev1.ReserveRequest{Call: aCall(1000, 501), RequestId: "r-1"}
	refused(t, second(g.preflight.Reserve(t.Context(), other)), codes.AlreadyExists, conflict, meta, "take a new id")
	if e := s.do(t, op(3, other)).GetError(); e.GetReason() != "REQUEST_ID_CONFLICT" || codes.Code(e.GetCode()) != codes.AlreadyExists || !strings.Contains(e.GetMessage(), "take a new id") {
		t.Errorf("in the session another body gives %v", e)
	}

	settle := &chartergatev1.SettleRequest{Hold: first.Hold.Token, Usage: used(1000, 0), RequestId: "r-1"} // ids are by method
	done, err := g.preflight.Settle(t.Context(), settle)
	if err != nil {
		t.Fatal(err)
	}
	if r := s.do(t, op(4, settle)).GetSettle(); !proto.Equal(r, done) {
		t.Errorf("the settlement again gives\n%v, first\n%v", r, done)
	}
	refused(t, second(g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: first.Hold.Token, Usage: used(1, 0), RequestId: "r-1"})),
		codes.AlreadyExists, conflict, meta, "take a new id")

	// Kept for at least a minute, and forgotten after two.
	g.clock.advance(59 * time.Second)
	if kept, err := g.preflight.Reserve(t.Context(), reserve); err != nil || !proto.Equal(kept, first) {
		t.Errorf("after 59 s: %v (%v)", kept, err)
	}
	g.clock.advance(2 * time.Minute)
	if later, err := g.preflight.Reserve(t.Context(), other); err != nil || later.Hold.GetToken() == first.Hold.Token {
		t.Errorf("after three minutes the id is not new: %v (%v)", later, err)
	}
}
