package server

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

const revisionPrefix = charter.RoutingPolicy + "/revisions/"

// PolicyProblem is one thing that is wrong with a policy. Line and Column count from 1; 0 where it has no place.
type PolicyProblem struct {
	File         string
	Line, Column int
	Message      string
}

func (p PolicyProblem) String() string {
	switch {
	case p.File == "":
		return p.Message
	case p.Line == 0:
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// PolicyError is all that is wrong with a policy: POLICY_INVALID with the place of the first problem, and every problem
// as a field violation. At least one.
type PolicyError struct{ Problems []PolicyProblem }

func (e *PolicyError) Error() string {
	shown := e.shown()
	lines := make([]string, len(shown), len(shown)+1)
	for i, p := range shown {
		lines[i] = p.String()
	}
	if more := len(e.Problems) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", more))
	}
	return "the policy does not compile: " + strings.Join(lines, "; ")
}

func (e *PolicyError) shown() []PolicyProblem {
	return e.Problems[:min(len(e.Problems), maxViolations)]
}

// Reason implements Reasoned.
func (e *PolicyError) Reason() chartergatev1.ErrorReason {
	return chartergatev1.ErrorReason_ERROR_REASON_POLICY_INVALID
}

// Code implements Reasoned.
func (e *PolicyError) Code() codes.Code { return codes.InvalidArgument }

// Metadata implements Reasoned.
func (e *PolicyError) Metadata() map[string]string {
	p := e.Problems[0]
	m := map[string]string{}
	if p.File != "" {
		m["file"] = p.File
	}
	if p.Line > 0 {
		m["line"], m["column"] = strconv.Itoa(p.Line), strconv.Itoa(p.Column)
	}
	return m
}

func (e *PolicyError) fieldViolations() []*errdetails.BadRequest_FieldViolation {
	list := make([]*errdetails.BadRequest_FieldViolation, len(e.shown()))
	for i, p := range e.shown() {
		list[i] = &errdetails.BadRequest_FieldViolation{Field: fmt.Sprintf("modules[%q]", p.File), Description: p.String()}
	}
	return list
}

type policyService struct {
	chartergatev1.UnimplementedPolicyServiceServer
	control  store.Control
	compiler PolicyCompiler
	builtin  string // the active revision of a server without a policy of its own
}

// compile vets modules and makes their revision.
func (s *policyService) compile(ctx context.Context, modules map[string]string, message string) (*charter.PolicyRevision, error) {
	if _, err := s.compiler.Vet(ctx, modules); err != nil {
		return nil, err
	}
	return &charter.PolicyRevision{Hash: s.compiler.Hash(modules), Modules: modules, Message: message}, nil
}

func (s *policyService) CreatePolicyRevision(ctx context.Context, req *chartergatev1.CreatePolicyRevisionRequest) (*chartergatev1.PolicyRevision, error) {
	revision, err := s.compile(ctx, req.Revision.Modules, req.Revision.Message)
	if err != nil {
		return nil, err
	}
	next, err := commit(ctx, s.control, req.ValidateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		if now.PolicyRevision(revision.Hash) != nil {
			return nil, nil
		}
		return []charter.Change{charter.Set(revision)}, nil
	})
	if err != nil {
		return nil, err
	}
	return revisionOf(next, revision.Name())
}

func (s *policyService) GetPolicyRevision(_ context.Context, req *chartergatev1.GetPolicyRevisionRequest) (*chartergatev1.PolicyRevision, error) {
	return revisionOf(s.control.Snapshot(), req.Name)
}

func revisionOf(s *charter.Snapshot, name string) (*chartergatev1.PolicyRevision, error) {
	r, ok := s.Record(name).(*charter.PolicyRevision)
	if !ok {
		return nil, notFound(name)
	}
	return convert.PolicyRevisionToProto(r, isActive(s, r)), nil
}

func isActive(s *charter.Snapshot, r *charter.PolicyRevision) bool {
	return s.Policy() != nil && s.Policy().Active == r.Hash
}

func (s *policyService) ListPolicyRevisions(_ context.Context, req *chartergatev1.ListPolicyRevisionsRequest) (*chartergatev1.ListPolicyRevisionsResponse, error) {
	now := s.control.Snapshot()
	rows, next, err := page(now.PolicyRevisions(), revisionPrefix, req.PageSize, req.PageToken)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ListPolicyRevisionsResponse{NextPageToken: next}
	for _, r := range rows {
		bare := *r
		bare.Modules = nil
		resp.Revisions = append(resp.Revisions, convert.PolicyRevisionToProto(&bare, isActive(now, r)))
	}
	return resp, nil
}

func (s *policyService) GetPolicy(context.Context, *chartergatev1.GetPolicyRequest) (*chartergatev1.Policy, error) {
	return s.policyOf(s.control.Snapshot()), nil
}

func (s *policyService) policyOf(now *charter.Snapshot) *chartergatev1.Policy {
	if now.Policy() == nil {
		return &chartergatev1.Policy{Name: charter.RoutingPolicy, ActiveRevision: s.builtin}
	}
	return convert.PolicyToProto(now.Policy())
}

func (s *policyService) ActivatePolicyRevision(ctx context.Context, req *chartergatev1.ActivatePolicyRevisionRequest) (*chartergatev1.Policy, error) {
	next, err := commit(ctx, s.control, req.ValidateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		if err := checkEtag(charter.RoutingPolicy, req.Etag, now.Record(charter.RoutingPolicy)); err != nil {
			return nil, err
		}
		r, ok := now.Record(req.Name).(*charter.PolicyRevision)
		if !ok {
			return nil, notFound(req.Name)
		}
		if isActive(now, r) {
			return nil, nil
		}
		policy := &charter.Policy{Active: r.Hash}
		if old := now.Policy(); old != nil {
			policy.Meta = old.Meta
		}
		return []charter.Change{charter.Set(policy)}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.policyOf(next), nil
}
