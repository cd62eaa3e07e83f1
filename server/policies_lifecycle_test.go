package server

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const isNoEarlier = chartergatev1.ErrorReason_ERROR_REASON_NO_EARLIER_REVISION

// stored stores a revision of a policy.
func (r *rig) stored(t *testing.T, policy, set string) string {
	t.Helper()
	v, err := r.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
		Parent: policy, Revision: &chartergatev1.PolicyRevision{Modules: marked(policy, set), Message: "why " + set, Author: "ada"}})
	if err != nil {
		t.Fatal(err)
	}
	return v.Name
}

func (r *rig) activated(t *testing.T, revision string) *chartergatev1.Policy {
	t.Helper()
	p, err := r.policies.ActivatePolicyRevision(t.Context(), &chartergatev1.ActivatePolicyRevisionRequest{Name: revision})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyOfATeam(t *testing.T) {
	r := start(t)
	ctx := t.Context()
	const team = "policies/team.support"
	rollback := func(etag string, validateOnly bool) (*chartergatev1.Policy, error) {
		return r.policies.RollbackPolicy(ctx, &chartergatev1.RollbackPolicyRequest{Name: team, Etag: etag, ValidateOnly: validateOnly})
	}
	_, err := r.policies.GetPolicy(ctx, &chartergatev1.GetPolicyRequest{Name: team})
	refused(t, err, codes.NotFound, isNotFound, nil)
	_, err = rollback("", false)
	refused(t, err, codes.NotFound, isNotFound, nil)
	_, err = r.policies.RollbackPolicy(ctx, &chartergatev1.RollbackPolicyRequest{Name: routingPolicy})
	refused(t, err, codes.FailedPrecondition, isNoEarlier, map[string]string{"policy": routingPolicy})
	_, err = r.policies.DeletePolicy(ctx, &chartergatev1.DeletePolicyRequest{Name: team})
	refused(t, err, codes.NotFound, isNotFound, nil)

	a, b := r.stored(t, team, "A"), r.stored(t, team, "B")
	if of := r.stored(t, "policies/team.other", "A"); of == a {
		t.Error("two policies have one revision")
	}
	first := r.activated(t, a)
	if first.Message != "why A" || first.Author != "ada" || len(first.EarlierRevisions) != 0 {
		t.Errorf("the first activation gives %v", first)
	}
	_, err = rollback("", false)
	refused(t, err, codes.FailedPrecondition, isNoEarlier, map[string]string{"policy": team})
	second := r.activated(t, b)
	if again := r.activated(t, b); again.Etag != second.Etag {
		t.Errorf("activating the active revision changed the policy: %v", again)
	}
	if !slices.Equal(second.EarlierRevisions, []string{a}) {
		t.Errorf("earlier revisions are %v", second.EarlierRevisions)
	}
	if would, err := rollback(second.Etag, true); err != nil || would.ActiveRevision != a {
		t.Errorf("rolling back would give %v (%v)", would, err)
	}
	_, err = rollback(first.Etag, false)
	refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"current_etag": second.Etag})
	back, err := rollback(second.Etag, false)
	if err != nil || back.ActiveRevision != a || len(back.EarlierRevisions) != 0 {
		t.Errorf("rolled back to %v (%v)", back, err)
	}
	for _, name := range []string{a, b} {
		if v, err := r.policies.GetPolicyRevision(ctx, &chartergatev1.GetPolicyRevisionRequest{Name: name}); err != nil || v.Active != (name == a) || v.Author != "ada" {
			t.Errorf("revision %v (%v)", v, err)
		}
	}
	_, err = r.policies.DeletePolicy(ctx, &chartergatev1.DeletePolicyRequest{Name: team, Etag: second.Etag})
	refused(t, err, codes.Aborted, isEtagMismatch, nil)
	if _, err = r.policies.DeletePolicy(ctx, &chartergatev1.DeletePolicyRequest{Name: team, Etag: back.Etag}); err != nil {
		t.Error(err)
	}
	list, err := r.policies.ListPolicyRevisions(ctx, &chartergatev1.ListPolicyRevisionsRequest{Parent: team})
	if err != nil || len(list.Revisions) != 2 || list.Revisions[0].Active || list.Revisions[1].Active {
		t.Errorf("after the policy was deleted its revisions are %v (%v)", list, err)
	}
	if p := r.activated(t, b); len(p.EarlierRevisions) != 0 {
		t.Errorf("a deleted policy remembers %v", p.EarlierRevisions)
	}
	_, err = r.policies.ActivatePolicyRevision(ctx, &chartergatev1.ActivatePolicyRevisionRequest{Name: r.stored(t, "policies/feature.nobody", "A")})
	refused(t, err, codes.FailedPrecondition, isMissing, map[string]string{"missing": "charters/nobody"})
	for _, name := range []string{"policies/team.", "policies/other.x", "policies/team.A", "policies/routing.x"} {
		_, err = r.policies.GetPolicy(ctx, &chartergatev1.GetPolicyRequest{Name: name})
		refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "name"})
	}
	if got := r.rest(t, "GET", "/v1/policies/team.support", "", 200); got["active_revision"] != b && got["activeRevision"] != b {
		t.Errorf("as REST the policy is %v", got)
	}
}

func TestListPolicies(t *testing.T) {
	r := start(t)
	names := func(size int32) (all []string) {
		t.Helper()
		for token := ""; ; {
			list, err := r.policies.ListPolicies(t.Context(), &chartergatev1.ListPoliciesRequest{PageSize: size, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range list.Policies {
				all = append(all, p.Name)
			}
			if token = list.NextPageToken; token == "" {
				return all
			}
		}
	}
	if got := names(0); !slices.Equal(got, []string{routingPolicy}) {
		t.Errorf("without policies the list is %v", got)
	}
	want := []string{routingPolicy}
	for i := range 4 {
		name := fmt.Sprintf("policies/team.t%d", i)
		r.activated(t, r.stored(t, name, "A"))
		want = append(want, name)
	}
	for size := range int32(7) {
		if got := names(size); !slices.Equal(got, want) {
			t.Errorf("pages of %d give %v, want %v", size, got, want)
		}
	}
	r.activated(t, r.stored(t, routingPolicy, "A"))
	if got := names(2); !slices.Equal(got, want) {
		t.Errorf("with one of the organisation the list is %v, want %v", got, want)
	}
	_, err := r.policies.ListPolicies(t.Context(), &chartergatev1.ListPoliciesRequest{PageToken: "nonsense"})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "page_token"})
}

func TestShadowOfAPolicy(t *testing.T) {
	r := start(t)
	shadow := func(name, revision string, ppm int32, etag string) (*chartergatev1.Policy, error) {
		return r.policies.ShadowPolicy(t.Context(), &chartergatev1.ShadowPolicyRequest{Name: name, Revision: revision, ShadowPpm: ppm, Etag: etag})
	}
	candidate := r.stored(t, routingPolicy, "A")
	p, err := shadow(routingPolicy, candidate, 0, "")
	if err != nil || p.ShadowRevision != candidate || p.ShadowPpm != 10_000 || p.ActiveRevision != builtin {
		t.Errorf("beside the shipped policy: %v (%v)", p, err)
	}
	if again, err := shadow(routingPolicy, candidate, 10_000, p.Etag); err != nil || again.Etag != p.Etag {
		t.Errorf("the same shadow changed the policy: %v (%v)", again, err)
	}
	if p, err = shadow(routingPolicy, candidate, 500_000, p.Etag); err != nil || p.ShadowPpm != 500_000 {
		t.Errorf("another share: %v (%v)", p, err)
	}
	_, err = shadow(routingPolicy, "", 0, "1")
	refused(t, err, codes.Aborted, isEtagMismatch, nil)
	if got := r.activated(t, candidate); got.ShadowRevision != "" || got.ShadowPpm != 0 {
		t.Errorf("the shadow is active and goes on beside itself: %v", got)
	}
	_, err = shadow(routingPolicy, candidate, 0, "")
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "revision"})
	_, err = shadow(routingPolicy, r.stored(t, "policies/team.support", "A"), 0, "")
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "revision"})
	_, err = shadow(routingPolicy, routingPolicy+"/revisions/00000000", 0, "")
	refused(t, err, codes.NotFound, isNotFound, nil)
	_, err = shadow("policies/team.nobody", "", 0, "")
	refused(t, err, codes.NotFound, isNotFound, nil)
	other := r.stored(t, routingPolicy, "B")
	if p, err = shadow(routingPolicy, other, 1, ""); err != nil || p.ShadowRevision != other {
		t.Errorf("another shadow: %v (%v)", p, err)
	}
	if p, err = shadow(routingPolicy, "", 0, ""); err != nil || p.ShadowRevision != "" || p.ActiveRevision != candidate {
		t.Errorf("after the shadow ended: %v (%v)", p, err)
	}
	// What a manifest says of the organisation's policy leaves a shadow beside the shipped one alone.
	if _, err := r.policies.DeletePolicy(t.Context(), &chartergatev1.DeletePolicyRequest{Name: routingPolicy}); err != nil {
		t.Fatal(err)
	}
	if _, err = shadow(routingPolicy, other, 1, ""); err != nil {
		t.Fatal(err)
	}
	resp, err := r.manifests.Apply(t.Context(), apply(&chartergatev1.Policy{Name: routingPolicy, ActiveRevision: builtin}))
	if err != nil || resp.Results[0].Action != unchanged {
		t.Errorf("the shipped policy was applied: %v (%v)", resp, err)
	}
}

func TestApplyPoliciesOfTeamsAndFeatures(t *testing.T) {
	r := start(t)
	r.company(t)
	charter := control.Snapshot().Charters()[0]
	feature := "policies/feature." + charter.ID
	team := func(set string) *chartergatev1.Policy {
		return &chartergatev1.Policy{Name: "policies/team.support", Modules: marked("team", set), Message: "why " + set, Author: "ada"}
	}
	resp, err := r.manifests.Apply(t.Context(), apply(team("A"), &chartergatev1.Policy{Name: feature, Modules: marked("feature", "A")}))
	if err != nil || resp.Results[0].Action != created || resp.Results[1].Action != created {
		t.Fatalf("applied: %v (%v)", resp, err)
	}
	if resp, err = r.manifests.Apply(t.Context(), apply(team("A"))); err != nil || resp.Results[0].Action != unchanged {
		t.Errorf("applied again: %v (%v)", resp, err)
	}
	if resp, err = r.manifests.Apply(t.Context(), apply(team("B"))); err != nil || len(resp.Results[0].Changes) != 1 || resp.Results[0].Changes[0].Path != "active_revision" {
		t.Errorf("applied another: %v (%v)", resp, err)
	}
	p, err := r.policies.RollbackPolicy(t.Context(), &chartergatev1.RollbackPolicyRequest{Name: "policies/team.support"})
	if err != nil || p.Message != "why A" || p.Author != "ada" {
		t.Errorf("what apply activated cannot be rolled back: %v (%v)", p, err)
	}
	_, err = r.manifests.Apply(t.Context(), apply(&chartergatev1.Policy{Name: feature, ActiveRevision: builtin}))
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "modules"})
	_, err = r.charters.DeleteCharter(t.Context(), &chartergatev1.DeleteCharterRequest{Name: charter.Name()})
	refused(t, err, codes.FailedPrecondition, isInUse, map[string]string{"used_by": feature})
}
