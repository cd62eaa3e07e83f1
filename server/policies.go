package server

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

const policyPrefix = "policies/"

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
	bundle   *PolicyBundle
	lab      *PolicyLab
	now      func() time.Time
}

// compile vets modules and makes their revision.
func (s *policyService) compile(ctx context.Context, policy string, p *chartergatev1.PolicyRevision) (*charter.PolicyRevision, error) {
	tests, err := s.compiler.Vet(ctx, p.Modules)
	if err != nil {
		return nil, err
	}
	return &charter.PolicyRevision{
		Policy: policyID(policy), Hash: s.compiler.Hash(p.Modules), Modules: p.Modules, Message: p.Message, Author: p.Author,
		Tests: int32(tests),
	}, nil
}

// policyID is the id of a policy by its name, or by that of a revision.
func policyID(name string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(name, policyPrefix), "/")
	return id
}

func (s *policyService) CreatePolicyRevision(ctx context.Context, req *chartergatev1.CreatePolicyRevisionRequest) (*chartergatev1.PolicyRevision, error) {
	revision, err := s.compile(ctx, req.Parent, req.Revision)
	if err != nil {
		return nil, err
	}
	next, err := commit(ctx, s.control, req.ValidateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		if now.Record(revision.Name()) != nil {
			return nil, nil
		}
		return []charter.Change{charter.Set(revision)}, nil
	})
	if err != nil {
		return nil, err
	}
	return revisionOf(next, revision.Name())
}

func (s *policyService) TestPolicy(ctx context.Context, req *chartergatev1.TestPolicyRequest) (*chartergatev1.TestPolicyResponse, error) {
	return s.compiler.Test(ctx, req.Modules)
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
	p := s.Policy(r.Policy)
	return p != nil && p.Active == r.Hash
}

func (s *policyService) ListPolicyRevisions(_ context.Context, req *chartergatev1.ListPolicyRevisionsRequest) (*chartergatev1.ListPolicyRevisionsResponse, error) {
	now := s.control.Snapshot()
	rows, next, err := page(now.PolicyRevisions(policyID(req.Parent)), req.Parent+"/revisions/", req.PageSize, req.PageToken)
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

func (s *policyService) GetPolicy(_ context.Context, req *chartergatev1.GetPolicyRequest) (*chartergatev1.Policy, error) {
	return s.policyOf(s.control.Snapshot(), req.Name)
}

// policyOf gives a policy as it stands, with message and author of its active revision. The organisation's is always
// there. Error: NOT_FOUND.
func (s *policyService) policyOf(now *charter.Snapshot, name string) (*chartergatev1.Policy, error) {
	p := now.Policy(policyID(name))
	if p == nil {
		if policyID(name) != charter.RoutingPolicy {
			return nil, notFound(name)
		}
		p = &charter.Policy{ID: charter.RoutingPolicy}
	}
	m := convert.PolicyToProto(p)
	if r := now.PolicyRevision(p.ID, p.Active); r != nil {
		m.Message, m.Author = r.Message, r.Author
	}
	if p.Active == "" {
		m.ActiveRevision = s.builtin
	}
	if s.bundle != nil && p.ID == charter.RoutingPolicy {
		m.ActiveRevision, m.Message, m.Author = s.bundle.Revision(), "from "+s.bundle.Source, ""
	}
	return m, nil
}

func (s *policyService) ListPolicies(_ context.Context, req *chartergatev1.ListPoliciesRequest) (*chartergatev1.ListPoliciesResponse, error) {
	now := s.control.Snapshot()
	rows := now.Policies()
	if len(rows) == 0 || rows[0].ID != charter.RoutingPolicy {
		rows = append([]*charter.Policy{{ID: charter.RoutingPolicy}}, rows...)
	}
	rows, next, err := pageBy(rows, func(p *charter.Policy) string { // the organisation's comes before all others
		return policyPrefix + strings.TrimPrefix(p.ID, charter.RoutingPolicy)
	}, policyPrefix, req.PageSize, req.PageToken)
	if err != nil {
		return nil, err
	}
	resp := &chartergatev1.ListPoliciesResponse{NextPageToken: next}
	for _, row := range rows {
		p, err := s.policyOf(now, row.Name())
		if err != nil {
			return nil, err
		}
		resp.Policies = append(resp.Policies, p)
	}
	return resp, nil
}

// change sets a policy to what decide makes of it; nil where there is none. A policy that stays the same is not written.
func (s *policyService) change(ctx context.Context, name, etag string, validateOnly bool,
	decide func(now *charter.Snapshot, old *charter.Policy) (*charter.Policy, error)) (*chartergatev1.Policy, error) {
	if err := s.fromBundle(name); err != nil {
		return nil, err
	}
	next, err := commit(ctx, s.control, validateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		if err := checkEtag(name, etag, now.Record(name)); err != nil {
			return nil, err
		}
		old := now.Policy(policyID(name))
		p, err := decide(now, old)
		if err != nil || p == old {
			return nil, err
		}
		return []charter.Change{charter.Set(p)}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.policyOf(next, name)
}

func (s *policyService) ActivatePolicyRevision(ctx context.Context, req *chartergatev1.ActivatePolicyRevisionRequest) (*chartergatev1.Policy, error) {
	id := policyID(req.Name)
	return s.change(ctx, policyPrefix+id, req.Etag, req.ValidateOnly, func(now *charter.Snapshot, old *charter.Policy) (*charter.Policy, error) {
		r, ok := now.Record(req.Name).(*charter.PolicyRevision)
		switch {
		case !ok:
			return nil, notFound(req.Name)
		case isActive(now, r):
			return old, nil
		}
		return old.Activated(id, r.Hash), nil
	})
}

func (s *policyService) RollbackPolicy(ctx context.Context, req *chartergatev1.RollbackPolicyRequest) (*chartergatev1.Policy, error) {
	return s.change(ctx, req.Name, req.Etag, req.ValidateOnly, func(now *charter.Snapshot, old *charter.Policy) (*charter.Policy, error) {
		if _, err := s.policyOf(now, req.Name); err != nil {
			return nil, err
		}
		p, ok := old.RolledBack()
		if !ok {
			return nil, noEarlierRevision(req.Name)
		}
		return p, nil
	})
}

func noEarlierRevision(policy string) error {
	return &apiError{chartergatev1.ErrorReason_ERROR_REASON_NO_EARLIER_REVISION, codes.FailedPrecondition,
		"no revision of " + policy + " was active before: activate another one, or delete the policy", map[string]string{"policy": policy}}
}

func (s *policyService) DeletePolicy(ctx context.Context, req *chartergatev1.DeletePolicyRequest) (*chartergatev1.DeletePolicyResponse, error) {
	if err := s.fromBundle(req.Name); err != nil {
		return nil, err
	}
	_, err := commit(ctx, s.control, req.ValidateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		old := now.Record(req.Name)
		if old == nil {
			return nil, notFound(req.Name)
		}
		if err := checkEtag(req.Name, req.Etag, old); err != nil {
			return nil, err
		}
		return []charter.Change{{Name: req.Name}}, nil
	})
	if err != nil {
		return nil, err
	}
	return &chartergatev1.DeletePolicyResponse{}, nil
}

// defaultShadowPPM is the share of calls that a shadow decides where none is given: 1%.
const defaultShadowPPM = 10_000

func (s *policyService) ShadowPolicy(ctx context.Context, req *chartergatev1.ShadowPolicyRequest) (*chartergatev1.Policy, error) {
	return s.change(ctx, req.Name, req.Etag, false, func(now *charter.Snapshot, old *charter.Policy) (*charter.Policy, error) {
		if _, err := s.policyOf(now, req.Name); err != nil {
			return nil, err
		}
		next := charter.Policy{ID: policyID(req.Name)}
		if old != nil {
			next = *old
		}
		next.Shadow, next.ShadowPPM = "", 0
		if req.Revision != "" {
			r, ok := now.Record(req.Revision).(*charter.PolicyRevision)
			switch {
			case policyID(req.Revision) != next.ID:
				return nil, invalid("revision", "is %s, which is not one of %s", req.Revision, req.Name)
			case !ok:
				return nil, notFound(req.Revision)
			case isActive(now, r):
				return nil, invalid("revision", "is the active one: nothing would differ")
			}
			next.Shadow, next.ShadowPPM = r.Hash, cmp.Or(req.ShadowPpm, defaultShadowPPM)
		}
		if old == nil && next.Shadow == "" || old != nil && old.Shadow == next.Shadow && old.ShadowPPM == next.ShadowPPM {
			return old, nil
		}
		return &next, nil
	})
}
