package convert

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/charter"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// RecordToResource converts a record to the resource of a manifest. A policy revision is none: nil.
func RecordToResource(r charter.Record) *chartergatev1.Resource {
	switch r := r.(type) {
	case *charter.Charter:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Charter{Charter: CharterToProto(r)}}
	case *charter.Budget:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Budget{Budget: BudgetToProto(r)}}
	case *charter.Catalog:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Catalog{Catalog: CatalogToProto(r)}}
	case *charter.PriceBook:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_PriceBook{PriceBook: PriceBookToProto(r)}}
	case *charter.Policy:
		return &chartergatev1.Resource{Resource: &chartergatev1.Resource_Policy{Policy: PolicyToProto(r)}}
	}
	return nil
}

// RecordFromResource converts the resource of a manifest. The modules of a policy are left out, as in PolicyFromProto.
func RecordFromResource(p *chartergatev1.Resource) (charter.Record, error) {
	switch p := p.GetResource().(type) {
	case *chartergatev1.Resource_Charter:
		return record(CharterFromProto(p.Charter))
	case *chartergatev1.Resource_Budget:
		return record(BudgetFromProto(p.Budget))
	case *chartergatev1.Resource_Catalog:
		return record(CatalogFromProto(p.Catalog))
	case *chartergatev1.Resource_PriceBook:
		return record(PriceBookFromProto(p.PriceBook))
	case *chartergatev1.Resource_Policy:
		return record(PolicyFromProto(p.Policy))
	}
	return nil, &charter.InvalidError{Name: "resource", Field: "resource", Problem: "is missing"}
}

// RecordToControl converts a record to what the store keeps of it: without etag, which is the key's own revision.
func RecordToControl(r charter.Record) (*storev1.Control, error) {
	m := charter.MetaOf(r)
	m.Revision = 0
	switch r := charter.WithMeta(r, m).(type) {
	case *charter.Charter:
		return &storev1.Control{Resource: &storev1.Control_Charter{Charter: CharterToProto(r)}}, nil
	case *charter.Budget:
		return &storev1.Control{Resource: &storev1.Control_Budget{Budget: BudgetToProto(r)}}, nil
	case *charter.Catalog:
		return &storev1.Control{Resource: &storev1.Control_Catalog{Catalog: CatalogToProto(r)}}, nil
	case *charter.PriceBook:
		return &storev1.Control{Resource: &storev1.Control_PriceBook{PriceBook: PriceBookToProto(r)}}, nil
	case *charter.Policy:
		return &storev1.Control{Resource: &storev1.Control_Policy{Policy: PolicyToProto(r)}}, nil
	case *charter.PolicyRevision:
		return &storev1.Control{Resource: &storev1.Control_PolicyRevision{PolicyRevision: PolicyRevisionToProto(r, false)}}, nil
	}
	return nil, fmt.Errorf("a %T is not a control record", r)
}

// RecordFromControl converts what the store keeps of a record, with the revision of its key. The catalog and the policy
// do not keep when they were created, nor a policy revision, which never changes, when it was updated.
func RecordFromControl(p *storev1.Control, revision int64) (charter.Record, error) {
	var r charter.Record
	var err error
	m := charter.Meta{Revision: revision}
	switch p := p.GetResource().(type) {
	case *storev1.Control_Charter:
		m.Created, m.Updated = storedTime(p.Charter.GetCreateTime()), storedTime(p.Charter.GetUpdateTime())
		r, err = record(CharterFromProto(p.Charter))
	case *storev1.Control_Budget:
		m.Created, m.Updated = storedTime(p.Budget.GetCreateTime()), storedTime(p.Budget.GetUpdateTime())
		r, err = record(BudgetFromProto(p.Budget))
	case *storev1.Control_Catalog:
		m.Updated = storedTime(p.Catalog.GetUpdateTime())
		r, err = record(CatalogFromProto(p.Catalog))
	case *storev1.Control_PriceBook:
		m.Created, m.Updated = storedTime(p.PriceBook.GetCreateTime()), storedTime(p.PriceBook.GetUpdateTime())
		r, err = record(PriceBookFromProto(p.PriceBook))
	case *storev1.Control_Policy:
		m.Updated = storedTime(p.Policy.GetUpdateTime())
		r, err = record(PolicyFromProto(p.Policy))
	case *storev1.Control_PolicyRevision:
		m.Created = storedTime(p.PolicyRevision.GetCreateTime())
		m.Updated = m.Created
		r, err = record(PolicyRevisionFromProto(p.PolicyRevision))
	default:
		err = errors.New("the control record is of a kind that this version does not know")
	}
	if err != nil {
		return nil, err
	}
	return charter.WithMeta(r, m), nil
}

func storedTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// record keeps the nil of a failed conversion a nil Record.
func record[R charter.Record](r R, err error) (charter.Record, error) {
	if err != nil {
		return nil, err
	}
	return r, nil
}
