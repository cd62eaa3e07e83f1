package server

import (
	"context"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

const catalogName = "catalog"

type catalogService struct {
	chartergatev1.UnimplementedCatalogServiceServer
	kind[*charter.Catalog, *chartergatev1.Catalog]
}

func newCatalogService(control store.Control, v *Validator) *catalogService {
	return &catalogService{kind: kind[*charter.Catalog, *chartergatev1.Catalog]{
		control: control, validator: v, toProto: convert.CatalogToProto, fromProto: convert.CatalogFromProto,
	}}
}

func (s *catalogService) GetCatalog(context.Context, *chartergatev1.GetCatalogRequest) (*chartergatev1.Catalog, error) {
	c := s.control.Snapshot().Catalog()
	if c == nil {
		return &chartergatev1.Catalog{Name: catalogName}, nil
	}
	return s.toProto(c), nil
}

func (s *catalogService) UpdateCatalog(ctx context.Context, req *chartergatev1.UpdateCatalogRequest) (*chartergatev1.Catalog, error) {
	return s.write(ctx, catalogName, req.ValidateOnly, func(now *charter.Snapshot) (*charter.Catalog, error) {
		if err := checkEtag(catalogName, req.Catalog.Etag, now.Record(catalogName)); err != nil {
			return nil, err
		}
		return s.fromProto(req.Catalog)
	})
}
