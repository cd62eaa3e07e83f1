package charter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// RoutingPolicy is the id of the policy that is attached to the organisation. Ids of others are `team.{team}` and
// `feature.{feature}`.
const RoutingPolicy = "routing"

// Limits of policies.
const (
	// MaxPolicies is the most policies that there may be: each is compiled on every replica.
	MaxPolicies = 1000
	// MaxEarlier is how many revisions a policy remembers that were active before.
	MaxEarlier = 16
)

// What a policy is attached to, in the order in which plans are combined.
const (
	levelOrganisation = iota
	levelTeam
	levelFeature
	levels
)

// revisionsInfix stands between the id of a policy and the hash of a revision.
const revisionsInfix = "/revisions/"

// Policy says which revision of a policy decides.
type Policy struct {
	Meta
	ID     string
	Active string // the hash of a revision; of the organisation's empty while the shipped one decides
	// Earlier are the revisions that were active before, the latest first.
	Earlier []string
	// Shadow is the revision that decides beside the active one, without effect, on a share of calls; empty: none.
	Shadow    string
	ShadowPPM int32
}

// Name is `policies/{id}`.
func (p *Policy) Name() string           { return "policies/" + p.ID }
func (p *Policy) withMeta(m Meta) Record { d := *p; d.Meta = m; return &d }

// Revision is the name of one of the policy's revisions, `policies/{id}/revisions/{hash}`.
func (p *Policy) Revision(hash string) string { return p.Name() + revisionsInfix + hash }

// Activated is the policy with another active revision. The receiver may be nil: then no revision was active before.
func (p *Policy) Activated(id, hash string) *Policy {
	next := Policy{ID: id}
	if p != nil {
		next = *p
	}
	if next.Active != "" && next.Active != hash {
		next.Earlier = append([]string{next.Active}, next.Earlier[:min(len(next.Earlier), MaxEarlier-1)]...)
	}
	return next.with(hash)
}

// RolledBack is the policy with the revision active that was before; false if there was none.
func (p *Policy) RolledBack() (*Policy, bool) {
	if p == nil || len(p.Earlier) == 0 {
		return nil, false
	}
	next := *p
	next.Earlier = p.Earlier[1:]
	return next.with(p.Earlier[0]), true
}

// with sets the active revision. A shadow that is activated ends.
func (p Policy) with(active string) *Policy {
	p.Active = active
	if p.Shadow == active {
		p.Shadow, p.ShadowPPM = "", 0
	}
	return &p
}

// PolicyRevision is an immutable set of Rego modules.
type PolicyRevision struct {
	Meta
	Policy  string // its id
	Hash    string // of the modules
	Modules map[string]string
	Message string
	Author  string
	Tests   int32 // that passed when it was stored
}

// Name is `policies/{policy}/revisions/{hash}`.
func (r *PolicyRevision) Name() string           { return "policies/" + r.Policy + revisionsInfix + r.Hash }
func (r *PolicyRevision) withMeta(m Meta) Record { d := *r; d.Meta = m; return &d }

// attachment says what the id of a policy attaches it to. The organisation has no name.
func attachment(id string) (level int, to string, ok bool) {
	if id == RoutingPolicy {
		return levelOrganisation, "", true
	}
	if to, ok := strings.CutPrefix(id, "team."); ok && to != "" {
		return levelTeam, to, true
	}
	if to, ok := strings.CutPrefix(id, "feature."); ok && to != "" {
		return levelFeature, to, true
	}
	return 0, "", false
}

// Policy finds a policy by id; nil if there is none.
func (s *Snapshot) Policy(id string) *Policy {
	level, to, ok := attachment(id)
	if !ok {
		return nil
	}
	p, _ := s.policies[level].get(to)
	return p
}

// Attached finds the policies of a charter, from the organisation's to the feature's; each is nil if there is none. It
// does not allocate.
func (s *Snapshot) Attached(c *Charter) (policies [levels]*Policy) {
	policies[levelOrganisation], _ = s.policies[levelOrganisation].get("")
	policies[levelTeam], _ = s.policies[levelTeam].get(c.Team)
	policies[levelFeature], _ = s.policies[levelFeature].get(c.ID)
	return policies
}

// Policies lists the policies: the organisation's first, then in the order of their ids.
func (s *Snapshot) Policies() []*Policy {
	list := make([]*Policy, 0, s.policyCount())
	for _, level := range s.policies {
		for _, p := range level.all() {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *Policy) int {
		switch {
		case a.ID == RoutingPolicy:
			return -1
		case b.ID == RoutingPolicy:
			return 1
		}
		return cmp.Compare(a.ID, b.ID)
	})
	return list
}

func (s *Snapshot) policyCount() int {
	n := 0
	for _, level := range s.policies {
		n += level.size
	}
	return n
}

// PolicyRevision finds a revision of a policy; nil if there is none.
func (s *Snapshot) PolicyRevision(policy, hash string) *PolicyRevision {
	r, _ := s.revisions.get(policy + revisionsInfix + hash)
	return r
}

// PolicyRevisions lists the revisions of a policy in the order of their hashes; of all policies if it is empty.
func (s *Snapshot) PolicyRevisions(policy string) []*PolicyRevision {
	var list []*PolicyRevision
	for _, r := range s.revisions.all() {
		if policy == "" || r.Policy == policy {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *PolicyRevision) int { return cmp.Compare(a.Name(), b.Name()) })
	return list
}

func (s *Snapshot) checkPolicy(p *Policy) error {
	for _, hash := range []string{p.Active, p.Shadow} {
		if hash != "" && s.PolicyRevision(p.ID, hash) == nil {
			return &ReferenceError{p.Name(), p.Revision(hash)}
		}
	}
	level, to, _ := attachment(p.ID)
	switch {
	case p.Active == "" && level != levelOrganisation:
		return &InvalidError{p.Name(), "active_revision", "is missing: the shipped policy stands for the organisation's alone"}
	case level == levelFeature && s.Charter(to) == nil: // a typo would leave the feature without it
		return &ReferenceError{p.Name(), "charters/" + to}
	case s.policyCount() > MaxPolicies:
		return &InvalidError{p.Name(), "name", fmt.Sprintf("is one more than the %d policies that there may be: delete another first", MaxPolicies)}
	}
	return nil
}
