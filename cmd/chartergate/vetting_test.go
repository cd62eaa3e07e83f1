package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/chartergate/chartergate/policy"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// A server runs the tests of policies in children of its own program.
func TestServerTestsPolicies(t *testing.T) {
	_, client := startExamples(t)
	test := func(routing, tests string) (*pb.TestPolicyResponse, error) {
		return client.Policies.TestPolicy(t.Context(), &pb.TestPolicyRequest{Modules: map[string]string{"routing.rego": routing, "sub/routing_test.rego": tests}})
	}
	resp, err := test(localPolicy, localTests+"\ntest_fails if {\n\trouting.decision.tiers == [\"premium\"] with input.request.cohort as \"interns\"\n}\n\ntodo_test_later if false\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resp.Tests {
		if r.Name != "todo_test_later" && r.Duration.AsDuration() <= 0 {
			t.Errorf("%s took %v", r.Name, r.Duration.AsDuration())
		}
		r.Duration = nil
	}
	want := "test_interns sub/routing_test.rego:5 true \n" +
		"test_fails sub/routing_test.rego:10 false line 11 is not true: routing.decision.tiers == [\"premium\"] with input.request.cohort as \"interns\"\n" +
		"todo_test_later sub/routing_test.rego:14 false it is skipped: its name begins with todo_\n"
	got := ""
	for _, r := range resp.Tests {
		got += fmt.Sprintf("%s %s:%d %t %s\n", r.Name, r.File, r.Line, r.Passed, r.Problem)
	}
	if got != want {
		t.Errorf("the tests are\n%swant\n%s", got, want)
	}
	if u := resp.Uncovered; resp.CoveragePermille != 750 || len(u) != 1 || u[0].File != "routing.rego" || !slices.Equal(u[0].Ranges, []int32{7, 7}) {
		t.Errorf("covered are %d per mille, not covered %v", resp.CoveragePermille, u)
	}
	if resp, err := test(localPolicy, "package chartergate.routing_test\n"); err != nil || len(resp.Tests) != 0 || resp.CoveragePermille != 0 || len(resp.Uncovered) != 1 {
		t.Errorf("without tests the answer is %v, %v", resp, err)
	}

	endless := "package chartergate.routing_test\n\nns := numbers.range(1, 9000)\n"
	for i := range 12 {
		endless += fmt.Sprintf("\ntest_endless%d if {\n\tsome a in ns\n\tsome b in ns\n\ta * b < 0\n}\n", i)
		if i > 0 {
			continue
		}
		if resp, err := test(localPolicy, endless); err != nil || len(resp.Tests) != 1 || resp.Tests[0].Problem != "it took longer than "+policy.TestLimit.String() {
			t.Errorf("an endless test gives %v, %v", resp, err)
		}
	}
	refused := func(what string, err error, reason string, metadata map[string]string, says string) {
		t.Helper()
		s := status.Convert(err)
		var info *errdetails.ErrorInfo
		for _, d := range s.Details() {
			if i, ok := d.(*errdetails.ErrorInfo); ok {
				info = i
			}
		}
		if s.Code() != codes.InvalidArgument || info.GetReason() != reason || !strings.Contains(s.Message(), says) {
			t.Fatalf("%s: %v, want %s: %s", what, err, reason, says)
		}
		for k, v := range metadata {
			if info.GetMetadata()[k] != v {
				t.Errorf("%s: %s is %q, want %q", what, k, info.GetMetadata()[k], v)
			}
		}
	}
	_, err = test(localPolicy, endless)
	refused("twelve endless tests", err, "POLICY_TOO_COSTLY", map[string]string{"limit": "10s"}, "processor time")
	_, err = test(strings.Replace(localPolicy, "request.cohort", "request.cohrt", 1), localTests)
	refused("a typo", err, "POLICY_INVALID", map[string]string{"file": "routing.rego", "line": "6", "column": "2"}, "did you mean cohort?")
	_, err = test(localPolicy, strings.Replace(localTests, "routing.decision", "http.send({})", 1))
	refused("a test with http.send", err, "POLICY_INVALID", map[string]string{"file": "sub/routing_test.rego", "line": "6"}, "http.send")
	_, err = test(localPolicy, localTests+strings.Repeat("#", policy.MaxModuleBytes))
	refused("a large file", err, "INVALID", nil, "262144")
	large := map[string]string{"routing.rego": localPolicy}
	for i := range 5 {
		large[fmt.Sprintf("more%d.rego", i)] = strings.Repeat("#", policy.MaxModuleBytes-1)
	}
	_, err = client.Policies.TestPolicy(t.Context(), &pb.TestPolicyRequest{Modules: large})
	refused("large files", err, "POLICY_INVALID", nil, fmt.Sprintf("at most %d are allowed", policy.MaxPolicyBytes))
}
