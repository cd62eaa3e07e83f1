package convert

import (
	"maps"
	"strings"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	policies  = "policies/"
	revisions = "/revisions/"
)

// PolicyToProto converts a policy with its meta. Where the shipped policy decides, the active revision is empty.
func PolicyToProto(p *charter.Policy) *chartergatev1.Policy {
	m := &chartergatev1.Policy{
		Name: p.Name(), ActiveRevision: named(p.Revision(""), p.Active), Etag: etag(p.Meta), UpdateTime: TimeToProto(p.Updated),
		ShadowRevision: named(p.Revision(""), p.Shadow), ShadowPpm: p.ShadowPPM,
	}
	for _, hash := range p.Earlier {
		m.EarlierRevisions = append(m.EarlierRevisions, p.Revision(hash))
	}
	return m
}

// PolicyFromProto converts a policy. Its modules, message and author, which a manifest may carry, are a revision's matter.
func PolicyFromProto(m *chartergatev1.Policy) (*charter.Policy, error) {
	p := &charter.Policy{ShadowPPM: m.GetShadowPpm()}
	var err error
	if p.ID, err = id(m.GetName(), policies); err != nil {
		return nil, err
	}
	if p.Active, err = reference(m.GetName(), "active_revision", m.GetActiveRevision(), p.Revision("")); err != nil {
		return nil, err
	}
	if p.Shadow, err = reference(m.GetName(), "shadow_revision", m.GetShadowRevision(), p.Revision("")); err != nil {
		return nil, err
	}
	for _, name := range m.GetEarlierRevisions() {
		hash, err := reference(m.GetName(), "earlier_revisions", name, p.Revision(""))
		if err != nil {
			return nil, err
		}
		p.Earlier = append(p.Earlier, hash)
	}
	return p, nil
}

// PolicyRevisionToProto converts a revision with its meta, and says whether it decides.
func PolicyRevisionToProto(r *charter.PolicyRevision, active bool) *chartergatev1.PolicyRevision {
	m := &chartergatev1.PolicyRevision{
		Modules: maps.Clone(r.Modules), Message: r.Message, Author: r.Author, Tests: r.Tests,
		CreateTime: TimeToProto(r.Created), Active: active,
	}
	if r.Hash != "" {
		m.Name = r.Name()
	}
	return m
}

// PolicyRevisionFromProto converts a revision. One without a name has neither policy nor hash yet.
func PolicyRevisionFromProto(m *chartergatev1.PolicyRevision) (*charter.PolicyRevision, error) {
	r := &charter.PolicyRevision{Modules: m.GetModules(), Message: m.GetMessage(), Author: m.GetAuthor(), Tests: m.GetTests()}
	if m.GetName() == "" {
		return r, nil
	}
	rest, ok := strings.CutPrefix(m.GetName(), policies)
	r.Policy, r.Hash, _ = strings.Cut(rest, revisions)
	if !ok || r.Policy == "" || r.Hash == "" {
		return nil, &charter.InvalidError{Name: m.GetName(), Field: "name", Problem: "must be policies/{policy}/revisions/{hash}"}
	}
	return r, nil
}
