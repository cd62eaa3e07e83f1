package server

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const routingPolicy = "policies/routing"

func TestPolicyRevisions(t *testing.T) {
	r := start(t)
	ctx := t.Context()
	get := func() *chartergatev1.Policy {
		t.Helper()
		p, err := r.policies.GetPolicy(ctx, &chartergatev1.GetPolicyRequest{Name: routingPolicy})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := get(); p.ActiveRevision != builtin || p.Etag != "" {
		t.Errorf("before an activation the policy is %v", p)
	}
	create := func(modules map[string]string, message string) *chartergatev1.PolicyRevision {
		t.Helper()
		p, err := r.policies.CreatePolicyRevision(ctx, &chartergatev1.CreatePolicyRevisionRequest{
			Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{Modules: modules, Message: message}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	shipped := create(policy.Builtin(), "as shipped")
	if shipped.Active || shipped.CreateTime == nil || len(shipped.Modules) == 0 {
		t.Errorf("a new revision is %v", shipped)
	}
	if again := create(policy.Builtin(), "another message"); again.Name != shipped.Name || again.Message != "as shipped" {
		t.Errorf("the same modules give %s (%s), want %s unchanged", again.Name, again.Message, shipped.Name)
	}
	activate := func(name, etag string) (*chartergatev1.Policy, error) {
		return r.policies.ActivatePolicyRevision(ctx, &chartergatev1.ActivatePolicyRevisionRequest{Name: name, Etag: etag})
	}
	_, err := activate(shipped.Name, "12")
	refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"resource": routingPolicy})
	active, err := activate(shipped.Name, "")
	if err != nil || active.ActiveRevision != shipped.Name || active.Etag == "" {
		t.Fatalf("activation gives %v (%v)", active, err)
	}
	if got, err := r.policies.GetPolicyRevision(ctx, &chartergatev1.GetPolicyRevisionRequest{Name: shipped.Name}); err != nil || !got.Active {
		t.Errorf("the active revision is %v (%v)", got, err)
	}
	other := create(map[string]string{"routing.rego": regoAllow}, "allow")
	if p := get(); p.ActiveRevision != shipped.Name {
		t.Errorf("storing a revision made %s active", p.ActiveRevision)
	}
	next, err := activate(other.Name, active.Etag)
	if err != nil || next.ActiveRevision != other.Name || next.Etag == active.Etag {
		t.Errorf("the second activation gives %v (%v)", next, err)
	}
	_, err = activate(shipped.Name, active.Etag)
	refused(t, err, codes.Aborted, isEtagMismatch, map[string]string{"current_etag": next.Etag})
	_, err = activate(routingPolicy+"/revisions/00000000", "")
	refused(t, err, codes.NotFound, isNotFound, nil)
	_, err = r.policies.GetPolicyRevision(ctx, &chartergatev1.GetPolicyRevisionRequest{Name: routingPolicy + "/revisions/00000000"})
	refused(t, err, codes.NotFound, isNotFound, nil)

	list, err := r.policies.ListPolicyRevisions(ctx, &chartergatev1.ListPolicyRevisionsRequest{Parent: routingPolicy, PageSize: 1})
	if err != nil || len(list.Revisions) != 1 || len(list.Revisions[0].Modules) != 0 || list.NextPageToken == "" {
		t.Fatalf("the first page is %v (%v)", list, err)
	}
	rest, err := r.policies.ListPolicyRevisions(ctx, &chartergatev1.ListPolicyRevisionsRequest{Parent: routingPolicy, PageToken: list.NextPageToken})
	if err != nil || len(rest.Revisions) != 1 || rest.Revisions[0].Name <= list.Revisions[0].Name || rest.NextPageToken != "" {
		t.Errorf("the second page is %v (%v)", rest, err)
	}
}

func TestMalformedRego(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct {
		rego, line, column, says string
	}{
		"syntax":      {"package chartergate.routing\n\ndecision := {", "3", "13", "bad.rego:3:13"},
		"typo":        {"package chartergate.routing\n\ndecision := {\"effect\": input.chater.id}\n", "3", "24", "chater"},
		"no decision": {"package chartergate.routing\n\nanswer := 1\n", "1", "1", "decision"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
				Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{Modules: map[string]string{"bad.rego": c.rego}}})
			refused(t, err, codes.InvalidArgument, isPolicyInvalid, map[string]string{"file": "bad.rego", "line": c.line, "column": c.column}, c.says)
			bad := detail[*errdetails.BadRequest](status.Convert(err))
			if bad == nil || bad.FieldViolations[0].Field != `modules["bad.rego"]` {
				t.Errorf("field violations are %v", bad)
			}
		})
	}
	if n := len(control.Snapshot().PolicyRevisions("")); n != 0 {
		t.Errorf("%d revisions were stored", n)
	}
	_, err := r.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{}})
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "revision.modules"})
}
