package server

import (
	"context"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

type charterService struct {
	chartergatev1.UnimplementedCharterServiceServer
	kind[*charter.Charter, *chartergatev1.Charter]
}

func newCharterService(control store.Control, v *Validator) *charterService {
	return &charterService{kind: kind[*charter.Charter, *chartergatev1.Charter]{
		control: control, validator: v, collection: "charters/", all: (*charter.Snapshot).Charters,
		toProto: convert.CharterToProto, fromProto: convert.CharterFromProto,
	}}
}

func (s *charterService) CreateCharter(ctx context.Context, req *chartergatev1.CreateCharterRequest) (*chartergatev1.Charter, error) {
	return s.create(ctx, req.Charter, req.ValidateOnly)
}

func (s *charterService) GetCharter(_ context.Context, req *chartergatev1.GetCharterRequest) (*chartergatev1.Charter, error) {
	return s.get(req.Name)
}

func (s *charterService) ListCharters(_ context.Context, req *chartergatev1.ListChartersRequest) (*chartergatev1.ListChartersResponse, error) {
	list, next, err := s.list(req.PageSize, req.PageToken)
	return &chartergatev1.ListChartersResponse{Charters: list, NextPageToken: next}, err
}

func (s *charterService) UpdateCharter(ctx context.Context, req *chartergatev1.UpdateCharterRequest) (*chartergatev1.Charter, error) {
	return s.update(ctx, req.Charter, req.UpdateMask, req.ValidateOnly)
}

func (s *charterService) DeleteCharter(ctx context.Context, req *chartergatev1.DeleteCharterRequest) (*chartergatev1.DeleteCharterResponse, error) {
	return &chartergatev1.DeleteCharterResponse{}, s.delete(ctx, req.Name, req.Etag, req.ValidateOnly)
}
