package server

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// spend is what clients were told: by account, what was settled and what of it was forced.
type spend struct {
	mu              sync.Mutex
	settled, forced map[string]int64
	late, refused   int
}

func (s *spend) add(account string, x *chartergatev1.Settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled[account] += x.CostNanos
	s.forced[account] += x.ForcedNanos
	if x.Late {
		s.late++
	}
}

// adds checks that a settlement is whole in itself.
func adds(t *testing.T, x *chartergatev1.Settlement) {
	t.Helper()
	lines := int64(0)
	for _, l := range x.Lines {
		lines += l.CostNanos
	}
	if lines != x.CostNanos || x.Late && x.ForcedNanos != x.CostNanos || x.ForcedNanos > x.CostNanos || x.ForcedNanos > 0 && x.ReleasedNanos > 0 {
		t.Errorf("a settlement does not add up: %v", x)
	}
}

// leafOf is the account that a decision charges first.
func leafOf(call *chartergatev1.Call, d *chartergatev1.Decision) string {
	for _, r := range d.GetReasons() {
		if r.Code == chartergatev1.ReasonCode_REASON_CODE_OVERFLOW {
			return r.Budget
		}
	}
	if call.Feature == "agents" {
		return "budgets/each/keys/" + call.User
	}
	return "budgets/support"
}

// The sum of what clients were told equals what each budget of the path says, to the nano, and a parent is the sum of
// its children and their overflow allowances: over calls side by side that end in every way there is.
func TestSumsTakenTwoWays(t *testing.T) {
	g := startGate(t)
	g.apply(t, daily("acme", "", 1e12), daily("sales", "acme", 1e12), daily("support", "sales", 60_000_000), daily("each", "acme", 20_000_000, perKey(chartergatev1.BudgetKey_BUDGET_KEY_USER)),
		allTiers("chat", "support", exhausted(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE, 30_000_000, 0)), allTiers("agents", "each"))
	told := &spend{settled: map[string]int64{}, forced: map[string]int64{}}
	var expiring sync.Map // token -> account
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			for i := range 40 {
				if err := g.spendOne(t, told, &expiring, random, fmt.Sprintf("%d-%d", worker, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	g.clock.advance(3 * time.Minute)
	eventually(t, "what expired is freed", func() bool { return g.status(t, "budgets/acme").HeldNanos == 0 })
	expiring.Range(func(token, account any) bool {
		late := g.settle(t, token.(string), used(777, 33))
		adds(t, late)
		told.add(account.(string), late)
		return true
	})

	sums := map[string][2]int64{}
	add := func(name string, settled, forced int64) {
		sums[name] = [2]int64{sums[name][0] + settled, sums[name][1] + forced}
	}
	overflows := 0
	for leaf, settled := range told.settled {
		add(leaf, settled, told.forced[leaf])
		add("budgets/acme", settled, told.forced[leaf])
		if strings.HasPrefix(leaf, "budgets/support") {
			add("budgets/sales", settled, told.forced[leaf])
		}
		if strings.Contains(leaf, "/overflow/") {
			overflows++
		}
	}
	if told.late == 0 || told.refused == 0 || overflows == 0 || sums["budgets/acme"][1] == 0 || len(sums) < 6 {
		t.Errorf("not every way was gone: %d late, %d refused, sums %v", told.late, told.refused, sums)
	}
	children := map[string]int64{}
	for _, st := range g.statuses(t, &chartergatev1.ListBudgetStatusesRequest{}) {
		if want := sums[st.Name]; st.SettledNanos != want[0] || st.ForcedNanos != want[1] || st.HeldNanos != 0 {
			t.Errorf("%s has settled %d, forced %d, held %d; clients were told %d and %d", st.Name, st.SettledNanos, st.ForcedNanos, st.HeldNanos, want[0], want[1])
		}
		if st.SettledNanos+st.HeldNanos > st.LimitNanos+st.ForcedNanos {
			t.Errorf("%s is over its ceiling: %v", st.Name, st)
		}
		switch {
		case strings.HasPrefix(st.Name, "budgets/support"):
			children["budgets/sales"] += st.SettledNanos
		case strings.HasPrefix(st.Name, "budgets/each") || st.Name == "budgets/sales":
			children["budgets/acme"] += st.SettledNanos
		}
	}
	for parent, sum := range children {
		if st := g.status(t, parent); st.SettledNanos != sum {
			t.Errorf("%s has settled %d, its children %d", parent, st.SettledNanos, sum)
		}
	}
}

// spendOne makes one call and ends it in one of the ways there are.
func (g *gateRig) spendOne(t *testing.T, told *spend, expiring *sync.Map, random *rand.Rand, id string) error {
	call := aCall(random.Int64N(2000), 1+random.Int64N(500))
	if random.IntN(2) == 0 {
		call.Feature, call.User = "agents", fmt.Sprintf("u%d", random.IntN(3))
	}
	usage := used(call.Estimate.InputTokens, random.Int64N(call.Estimate.MaxOutputTokens+1))
	if random.IntN(20) == 0 {
		req := &chartergatev1.RecordUsageRequest{Feature: call.Feature, User: call.User, Model: "small", Usage: usage, RequestId: id}
		resp, err := g.usage.RecordUsage(t.Context(), req)
		if err == nil {
			adds(t, resp.Settlement)
			told.add(leafOf(call, nil), resp.Settlement)
		}
		return err
	}
	resp, err := g.preflight.Reserve(t.Context(), &chartergatev1.ReserveRequest{Call: call})
	if err != nil {
		return err
	}
	if resp.Hold == nil {
		told.mu.Lock()
		told.refused++
		told.mu.Unlock()
		return nil
	}
	token, account := resp.Hold.Token, leafOf(call, resp.Decision)
	switch random.IntN(10) {
	case 0:
		return g.tryRelease(t, token)
	case 1:
		expiring.Store(token, account)
		return nil
	case 2: // above the hold
		usage.OutputTokens = call.Estimate.MaxOutputTokens + 1 + random.Int64N(1000)
	case 3:
		x, err := g.preflight.Extend(t.Context(), &chartergatev1.ExtendRequest{Hold: token, Ttl: durationpb.New(maxHold)})
		if err != nil {
			return err
		}
		token = x.Hold.Token
	}
	done, err := g.preflight.Settle(t.Context(), &chartergatev1.SettleRequest{Hold: token, Usage: usage})
	if err != nil {
		return err
	}
	adds(t, done.Settlement)
	told.add(account, done.Settlement)
	if random.IntN(2) == 0 { // it counts once
		return g.trySettle(t, token, "", usage)
	}
	return nil
}
