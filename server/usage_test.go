package server

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func aUse(id string, change ...func(*chartergatev1.RecordUsageRequest)) *chartergatev1.RecordUsageRequest {
	req := &chartergatev1.RecordUsageRequest{Feature: "chat", Model: "small", Usage: used(1000, 500), RequestId: id}
	for _, f := range change {
		f(req)
	}
	return req
}

// Usage without a hold is forced spend on the whole path, once for each id, also once a process has forgotten its
// answers.
func TestRecordUsage(t *testing.T) {
	g := startGate(t)
	g.chat(t, 3_000_000)
	g.clock.advance(1_234_567)
	first, err := g.usage.RecordUsage(t.Context(), aUse("u-1"))
	if err != nil {
		t.Fatal(err)
	}
	if s := first.Settlement; s.CostNanos != 2_000_000 || s.ForcedNanos != 2_000_000 || s.Late || s.ReleasedNanos != 0 || s.Feature != "chat" ||
		s.Model != "small" || s.Tier != "economy" || len(s.Lines) != 2 || s.Currency != "USD" || s.Journal == "" {
		t.Errorf("the record is %v", s)
	}
	for range 2 {
		other := aUse("u-1", func(r *chartergatev1.RecordUsageRequest) { r.Usage = used(1000, 501) })
		refused(t, second(g.usage.RecordUsage(t.Context(), other)),
			codes.AlreadyExists, conflict, map[string]string{"request_id": "u-1"}, "new id for a new request")
		again, err := g.usage.RecordUsage(t.Context(), aUse("u-1"))
		if err != nil || !proto.Equal(again, first) {
			t.Errorf("again gives\n%v (%v), first\n%v", again, err, first)
		}
		g.clock.advance(2 * answersKeptFor) // then only the journal knows
	}
	// Above the ceiling it is recorded all the same, and blocks what comes.
	if _, err := g.usage.RecordUsage(t.Context(), aUse("u-2")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"budgets/support", "budgets/acme"} {
		if st := g.status(t, name); st.SettledNanos != 4_000_000 || st.ForcedNanos != 4_000_000 || st.HeldNanos != 0 {
			t.Errorf("%s is %v", name, st)
		}
	}
	if st := g.status(t, "budgets/support"); st.RemainingNanos != 0 || st.UtilizationPermille != 1333 {
		t.Errorf("support is %v", st)
	}
	if resp := g.reserve(t, aCall(1, 1)); resp.Decision.Effect != deny || resp.Hold != nil {
		t.Errorf("a call after that: %v", resp)
	}
}

func TestUsageThatCannotBeRecorded(t *testing.T) {
	g := startGate(t)
	g.chat(t, 1e9, daily("each", "acme", 1e9, perKey(chartergatev1.BudgetKey_BUDGET_KEY_USER)), allTiers("agents", "each"))
	for name, c := range map[string]struct {
		change func(*chartergatev1.RecordUsageRequest)
		code   codes.Code
		reason chartergatev1.ErrorReason
		meta   map[string]string
		says   string
	}{
		"no id": {func(r *chartergatev1.RecordUsageRequest) { r.RequestId = "" }, codes.InvalidArgument, invalidReason,
			map[string]string{"field": "request_id"}, "request_id: "},
		"a feature without a charter": {func(r *chartergatev1.RecordUsageRequest) { r.Feature = "nobody" }, codes.NotFound, featureUnknown,
			map[string]string{"feature": "nobody"}, "apply one"},
		"a budget per user and no user": {func(r *chartergatev1.RecordUsageRequest) { r.Feature = "agents" }, codes.InvalidArgument, keyRequired,
			map[string]string{"budget": "budgets/each", "field": "user"}, "kept per user: set user"},
		"a model that nobody knows": {func(r *chartergatev1.RecordUsageRequest) { r.Model = "ghost" }, codes.FailedPrecondition, noPrice,
			map[string]string{"model": "ghost"}, "add one to a price book"},
		"a model priced in another currency": {func(r *chartergatev1.RecordUsageRequest) { r.Model = "foreign" }, codes.FailedPrecondition, noRate,
			map[string]string{"model": "foreign"}, "priced in EUR, the budgets are in USD"},
		"a unit without a rate": {func(r *chartergatev1.RecordUsageRequest) { r.Usage.EmbeddingTokens = 1 }, codes.FailedPrecondition, noPrice,
			map[string]string{"unit": "embedding_tokens"}, "add one to its price book"},
		"an accelerator without a rate": {func(r *chartergatev1.RecordUsageRequest) { r.Usage.GpuMilliseconds, r.Usage.Accelerator = 1, "b200" },
			codes.FailedPrecondition, noPrice, map[string]string{"unit": "gpu_milliseconds/b200"}, "add it to gpu_hour_by_accelerator"},
		"the largest counts at the largest price": {func(r *chartergatev1.RecordUsageRequest) { r.Model, r.Usage = "dear", used(1e12, 1e12) },
			codes.OutOfRange, overflow, nil, "check the counts"},
		"negative tokens": {func(r *chartergatev1.RecordUsageRequest) { r.Usage.OutputTokens = -1 }, codes.InvalidArgument, invalidReason,
			map[string]string{"field": "usage.output_tokens"}, "greater than or equal to 0"},
		"no usage": {func(r *chartergatev1.RecordUsageRequest) { r.Usage = nil }, codes.InvalidArgument, invalidReason,
			nil, "one of usage, raw_usage must be set"},
		"no model": {func(r *chartergatev1.RecordUsageRequest) { r.Model = "" }, codes.InvalidArgument, invalidReason,
			map[string]string{"field": "model"}, "model: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := g.usage.RecordUsage(t.Context(), aUse("u-1", c.change))
			refused(t, err, c.code, c.reason, c.meta, c.says)
		})
	}
	if st := g.status(t, "budgets/acme"); st.SettledNanos != 0 {
		t.Errorf("%d is settled by usage that was refused", st.SettledNanos)
	}
	if _, err := g.usage.RecordUsage(t.Context(), aUse("u-1")); err != nil { // no refusal has used the id up
		t.Errorf("then the id is %v", err)
	}
}
