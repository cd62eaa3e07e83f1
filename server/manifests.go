package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

type manifestService struct {
	chartergatev1.UnimplementedManifestServiceServer
	control  store.Control
	policies *policyService
}

// wanted is one resource of a manifest, ready to be compared with what is stored.
type wanted struct {
	name     string
	etag     string
	record   charter.Record          // nil: the stored record goes, as when the shipped policy is to decide again
	revision *charter.PolicyRevision // stored with a policy that brings its modules
}

func (s *manifestService) Apply(ctx context.Context, req *chartergatev1.ApplyRequest) (*chartergatev1.ApplyResponse, error) {
	list, err := s.read(ctx, req.Resources)
	if err != nil {
		return nil, err
	}
	var results []*chartergatev1.ApplyResult
	_, err = commit(ctx, s.control, req.ValidateOnly, func(now *charter.Snapshot) ([]charter.Change, error) {
		var changes []charter.Change
		results = nil
		for _, w := range fillCurrencies(now, list) {
			result, change, err := s.compare(now, w)
			if err != nil {
				return nil, err
			}
			results, changes = append(results, result), append(changes, change...)
		}
		return changes, nil
	})
	if err != nil {
		return nil, err
	}
	return &chartergatev1.ApplyResponse{Results: results}, nil
}

// read converts the resources and vets the policies. Errors: INVALID for a name that is there twice, POLICY_INVALID,
// POLICY_TESTS_FAILED, POLICY_TOO_COSTLY.
func (s *manifestService) read(ctx context.Context, resources []*chartergatev1.Resource) ([]wanted, error) {
	list, seen := make([]wanted, len(resources)), map[string]int{}
	for i, p := range resources {
		w, err := s.want(ctx, p)
		if err != nil {
			return nil, err
		}
		if first, twice := seen[w.name]; twice {
			return nil, invalid(fmt.Sprintf("resources[%d]", i), "%s is there already, as resources[%d]: remove one", w.name, first)
		}
		list[i], seen[w.name] = w, i
	}
	return list, nil
}

func (s *manifestService) want(ctx context.Context, p *chartergatev1.Resource) (wanted, error) {
	if policy := p.GetPolicy(); policy != nil {
		return s.wantPolicy(ctx, policy)
	}
	r, err := convert.RecordFromResource(p)
	if err != nil {
		return wanted{}, err
	}
	return wanted{name: r.Name(), etag: etagIn(p), record: r}, nil
}

func (s *manifestService) wantPolicy(ctx context.Context, p *chartergatev1.Policy) (wanted, error) {
	w, id, revisions := wanted{name: p.Name, etag: p.Etag}, policyID(p.Name), p.Name+"/revisions/"
	switch {
	case len(p.Modules) > 0:
		revision, err := s.policies.compile(ctx, p.Name, &chartergatev1.PolicyRevision{Modules: p.Modules, Message: p.Message, Author: p.Author})
		if err != nil {
			return w, err
		}
		if p.ActiveRevision != "" && p.ActiveRevision != revision.Name() {
			return w, invalid("active_revision", "is %s, but the modules are %s: leave it out", p.ActiveRevision, revision.Name())
		}
		w.record, w.revision = &charter.Policy{ID: id, Active: revision.Hash}, revision
	case id == charter.RoutingPolicy && p.ActiveRevision == s.policies.builtin:
	case strings.HasPrefix(p.ActiveRevision, revisions):
		w.record = &charter.Policy{ID: id, Active: strings.TrimPrefix(p.ActiveRevision, revisions)}
	case id == charter.RoutingPolicy:
		return w, invalid("modules", "are missing: give the Rego files by name, or the active_revision that is to decide, such as %s or %s{hash}", s.policies.builtin, revisions)
	default:
		return w, invalid("modules", "are missing: give the Rego files by name, or the active_revision that is to decide, such as %s{hash}", revisions)
	}
	return w, nil
}

// fillCurrencies gives the list with budgets that have a currency. The list itself stays as it is: what is filled in
// holds for one snapshot only.
func fillCurrencies(now *charter.Snapshot, list []wanted) []wanted {
	filled, pending := slices.Clone(list), map[string]*charter.Budget{}
	for i, w := range list {
		if b, ok := w.record.(*charter.Budget); ok {
			fresh := *b
			filled[i].record, pending[b.ID] = &fresh, &fresh
		}
	}
	for _, b := range pending {
		fillCurrency(now, pending, b)
	}
	return filled
}

// compare says what becomes of a resource, and the changes that it takes.
func (s *manifestService) compare(now *charter.Snapshot, w wanted) (*chartergatev1.ApplyResult, []charter.Change, error) {
	old := now.Record(w.name)
	if err := checkEtag(w.name, w.etag, old); err != nil {
		return nil, nil, err
	}
	result := &chartergatev1.ApplyResult{Name: w.name, Action: chartergatev1.ApplyAction_APPLY_ACTION_UNCHANGED}
	var changes []charter.Change
	if w.revision != nil && now.Record(w.revision.Name()) == nil {
		changes = append(changes, charter.Set(w.revision))
	}
	if p, ok := w.record.(*charter.Policy); ok {
		w.record = now.Policy(p.ID).Activated(p.ID, p.Active)
	}
	switch {
	case old == nil && w.record == nil:
	case old == nil:
		result.Action = chartergatev1.ApplyAction_APPLY_ACTION_CREATED
		changes = append(changes, charter.Set(w.record))
	default:
		if result.Changes = diff(s.message(old), s.message(w.record)); len(result.Changes) == 0 {
			break
		}
		result.Action = chartergatev1.ApplyAction_APPLY_ACTION_UPDATED
		change := charter.Change{Name: w.name}
		if w.record != nil {
			change.Record = charter.WithMeta(w.record, charter.MetaOf(old))
		}
		changes = append(changes, change)
	}
	return result, changes, nil
}

// message is the API's view of a record; that of no policy is the shipped one.
func (s *manifestService) message(r charter.Record) proto.Message {
	if p, ok := r.(*charter.Policy); r == nil || ok && p.Active == "" {
		return &chartergatev1.Policy{Name: policyPrefix + charter.RoutingPolicy, ActiveRevision: s.policies.builtin}
	}
	p := convert.RecordToResource(r).ProtoReflect()
	return p.Get(p.WhichOneof(p.Descriptor().Oneofs().Get(0))).Message().Interface()
}

func etagIn(p *chartergatev1.Resource) string {
	m := p.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if r, ok := m.Get(field).Message().Interface().(resource); ok {
		return r.GetEtag()
	}
	return ""
}
