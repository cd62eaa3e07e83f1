package chaos

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/chartergate/chartergate/chaos/oracle"
	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// treasurer moves ceilings up when they are nearly used up, so that calls go on near them, and now and then down. It is the
// only one who does, one change after the other.
type treasurer struct {
	clients []*chartergate.Client
	random  *rand.Rand
	limits  []oracle.Limit
	raised  int
	lowered int
}

// treasurerEvery is how often it looks at a budget.
const treasurerEvery = 200 * time.Millisecond

func (t *treasurer) run(over <-chan struct{}) {
	names := make([]string, 0, len(movedLimits))
	for name := range movedLimits {
		names = append(names, name)
	}
	slices.Sort(names)
	tick := time.NewTicker(treasurerEvery)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-over:
			return
		case <-tick.C:
			t.visit(names[i%len(names)])
		}
	}
}

// visit looks at one budget on one replica, and changes its ceiling.
func (t *treasurer) visit(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c := t.clients[t.random.IntN(len(t.clients))]
	budget, err := c.Budgets.GetBudget(ctx, &pb.GetBudgetRequest{Name: name})
	if err != nil {
		return
	}
	page, err := c.Budgets.ListBudgetStatuses(ctx, &pb.ListBudgetStatusesRequest{Budget: name, PageSize: 1000})
	if err != nil {
		return
	}
	settled, taken := int64(0), int64(0) // of the key that has most
	for _, s := range page.GetStatuses() {
		if s.GetLimitNanos() == budget.GetLimitNanos() { // not an overflow allowance, or a budget below
			settled, taken = max(settled, s.GetSettledNanos()), max(taken, s.GetSettledNanos()+s.GetHeldNanos())
		}
	}
	step, limit := movedLimits[name].step, budget.GetLimitNanos()
	switch n := t.random.IntN(20); {
	case n == 0 && t.random.IntN(2) == 0: // below what is held
		limit = settled + (taken-settled)/2
	case n == 1 && t.random.IntN(3) == 0: // below what is settled
		limit = settled / 2
	case limit-taken < step/8 && n < 12:
		limit = taken + step
	}
	if limit == budget.GetLimitNanos() {
		return
	}
	next := oracle.Limit{Account: name, Nanos: limit, Start: now()}
	budget.LimitNanos = limit
	_, err = c.Budgets.UpdateBudget(ctx, &pb.UpdateBudgetRequest{Budget: budget, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limit_nanos"}}})
	switch status.Code(err) {
	case codes.OK:
		next.End = now()
		if limit > taken {
			t.raised++
		} else {
			t.lowered++
		}
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled: // perhaps; the etag keeps it from landing after the next
	default:
		return
	}
	t.limits = append(t.limits, next)
}
