package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/proto/convert"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/store"
)

// BudgetStatuses are the methods of BudgetService that show how budgets stand.
type BudgetStatuses interface {
	GetBudgetStatus(context.Context, *chartergatev1.GetBudgetStatusRequest) (*chartergatev1.BudgetStatus, error)
	ListBudgetStatuses(context.Context, *chartergatev1.ListBudgetStatusesRequest) (*chartergatev1.ListBudgetStatusesResponse, error)
	WatchBudgetStatuses(*chartergatev1.WatchBudgetStatusesRequest, grpc.ServerStreamingServer[chartergatev1.WatchBudgetStatusesResponse]) error
	ListBudgetAlerts(context.Context, *chartergatev1.ListBudgetAlertsRequest) (*chartergatev1.ListBudgetAlertsResponse, error)
}

type budgetService struct {
	chartergatev1.UnsafeBudgetServiceServer
	BudgetStatuses
	kind[*charter.Budget, *chartergatev1.Budget]
}

func newBudgetService(control store.Control, v *Validator, statuses BudgetStatuses) *budgetService {
	return &budgetService{BudgetStatuses: statuses, kind: kind[*charter.Budget, *chartergatev1.Budget]{
		control: control, validator: v, collection: "budgets/", all: (*charter.Snapshot).Budgets,
		toProto: convert.BudgetToProto, fromProto: convert.BudgetFromProto,
		fill: func(s *charter.Snapshot, b *charter.Budget) { FillCurrency(s, nil, b) },
	}}
}

// FillCurrency gives a budget without a currency the one that it has, or its parent's, or USD. pending are budgets that
// are written together with it and do not stand in s yet.
func FillCurrency(s *charter.Snapshot, pending map[string]*charter.Budget, b *charter.Budget) {
	at := b
	for depth := 0; at != nil && depth < charter.MaxDepth; depth++ {
		if at.Currency != "" {
			b.Currency = at.Currency
			return
		}
		if old := s.Budget(at.ID); old != nil {
			b.Currency = old.Currency
			return
		}
		parent := at.Parent
		if at = pending[parent]; at == nil {
			at = s.Budget(parent)
		}
	}
	b.Currency = convert.DefaultCurrency
}

func (s *budgetService) CreateBudget(ctx context.Context, req *chartergatev1.CreateBudgetRequest) (*chartergatev1.Budget, error) {
	return s.create(ctx, req.Budget, req.ValidateOnly)
}

func (s *budgetService) GetBudget(_ context.Context, req *chartergatev1.GetBudgetRequest) (*chartergatev1.Budget, error) {
	return s.get(req.Name)
}

func (s *budgetService) ListBudgets(_ context.Context, req *chartergatev1.ListBudgetsRequest) (*chartergatev1.ListBudgetsResponse, error) {
	list, next, err := s.list(req.PageSize, req.PageToken)
	return &chartergatev1.ListBudgetsResponse{Budgets: list, NextPageToken: next}, err
}

func (s *budgetService) UpdateBudget(ctx context.Context, req *chartergatev1.UpdateBudgetRequest) (*chartergatev1.Budget, error) {
	return s.update(ctx, req.Budget, req.UpdateMask, req.ValidateOnly)
}

func (s *budgetService) DeleteBudget(ctx context.Context, req *chartergatev1.DeleteBudgetRequest) (*chartergatev1.DeleteBudgetResponse, error) {
	return &chartergatev1.DeleteBudgetResponse{}, s.delete(ctx, req.Name, req.Etag, req.ValidateOnly)
}
