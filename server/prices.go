package server

import (
	"context"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

type priceService struct {
	chartergatev1.UnimplementedPriceServiceServer
	kind[*charter.PriceBook, *chartergatev1.PriceBook]
	now  func() time.Time
	sums UsageSums // nil: no traffic is known
	past Restater  // nil: settlements cannot be restated
}

func newPriceService(control store.Control, v *Validator, now func() time.Time, sums UsageSums, past Restater) *priceService {
	return &priceService{now: now, sums: sums, past: past, kind: kind[*charter.PriceBook, *chartergatev1.PriceBook]{
		control: control, validator: v, collection: "priceBooks/", all: (*charter.Snapshot).PriceBooks,
		toProto: convert.PriceBookToProto, fromProto: convert.PriceBookFromProto,
	}}
}

func (s *priceService) CreatePriceBook(ctx context.Context, req *chartergatev1.CreatePriceBookRequest) (*chartergatev1.PriceBook, error) {
	return s.create(ctx, req.PriceBook, req.ValidateOnly)
}

func (s *priceService) GetPriceBook(_ context.Context, req *chartergatev1.GetPriceBookRequest) (*chartergatev1.PriceBook, error) {
	return s.get(req.Name)
}

func (s *priceService) ListPriceBooks(_ context.Context, req *chartergatev1.ListPriceBooksRequest) (*chartergatev1.ListPriceBooksResponse, error) {
	list, next, err := s.list(req.PageSize, req.PageToken)
	return &chartergatev1.ListPriceBooksResponse{PriceBooks: list, NextPageToken: next}, err
}

func (s *priceService) UpdatePriceBook(ctx context.Context, req *chartergatev1.UpdatePriceBookRequest) (*chartergatev1.PriceBook, error) {
	return s.update(ctx, req.PriceBook, nil, req.ValidateOnly)
}

func (s *priceService) DeletePriceBook(ctx context.Context, req *chartergatev1.DeletePriceBookRequest) (*chartergatev1.DeletePriceBookResponse, error) {
	return &chartergatev1.DeletePriceBookResponse{}, s.delete(ctx, req.Name, req.Etag, req.ValidateOnly)
}

func (s *priceService) LookupPrice(_ context.Context, req *chartergatev1.LookupPriceRequest) (*chartergatev1.Price, error) {
	at := s.now()
	if req.Time != nil {
		if !req.Time.IsValid() {
			return nil, invalid("time", "is not a time between the years 1 and 9999")
		}
		at = req.Time.AsTime()
	}
	prices := s.control.Snapshot().Prices()
	price, err := prices.For(req.Model, pricing.Terms{ServiceTier: req.ServiceTier, Region: req.Region, Time: at})
	if err == nil && req.Currency != "" {
		price, err = prices.In(price, req.Currency, at)
	}
	if err != nil {
		return nil, err
	}
	return convert.PriceToProto(price), nil
}
