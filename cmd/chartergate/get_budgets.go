package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// statuses lists how budgets stand: those of one budget and below, or all.
func (r *request) statuses(ctx context.Context, budget string) ([]*pb.BudgetStatus, error) {
	return pages(func(token string) (*pb.ListBudgetStatusesResponse, error) {
		return r.client.Budgets.ListBudgetStatuses(ctx, &pb.ListBudgetStatusesRequest{Budget: budget, PageSize: pageSize, PageToken: token})
	}, (*pb.ListBudgetStatusesResponse).GetStatuses)
}

func getBudgets(ctx context.Context, r *request) error {
	all, err := pages(func(token string) (*pb.ListBudgetsResponse, error) {
		return r.client.Budgets.ListBudgets(ctx, &pb.ListBudgetsRequest{PageSize: pageSize, PageToken: token})
	}, (*pb.ListBudgetsResponse).GetBudgets)
	if err != nil {
		return err
	}
	var m proto.Message = &pb.ListBudgetsResponse{Budgets: all}
	if r.name != "" {
		one, err := r.client.Budgets.GetBudget(ctx, &pb.GetBudgetRequest{Name: r.name})
		if err != nil {
			return err
		}
		m = one
		if r.output == "yaml" {
			all = []*pb.Budget{one}
		}
	}
	resources := make([]*pb.Resource, len(all))
	for i, b := range all {
		resources[i] = &pb.Resource{Resource: &pb.Resource_Budget{Budget: b}}
	}
	g := newGrid("BUDGET", "OWNER", "PERIOD", "CURRENCY", ">LIMIT", ">SETTLED", ">HELD", ">REMAINING", ">USED", "ALERTS")
	if r.output == "table" {
		statuses, err := r.statuses(ctx, r.name)
		if err != nil {
			return err
		}
		budgetTree(g, all, statuses, r.name)
		g.notes = standingNotes(statuses)
	}
	return r.show(resources, m, g, "There are no budgets: create some with `chartergate apply -f`.")
}

// budgetTree adds each budget under its parent: the whole tree, or what is under root. The line of a `per` budget has
// the limit of each key, the sums of all, and how many keys have used theirs up.
func budgetTree(g *grid, budgets []*pb.Budget, statuses []*pb.BudgetStatus, root string) {
	status := map[string]*pb.BudgetStatus{}
	keys := map[string][]*pb.BudgetStatus{}
	for _, s := range statuses {
		status[s.GetName()] = s
		if budget, _, ok := strings.Cut(s.GetName(), "/keys/"); ok {
			keys[budget] = append(keys[budget], s)
		}
	}
	children := map[string][]*pb.Budget{}
	for _, b := range budgets {
		children[b.GetParent()] = append(children[b.GetParent()], b)
	}
	var add func(b *pb.Budget, indent string)
	add = func(b *pb.Budget, indent string) {
		id := indent + bareID(b.GetName())
		if s := status[b.GetName()]; b.GetPer() == pb.BudgetKey_BUDGET_KEY_UNSPECIFIED {
			g.add(id, b.GetOwner().GetName(), s.GetPeriod(), s.GetCurrency(), amount(s.GetLimitNanos()), amount(s.GetSettledNanos()),
				amount(s.GetHeldNanos()), amount(s.GetRemainingNanos()), percent(s.GetSettledNanos()+s.GetHeldNanos(), s.GetLimitNanos()), alertNames(s))
		} else {
			var settled, held, full int64
			for _, s := range keys[b.GetName()] {
				settled += s.GetSettledNanos()
				held += s.GetHeldNanos()
				if s.GetUtilizationPermille() >= 990 || s.GetRemainingNanos() == 0 {
					full++
				}
			}
			g.add(id, b.GetOwner().GetName(), periodName(b.GetPeriod()), b.GetCurrency(), amount(b.GetLimitNanos()), amount(settled), amount(held), "", "",
				fmt.Sprintf("limit for each %s; %s seen, %s used up", short(b.GetPer(), "BUDGET_KEY_"), thousands(int64(len(keys[b.GetName()]))), thousands(full)))
		}
		for _, c := range children[b.GetName()] {
			add(c, indent+"  ")
		}
	}
	for _, b := range budgets {
		if b.GetName() == root || root == "" && b.GetParent() == "" {
			add(b, "")
		}
	}
}

// mostQuarantined is how many accounts the notes name.
const mostQuarantined = 8

// quarantine tells which accounts hold money of a server that is gone. Empty when none does.
func quarantine(statuses []*pb.BudgetStatus) string {
	var held []string
	for _, s := range statuses {
		if n := s.GetQuarantinedNanos(); n > 0 {
			held = append(held, bareID(s.GetName())+" "+amount(n)+" "+s.GetCurrency())
		}
	}
	if len(held) == 0 {
		return ""
	}
	more := ""
	if n := len(held) - mostQuarantined; n > 0 {
		held, more = held[:mostQuarantined], fmt.Sprintf(" and %d more", n)
	}
	return "HELD includes money of a server that is gone, free again when its longest hold is over: " + strings.Join(held, ", ") + more + "."
}

func getStatus(ctx context.Context, r *request) error {
	var all []*pb.BudgetStatus
	var err error
	if strings.Count(r.name, "/") > 1 { // one key, or one overflow
		one, getErr := r.client.Budgets.GetBudgetStatus(ctx, &pb.GetBudgetStatusRequest{Name: r.name})
		all, err = []*pb.BudgetStatus{one}, getErr
	} else {
		all, err = r.statuses(ctx, r.name)
	}
	if err != nil {
		return err
	}
	g := newGrid("ACCOUNT", "PERIOD", "UNTIL", "CURRENCY", ">LIMIT", ">ROLLED OVER", ">SETTLED", ">FORCED", ">HELD", ">REMAINING", ">USED", "ALERTS")
	g.notes = standingNotes(all)
	for _, s := range all {
		g.add(bareID(s.GetName()), s.GetPeriod(), timeText(s.GetEndTime()), s.GetCurrency(), amount(s.GetLimitNanos()), amount(s.GetRolloverNanos()),
			amount(s.GetSettledNanos()), amount(s.GetForcedNanos()), amount(s.GetHeldNanos()), amount(s.GetRemainingNanos()),
			percent(s.GetSettledNanos()+s.GetHeldNanos(), s.GetLimitNanos()), alertNames(s))
	}
	return r.show(nil, &pb.ListBudgetStatusesResponse{Statuses: all}, g, "There are no accounts: no budget, or no key of it, has been used.")
}

func getAlerts(ctx context.Context, r *request) error {
	all, err := pages(func(token string) (*pb.ListBudgetAlertsResponse, error) {
		return r.client.Budgets.ListBudgetAlerts(ctx, &pb.ListBudgetAlertsRequest{Budget: r.name, PageSize: pageSize, PageToken: token})
	}, (*pb.ListBudgetAlertsResponse).GetAlerts)
	if err != nil {
		return err
	}
	g := newGrid("TIME", "ACCOUNT", "PERIOD", ">THRESHOLD", ">SETTLED", ">LIMIT", "OWNER")
	for _, a := range all {
		g.add(timeText(a.GetCreateTime()), bareID(a.GetBudget()), a.GetPeriod(), percent(int64(a.GetThresholdPermille()), 1000),
			amount(a.GetSettledNanos()), amount(a.GetLimitNanos()), ownerText(a.GetOwner()))
	}
	return r.show(nil, &pb.ListBudgetAlertsResponse{Alerts: all}, g, "There are no alerts.")
}
