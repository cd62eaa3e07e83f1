package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/policy"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func TestPolicyTestsMustPass(t *testing.T) {
	r := start(t)
	modules := map[string]string{
		"routing.rego":      regoAllow,
		"routing_test.rego": "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_allows if routing.decision.effect == \"allow\"\n\ntest_denies if routing.decision.effect == \"deny\"\n",
	}
	create := func(only bool) error {
		_, err := r.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
			Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{Modules: modules}, ValidateOnly: only})
		return err
	}
	apply := func() error {
		_, err := r.manifests.Apply(t.Context(), &chartergatev1.ApplyRequest{Resources: []*chartergatev1.Resource{
			{Resource: &chartergatev1.Resource_Policy{Policy: &chartergatev1.Policy{Name: routingPolicy, Modules: modules}}}}})
		return err
	}
	failed := chartergatev1.ErrorReason_ERROR_REASON_POLICY_TESTS_FAILED
	where := map[string]string{"file": "routing_test.rego", "line": "7", "test": "test_denies"}
	refused(t, create(false), codes.InvalidArgument, failed, where, "routing_test.rego:7: test_denies: line 7 is not true")
	refused(t, create(true), codes.InvalidArgument, failed, where)
	refused(t, apply(), codes.InvalidArgument, failed, where)
	kept := map[string]string{"routing.rego": regoAllow, "routing_test.rego": strings.Split(modules["routing_test.rego"], "\ntest_denies")[0]}
	good, err := r.policies.CreatePolicyRevision(t.Context(), &chartergatev1.CreatePolicyRevisionRequest{
		Parent: routingPolicy, Revision: &chartergatev1.PolicyRevision{Modules: kept}})
	if err != nil || good.Tests != 1 {
		t.Errorf("a revision with a test is %v (%v)", good, err)
	}
	modules["routing.rego"] = "package chartergate.routing\n\ndefault decision := {\"effect\": \"throttle\"}\n\ndecision := {\"effect\": \"deny\"} if {\n\tsome a in numbers.range(1, 9000)\n\tsome b in numbers.range(1, 9000)\n\ta * b < 0\n}\n"
	delete(modules, "routing_test.rego")
	costly := chartergatev1.ErrorReason_ERROR_REASON_POLICY_TOO_COSTLY
	refused(t, create(false), codes.InvalidArgument, costly, map[string]string{"limit": "10ms"}, "deciding an example")
	if n := len(control.Snapshot().PolicyRevisions("routing")); n != 1 {
		t.Errorf("%d revisions were stored, want the good one", n)
	}
}

// What the children of the command do with tests is tested there.
func TestTestPolicy(t *testing.T) {
	r := start(t)
	test := func(modules map[string]string) (*chartergatev1.TestPolicyResponse, error) {
		return r.policies.TestPolicy(t.Context(), &chartergatev1.TestPolicyRequest{Modules: modules})
	}
	tests := "package chartergate.routing_test\n\nimport data.chartergate.routing\n\ntest_allows if routing.decision.effect == \"allow\"\n"
	modules := map[string]string{"routing.rego": regoAllow, "routing_test.rego": tests}
	resp, err := test(modules)
	if err != nil || len(resp.Tests) != 1 || !resp.Tests[0].Passed || resp.CoveragePermille != 1000 {
		t.Errorf("the answer is %v (%v)", resp, err)
	}
	body, err := json.Marshal(map[string]any{"modules": modules})
	if err != nil {
		t.Fatal(err)
	}
	if answer := r.rest(t, "POST", "/v1/policies:test", string(body), 200); answer["coverage_permille"] != 1000.0 {
		t.Errorf("over REST the answer is %v", answer)
	}
	_, err = test(map[string]string{"routing.rego": regoAllow, "routing_test.rego": tests + "\ntest_typo if routng.decision\n"})
	refused(t, err, codes.InvalidArgument, isPolicyInvalid, map[string]string{"file": "routing_test.rego", "line": "7"}, "routng")
	_, err = test(nil)
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "modules"})
	_, err = test(map[string]string{"routing.rego": strings.Repeat("#", policy.MaxModuleBytes+1)})
	refused(t, err, codes.InvalidArgument, isInvalid, nil, "modules")
	many := map[string]string{}
	for i := range policy.MaxModules + 1 {
		many[fmt.Sprintf("%d.rego", i)] = regoAllow
	}
	_, err = test(many)
	refused(t, err, codes.InvalidArgument, isInvalid, map[string]string{"field": "modules"})
	if n := len(control.Snapshot().PolicyRevisions("")); n != 0 {
		t.Errorf("%d revisions were stored", n)
	}
}
