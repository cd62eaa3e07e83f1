package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// PolicyCompiler vets the Rego of a routing policy.
type PolicyCompiler interface {
	// Vet compiles modules, by file name, and runs their tests, of which it gives the number. What the policy does
	// meanwhile cannot hurt the server. Errors: *PolicyError, *PolicyTestsError, *PolicyCostError.
	Vet(ctx context.Context, modules map[string]string) (tests int, err error)
	// Test compiles modules and runs their tests, as Vet does, and tells what became of each and what they cover. Errors:
	// *PolicyError, *PolicyCostError.
	Test(ctx context.Context, modules map[string]string) (*chartergatev1.TestPolicyResponse, error)
	// Hash identifies modules by their content: 8 to 64 hexadecimal digits.
	Hash(modules map[string]string) string
}

// PolicyTest is a test that failed.
type PolicyTest struct {
	Name, File string
	Line       int
	Problem    string
}

func (t PolicyTest) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", t.File, t.Line, t.Name, t.Problem)
}

// PolicyTestsError says which tests of a policy failed: POLICY_TESTS_FAILED with the first, and every one as a field
// violation. At least one.
type PolicyTestsError struct{ Failed []PolicyTest }

func (e *PolicyTestsError) Error() string {
	shown := e.Failed[:min(len(e.Failed), maxViolations)]
	lines := make([]string, len(shown), len(shown)+1)
	for i, t := range shown {
		lines[i] = t.String()
	}
	if more := len(e.Failed) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return "tests of the policy fail: " + strings.Join(lines, "; ")
}

// Reason implements Reasoned.
func (e *PolicyTestsError) Reason() chartergatev1.ErrorReason {
	return chartergatev1.ErrorReason_ERROR_REASON_POLICY_TESTS_FAILED
}

// Code implements Reasoned.
func (e *PolicyTestsError) Code() codes.Code { return codes.InvalidArgument }

// Metadata implements Reasoned.
func (e *PolicyTestsError) Metadata() map[string]string {
	t := e.Failed[0]
	return map[string]string{"file": t.File, "line": strconv.Itoa(t.Line), "test": t.Name}
}

func (e *PolicyTestsError) fieldViolations() []*errdetails.BadRequest_FieldViolation {
	var list []*errdetails.BadRequest_FieldViolation
	for _, t := range e.Failed[:min(len(e.Failed), maxViolations)] {
		list = append(list, &errdetails.BadRequest_FieldViolation{Field: fmt.Sprintf("modules[%q]", t.File), Description: t.String()})
	}
	return list
}

// PolicyCostError says that compiling or testing a policy was cut off: POLICY_TOO_COSTLY.
type PolicyCostError struct {
	Limit   string // such as 10s
	Problem string
}

func (e *PolicyCostError) Error() string { return "the policy costs too much: " + e.Problem }

// Reason implements Reasoned.
func (e *PolicyCostError) Reason() chartergatev1.ErrorReason {
	return chartergatev1.ErrorReason_ERROR_REASON_POLICY_TOO_COSTLY
}

// Code implements Reasoned.
func (e *PolicyCostError) Code() codes.Code { return codes.InvalidArgument }

// Metadata implements Reasoned.
func (e *PolicyCostError) Metadata() map[string]string { return map[string]string{"limit": e.Limit} }

// PolicyBundle is a bundle that decides for the organisation in place of what is stored.
type PolicyBundle struct {
	Source   string        // its file or URL
	Revision func() string // that decides, such as `bundle/5f2a…`
}

// fromBundle refuses to change the organisation's policy where it comes from a bundle. Error: POLICY_BUNDLED.
func (s *policyService) fromBundle(policy string) error {
	if s.bundle == nil || policyID(policy) != charter.RoutingPolicy {
		return nil
	}
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_POLICY_BUNDLED, codes.FailedPrecondition,
		"the organisation's policy comes from the bundle " + s.bundle.Source + ": change that, or start the servers without --policy-bundle",
		map[string]string{"policy": policyPrefix + charter.RoutingPolicy, "bundle": s.bundle.Source}}
}
