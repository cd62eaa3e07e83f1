package replay

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Path tells how every budget of a feature's path stands, from the leaf to the root: for a `per` budget each key that
// was seen, and the feature's overflow allowance if it has one.
func Path(ctx context.Context, charters pb.CharterServiceClient, budgets pb.BudgetServiceClient, feature string) ([]BudgetStanding, error) {
	charter, err := charters.GetCharter(ctx, &pb.GetCharterRequest{Name: "charters/" + feature})
	if err != nil {
		return nil, fmt.Errorf("charter of %s: %w", feature, err)
	}
	var path []BudgetStanding
	for name := charter.GetBudget(); name != ""; {
		b, err := budgets.GetBudget(ctx, &pb.GetBudgetRequest{Name: name})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		statuses, err := budgetStatuses(ctx, budgets, b)
		if err != nil {
			return nil, fmt.Errorf("status of %s: %w", name, err)
		}
		path = append(path, statuses...)
		if name == charter.GetBudget() && charter.GetExhausted().GetOverflowAllowanceNanos() > 0 {
			overflow, err := budgets.GetBudgetStatus(ctx, &pb.GetBudgetStatusRequest{Name: name + "/overflow/" + feature})
			switch {
			case err == nil:
				path = append(path, standing(overflow))
			case status.Code(err) != codes.NotFound:
				return nil, fmt.Errorf("overflow of %s: %w", name, err)
			}
		}
		name = b.GetParent()
	}
	return path, nil
}

// Paths is Path of several features; a budget that is in several of their paths is told once.
func Paths(ctx context.Context, charters pb.CharterServiceClient, budgets pb.BudgetServiceClient, features []string) (all []BudgetStanding, err error) {
	told := map[string]bool{}
	for _, feature := range features {
		path, err := Path(ctx, charters, budgets, feature)
		if err != nil {
			return nil, err
		}
		for _, b := range path {
			if !told[b.Name] {
				told[b.Name] = true
				all = append(all, b)
			}
		}
	}
	return all, nil
}

func budgetStatuses(ctx context.Context, budgets pb.BudgetServiceClient, b *pb.Budget) ([]BudgetStanding, error) {
	if b.GetPer() == pb.BudgetKey_BUDGET_KEY_UNSPECIFIED {
		s, err := budgets.GetBudgetStatus(ctx, &pb.GetBudgetStatusRequest{Name: b.GetName()})
		if err != nil {
			return nil, err
		}
		return []BudgetStanding{standing(s)}, nil
	}
	var keys []BudgetStanding
	for token := ""; ; {
		page, err := budgets.ListBudgetStatuses(ctx, &pb.ListBudgetStatusesRequest{Budget: b.GetName(), PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, s := range page.GetStatuses() {
			if strings.HasPrefix(s.GetName(), b.GetName()+"/keys/") {
				keys = append(keys, standing(s))
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return keys, nil
		}
	}
}

func standing(s *pb.BudgetStatus) BudgetStanding {
	return BudgetStanding{
		Name: s.GetName(), Period: s.GetPeriod(), Currency: s.GetCurrency(), LimitNanos: s.GetLimitNanos(),
		SettledNanos: s.GetSettledNanos(), ForcedNanos: s.GetForcedNanos(), HeldNanos: s.GetHeldNanos(),
		RemainingNanos: s.GetRemainingNanos(), Alerts: len(s.GetAlerts()),
	}
}
