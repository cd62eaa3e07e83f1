package convert

import (
	"maps"

	"github.com/chartergate/chartergate/core/charter"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const revisions = charter.RoutingPolicy + "/revisions/"

// PolicyToProto converts the routing policy with its meta.
func PolicyToProto(p *charter.Policy) *chartergatev1.Policy {
	return &chartergatev1.Policy{
		Name: p.Name(), ActiveRevision: named(revisions, p.Active), Etag: etag(p.Meta), UpdateTime: TimeToProto(p.Updated),
	}
}

// PolicyFromProto converts the routing policy. Its modules, which a manifest may carry, are a revision's matter.
func PolicyFromProto(p *chartergatev1.Policy) (*charter.Policy, error) {
	active, err := reference(charter.RoutingPolicy, "active_revision", p.GetActiveRevision(), revisions)
	return &charter.Policy{Active: active}, err
}

// PolicyRevisionToProto converts a revision with its meta, and says whether it decides.
func PolicyRevisionToProto(r *charter.PolicyRevision, active bool) *chartergatev1.PolicyRevision {
	return &chartergatev1.PolicyRevision{
		Name: named(revisions, r.Hash), Modules: maps.Clone(r.Modules), Message: r.Message,
		CreateTime: TimeToProto(r.Created), Active: active,
	}
}

// PolicyRevisionFromProto converts a revision. One without a name has no hash yet.
func PolicyRevisionFromProto(p *chartergatev1.PolicyRevision) (*charter.PolicyRevision, error) {
	hash, err := reference(p.GetName(), "name", p.GetName(), revisions)
	return &charter.PolicyRevision{Hash: hash, Modules: p.GetModules(), Message: p.GetMessage()}, err
}
