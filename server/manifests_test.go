package server

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	created   = chartergatev1.ApplyAction_APPLY_ACTION_CREATED
	updated   = chartergatev1.ApplyAction_APPLY_ACTION_UPDATED
	unchanged = chartergatev1.ApplyAction_APPLY_ACTION_UNCHANGED
)

func TestApply(t *testing.T) {
	r := start(t)
	whole := func() *chartergatev1.ApplyRequest {
		return apply(aCharter("chat", "support"), aBudget("support", "acme"), aBudget("acme", ""), aCatalog(), aPriceBook("list"),
			&chartergatev1.Policy{Name: routingPolicy, Modules: policy.Builtin(), Message: "ours"})
	}
	first, err := r.manifests.Apply(t.Context(), whole())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"charters/chat", "budgets/support", "budgets/acme", "catalog", "priceBooks/list", routingPolicy}
	for i, result := range first.Results {
		if result.Name != names[i] || result.Action != created || len(result.Changes) != 0 {
			t.Errorf("result %d is %v, want %s created", i, result, names[i])
		}
	}
	revision := "policies/routing/revisions/" + policy.Hash(policy.Builtin())
	if p, err := r.policies.GetPolicy(t.Context(), &chartergatev1.GetPolicyRequest{Name: routingPolicy}); err != nil || p.ActiveRevision != revision {
		t.Errorf("the policy is %v (%v), want %s active", p, err, revision)
	}

	epoch := control.Snapshot().Epoch
	second, err := r.manifests.Apply(t.Context(), whole())
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range second.Results {
		if result.Action != unchanged || len(result.Changes) != 0 {
			t.Errorf("applied again: %v", result)
		}
	}
	if now := control.Snapshot().Epoch; now != epoch {
		t.Errorf("applying equal resources wrote something: epoch %d, was %d", now, epoch)
	}

	third := whole()
	third.Resources[0].GetCharter().Exhausted = &chartergatev1.Exhausted{
		Mode: chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE, OverflowAllowanceNanos: 5e9}
	third.Resources[0].GetCharter().Labels = map[string]string{"tier": "gold"}
	third.Resources[1].GetBudget().LimitNanos = 7
	third.Resources[3].GetCatalog().Models[1].Capabilities = []string{"chat"}
	third.Resources[4].GetPriceBook().Prices[0].OutputNanos = nil
	third.Resources[5].GetPolicy().Modules = map[string]string{"routing.rego": regoAllow}
	changed, err := r.manifests.Apply(t.Context(), third)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]*chartergatev1.FieldChange{
		{
			{Path: "exhausted", NewValue: `{"mode":"EXHAUSTED_MODE_DOWNGRADE","overflow_allowance_nanos":"5000000000"}`},
			{Path: `labels["team"]`, OldValue: `"support"`},
			{Path: `labels["tier"]`, NewValue: `"gold"`},
		},
		{{Path: "limit_nanos", OldValue: "1000000000000", NewValue: "7"}},
		nil,
		{{Path: `models["large"].capabilities`, NewValue: `["chat"]`}},
		{{Path: `prices["small 2026-01-01T00:00:00Z"].output_nanos`, OldValue: "600000000"}},
		{{Path: "active_revision", OldValue: `"` + revision + `"`, NewValue: `"policies/routing/revisions/` + policy.Hash(third.Resources[5].GetPolicy().Modules) + `"`}},
	} {
		got := changed.Results[i]
		if action := map[bool]chartergatev1.ApplyAction{true: updated, false: unchanged}[want != nil]; got.Action != action {
			t.Errorf("%s is %s, want %s", got.Name, got.Action, action)
		}
		if !proto.Equal(&chartergatev1.ApplyResult{Changes: got.Changes}, &chartergatev1.ApplyResult{Changes: want}) {
			t.Errorf("%s: changes are %v, want %v", got.Name, got.Changes, want)
		}
	}
	stored, err := r.charters.GetCharter(t.Context(), &chartergatev1.GetCharterRequest{Name: "charters/chat"})
	if err != nil || stored.Exhausted.GetOverflowAllowanceNanos() != 5e9 {
		t.Errorf("the charter is %v (%v)", stored, err)
	}

	// The policy goes back to the shipped one by its name.
	back, err := r.manifests.Apply(t.Context(), apply(&chartergatev1.Policy{Name: routingPolicy, ActiveRevision: builtin}))
	if err != nil || back.Results[0].Action != updated {
		t.Fatalf("back to the shipped policy: %v (%v)", back, err)
	}
	if p, err := r.policies.GetPolicy(t.Context(), &chartergatev1.GetPolicyRequest{Name: routingPolicy}); err != nil || p.ActiveRevision != builtin || p.Etag != "" {
		t.Errorf("the policy is %v (%v), want the shipped one", p, err)
	}
	if again, err := r.manifests.Apply(t.Context(), apply(&chartergatev1.Policy{Name: routingPolicy, ActiveRevision: revision})); err != nil || again.Results[0].Action != created {
		t.Errorf("a stored revision by its name: %v (%v)", again, err)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	r := start(t)
	r.company(t)
	epoch := control.Snapshot().Epoch
	fine := aBudget("fine", "acme")
	stale := aBudget("support", "acme")
	stale.Etag = "1"
	cycle := aBudget("acme", "support")
	for name, c := range map[string]struct {
		bad      resource
		code     codes.Code
		reason   code
		metadata map[string]string
	}{
		"cycle":          {cycle, codes.FailedPrecondition, isCycle, map[string]string{"cycle": "acme -> support -> acme"}},
		"missing parent": {aBudget("lost", "nowhere"), codes.FailedPrecondition, isMissing, map[string]string{"resource": "budgets/lost"}},
		"missing budget": {aCharter("lost", "nowhere"), codes.FailedPrecondition, isMissing, map[string]string{"missing": "budgets/nowhere"}},
		"no owner":       {&chartergatev1.Charter{Name: "charters/x", Team: "t", Stage: 1, Budget: "budgets/acme"}, codes.InvalidArgument, isInvalid, map[string]string{"field": "resources[1].charter.owner"}},
		"no budget":      {&chartergatev1.Charter{Name: "charters/x", Team: "t", Stage: 1, Owner: owner()}, codes.InvalidArgument, isInvalid, map[string]string{"field": "resources[1].charter.budget"}},
		"stale etag":     {stale, codes.Aborted, isEtagMismatch, map[string]string{"resource": "budgets/support"}},
		"twice":          {fine, codes.InvalidArgument, isInvalid, map[string]string{"field": "resources[1]"}},
		"price conflict": {aPriceBook("other"), codes.FailedPrecondition, isPriceConflict, map[string]string{"model": "small"}},
		"bad rego": {&chartergatev1.Policy{Name: routingPolicy, Modules: map[string]string{"a.rego": "package chartergate.routing\ndecision :="}},
			codes.InvalidArgument, isPolicyInvalid, map[string]string{"file": "a.rego", "line": "2"}},
		"empty policy":     {&chartergatev1.Policy{Name: routingPolicy}, codes.InvalidArgument, isInvalid, map[string]string{"field": "modules"}},
		"missing revision": {&chartergatev1.Policy{Name: routingPolicy, ActiveRevision: routingPolicy + "/revisions/" + "00000000"}, codes.FailedPrecondition, isMissing, map[string]string{"resource": routingPolicy}},
		"nothing":          {nil, codes.InvalidArgument, isInvalid, map[string]string{"field": "resources[1].resource"}},
	} {
		t.Run(name, func(t *testing.T) {
			req := apply(fine)
			if c.bad == nil {
				req.Resources = append(req.Resources, &chartergatev1.Resource{})
			} else {
				req.Resources = append(req.Resources, resourceOf(c.bad))
			}
			_, err := r.manifests.Apply(t.Context(), req)
			refused(t, err, c.code, c.reason, c.metadata)
			if now := control.Snapshot(); now.Epoch != epoch || now.Budget("fine") != nil {
				t.Error("something was written")
			}
		})
	}
}

func TestApplyCurrencyOfAPendingParent(t *testing.T) {
	r := start(t)
	root := aBudget("root", "")
	root.Currency = "EUR"
	if _, err := r.manifests.Apply(t.Context(), apply(aBudget("leaf", "mid"), aBudget("mid", "root"), root)); err != nil {
		t.Fatal(err)
	}
	if got := control.Snapshot().Budget("leaf").Currency; got != "EUR" {
		t.Errorf("the leaf is in %q, want EUR", got)
	}
}

func TestDiff(t *testing.T) {
	from := aCatalog()
	to := proto.Clone(from).(*chartergatev1.Catalog)
	to.Models[0], to.Models[1] = to.Models[1], to.Models[0]
	to.Tiers = append(to.Tiers, &chartergatev1.Tier{Id: "luxury", Description: strings.Repeat("ü", 200)})
	to.Etag = "9" // set by the server
	got := diff(from, to)
	if len(got) != 2 || got[0].Path != `tiers["luxury"]` || got[0].OldValue != "" || got[1].Path != "models" ||
		got[1].OldValue != `["small","large"]` || got[1].NewValue != `["large","small"]` {
		t.Errorf("changes are %v", got)
	}
	if n := len([]rune(got[0].NewValue)); n != maxValue || !strings.HasSuffix(got[0].NewValue, "…") {
		t.Errorf("the long value has %d characters: %s", n, got[0].NewValue)
	}
	c, d := aCharter("a", "b"), aCharter("a", "b")
	c.Escalation = []*chartergatev1.EscalationStep{{Owner: owner()}, {Owner: owner()}}
	d.Escalation = []*chartergatev1.EscalationStep{{Owner: &chartergatev1.Owner{Name: "Kim <ops>", Email: owner().Email}}}
	d.Stage = chartergatev1.Stage_STAGE_RETIRED
	got = diff(c, d)
	if len(got) != 3 || got[0].Path != "stage" || got[0].NewValue != `"STAGE_RETIRED"` ||
		got[1].Path != "escalation[0].owner.name" || got[1].NewValue != `"Kim <ops>"` ||
		got[2].Path != "escalation[1]" || got[2].NewValue != "" {
		t.Errorf("changes are %v", got)
	}
}
