package server

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

func (g *gateRig) statuses(t *testing.T, req *chartergatev1.ListBudgetStatusesRequest) []*chartergatev1.BudgetStatus {
	t.Helper()
	var all []*chartergatev1.BudgetStatus
	for {
		resp, err := g.budgets.ListBudgetStatuses(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if size := int(req.PageSize); size > 0 && len(resp.Statuses) > size || len(resp.Statuses) == 0 && req.PageToken != "" {
			t.Fatalf("a page has %d statuses", len(resp.Statuses))
		}
		all = append(all, resp.Statuses...)
		if req.PageToken = resp.NextPageToken; req.PageToken == "" {
			return all
		}
	}
}

func namesOf(statuses []*chartergatev1.BudgetStatus) (names []string) {
	for _, st := range statuses {
		names = append(names, st.Name)
	}
	return names
}

// oddKeys are keys that names, pages and paths could stumble over.
var oddKeys = []string{"u1", "a/b", "a:b", "50%", "Zoë", "..", "with space", "keys/overflow", strings.Repeat("k", 128), strings.Repeat("語", 42)}

// tree applies acme > (support per charter chat with an overflow allowance, each per user) and beside it another root,
// and makes every account of them seen.
func (g *gateRig) tree(t *testing.T) {
	t.Helper()
	g.apply(t, daily("acme", "", 1e12), daily("support", "acme", 2_000_000), daily("each", "acme", 1e9, perKey(chartergatev1.BudgetKey_BUDGET_KEY_USER)),
		daily("zeta", "", 1e9), daily("support-b", "acme", 1e9),
		allTiers("chat", "support", exhausted(chartergatev1.ExhaustedMode_EXHAUSTED_MODE_DOWNGRADE, 1e9, 0)), allTiers("agents", "each"))
	g.settle(t, g.hold(t, aCall(1000, 500)), used(1000, 500))
	g.settle(t, g.hold(t, aCall(1000, 500)), used(500, 0)) // by the allowance
	for i, key := range oddKeys {
		call := aCall(1000, 500)
		call.Feature, call.User = "agents", key
		g.settle(t, g.hold(t, call), used(int64(i+1), 0))
	}
}

func (g *gateRig) treeNames() []string {
	names := []string{"budgets/acme"}
	keys := slices.Clone(oddKeys)
	slices.Sort(keys)
	for _, key := range keys {
		names = append(names, "budgets/each/keys/"+key)
	}
	return append(names, "budgets/support", "budgets/support/overflow/chat", "budgets/support-b", "budgets/zeta")
}

func TestBudgetStatuses(t *testing.T) {
	g := startGate(t)
	g.tree(t)
	all := g.treeNames()
	if got := namesOf(g.statuses(t, &chartergatev1.ListBudgetStatusesRequest{})); !slices.Equal(got, all) {
		t.Errorf("statuses are\n%q, want\n%q", got, all)
	}
	for size := range int32(len(all) + 1) {
		if got := namesOf(g.statuses(t, &chartergatev1.ListBudgetStatusesRequest{PageSize: size + 1})); !slices.Equal(got, all) {
			t.Errorf("in pages of %d they are\n%q, want\n%q", size+1, got, all)
		}
	}
	for budget, want := range map[string][]string{
		"budgets/acme": all[:len(all)-1], "budgets/support": {"budgets/support", "budgets/support/overflow/chat"},
		"budgets/support-b": {"budgets/support-b"}, "budgets/each": all[1 : 1+len(oddKeys)],
	} {
		for _, size := range []int32{0, 1, 2} {
			if got := namesOf(g.statuses(t, &chartergatev1.ListBudgetStatusesRequest{Budget: budget, PageSize: size})); !slices.Equal(got, want) {
				t.Errorf("under %s in pages of %d are\n%q, want\n%q", budget, size, got, want)
			}
		}
	}
	for _, listed := range g.statuses(t, &chartergatev1.ListBudgetStatusesRequest{}) {
		if st := g.status(t, listed.Name); !proto.Equal(st, listed) {
			t.Errorf("alone it is\n%v, in the list\n%v", st, listed)
		}
	}
	for i, key := range oddKeys {
		st := g.status(t, "budgets/each/keys/"+key)
		if st.SettledNanos != int64(i+1)*1000 || st.LimitNanos != 1e9 || st.Period != "2026-11-23" || st.Currency != "USD" ||
			!st.StartTime.AsTime().Equal(noon.Add(-12*time.Hour)) || !st.EndTime.AsTime().Equal(noon.Add(12*time.Hour)) {
			t.Errorf("key %q is %v", key, st)
		}
	}
	// A key that has spent nothing has its whole ceiling.
	if st := g.status(t, "budgets/each/keys/nobody"); st.RemainingNanos != 1e9 || st.SettledNanos != 0 {
		t.Errorf("a new key is %v", st)
	}
	// Another day, another ceiling: what is kept is of that day.
	g.clock.advance(24 * time.Hour)
	if st := g.status(t, "budgets/support"); st.SettledNanos != 0 || st.Period != "2026-11-24" || len(st.Alerts) != 0 {
		t.Errorf("the next day is %v", st)
	}
}

func TestBudgetStatusesThatAreNotThere(t *testing.T) {
	g := startGate(t)
	g.tree(t)
	missing := chartergatev1.ErrorReason_ERROR_REASON_NOT_FOUND
	for name, says := range map[string]string{
		"budgets/ghost": "budgets/ghost does not exist", "budgets/ghost/keys/a": "budgets/ghost", "budgets/each": "name budgets/each/keys/{user}",
		"budgets/support/keys/a": "budgets/support/keys/a", "budgets/support/overflow/agents": "overflow/agents",
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, second(g.budgets.GetBudgetStatus(t.Context(), &chartergatev1.GetBudgetStatusRequest{Name: name})), codes.NotFound, missing, nil, says)
		})
	}
	ghost := map[string]string{"resource": "budgets/ghost"}
	refused(t, second(g.budgets.ListBudgetStatuses(t.Context(), &chartergatev1.ListBudgetStatusesRequest{Budget: "budgets/ghost"})), codes.NotFound, missing, ghost, "does not exist")
	refused(t, second(g.budgets.ListBudgetAlerts(t.Context(), &chartergatev1.ListBudgetAlertsRequest{Budget: "budgets/ghost"})), codes.NotFound, missing, ghost, "does not exist")
	w, err := g.budgets.WatchBudgetStatuses(t.Context(), &chartergatev1.WatchBudgetStatusesRequest{Budget: "budgets/ghost"})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, second(w.Recv()), codes.NotFound, missing, ghost, "does not exist")

	page := map[string]string{"field": "page_token"}
	for name, token := range map[string]string{"not base64": "%%%", "not a name": base64.RawURLEncoding.EncodeToString([]byte("charters/chat"))} {
		t.Run("a page token that is "+name, func(t *testing.T) {
			refused(t, second(g.budgets.ListBudgetStatuses(t.Context(), &chartergatev1.ListBudgetStatusesRequest{PageToken: token})),
				codes.InvalidArgument, invalidReason, page, "send next_page_token of the last response")
			refused(t, second(g.budgets.ListBudgetAlerts(t.Context(), &chartergatev1.ListBudgetAlertsRequest{PageToken: token})),
				codes.InvalidArgument, invalidReason, page, "send next_page_token of the last response")
		})
	}
	refused(t, second(g.budgets.ListBudgetStatuses(t.Context(), &chartergatev1.ListBudgetStatusesRequest{PageSize: 1001})), codes.InvalidArgument, invalidReason,
		map[string]string{"field": "page_size"}, "page_size")
}

// First all, then what changed and nothing else.
func TestWatchBudgetStatuses(t *testing.T) {
	g := startGate(t)
	g.tree(t)
	w, err := g.budgets.WatchBudgetStatuses(soon(t), &chartergatev1.WatchBudgetStatusesRequest{Budget: "budgets/acme"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if all := g.treeNames(); !slices.Equal(namesOf(first.Statuses), all[:len(all)-1]) {
		t.Errorf("first come %q", namesOf(first.Statuses))
	}
	call := aCall(1000, 500)
	call.Feature, call.User = "agents", "new"
	token := g.hold(t, call)
	seen := map[string]*chartergatev1.BudgetStatus{}
	until := func(what string, ok func() bool) {
		t.Helper()
		for !ok() {
			resp, err := w.Recv()
			if err != nil {
				t.Fatalf("waiting until %s: %v", what, err)
			}
			for _, st := range resp.Statuses {
				seen[st.Name] = st
			}
		}
	}
	until("the hold is seen", func() bool {
		return seen["budgets/each/keys/new"].GetHeldNanos() == 2_000_000 && seen["budgets/acme"].GetHeldNanos() == 2_000_000
	})
	g.settle(t, token, used(1000, 0))
	until("the settlement is seen", func() bool {
		return seen["budgets/each/keys/new"].GetSettledNanos() == 1_000_000 && seen["budgets/each/keys/new"].GetHeldNanos() == 0 &&
			seen["budgets/acme"].GetHeldNanos() == 0
	})
	g.chatLimit(t, "support", 9_000_000)
	until("the new ceiling is seen", func() bool { return seen["budgets/support"].GetLimitNanos() == 9_000_000 })
	for name := range seen {
		if name != "budgets/each/keys/new" && name != "budgets/acme" && name != "budgets/support" {
			t.Errorf("%s came again without a change", name)
		}
	}
}

func (g *gateRig) chatLimit(t *testing.T, id string, limit int64) {
	t.Helper()
	b, err := g.budgets.GetBudget(t.Context(), &chartergatev1.GetBudgetRequest{Name: "budgets/" + id})
	if err != nil {
		t.Fatal(err)
	}
	b.LimitNanos = limit
	if _, err := g.budgets.UpdateBudget(t.Context(), &chartergatev1.UpdateBudgetRequest{Budget: b}); err != nil {
		t.Fatal(err)
	}
}

// Each threshold is recorded once, the newest first, with what the budget was then.
func TestBudgetAlerts(t *testing.T) {
	g := startGate(t)
	g.apply(t, daily("acme", "", 1e12), daily("each", "acme", 10_000_000, perKey(chartergatev1.BudgetKey_BUDGET_KEY_USER), func(b *chartergatev1.Budget) {
		b.AlertThresholdsPermille = []int32{100, 500, 1000}
	}), allTiers("agents", "each"))
	var want []string
	for _, key := range oddKeys {
		for _, step := range []struct{ spend, threshold int64 }{{1_000_000, 100}, {500_000, 0}, {4_000_000, 500}, {4_500_000, 1000}} {
			g.clock.advance(time.Second)
			call := aCall(step.spend/1000, 0)
			call.Feature, call.User, call.Estimate.MaxOutputTokens = "agents", key, 1
			resp := g.reserve(t, call)
			if resp.Hold == nil { // the last one does not fit by the one token out
				if _, err := g.usage.RecordUsage(t.Context(), &chartergatev1.RecordUsageRequest{
					Feature: "agents", User: key, Model: "small", Usage: used(step.spend/1000, 0), RequestId: fmt.Sprintf("%.40s", base64.RawURLEncoding.EncodeToString([]byte(key))),
				}); err != nil {
					t.Fatal(err)
				}
			} else {
				g.settle(t, resp.Hold.Token, used(step.spend/1000, 0))
			}
			if step.threshold > 0 {
				want = append(want, fmt.Sprintf("budgets/each/keys/%s %d", key, step.threshold))
			}
		}
	}
	slices.Reverse(want)
	list := func(budget string, size int32) (got []string, alerts []*chartergatev1.BudgetAlert) {
		req := &chartergatev1.ListBudgetAlertsRequest{Budget: budget, PageSize: size}
		for {
			resp, err := g.budgets.ListBudgetAlerts(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range resp.Alerts {
				got, alerts = append(got, fmt.Sprintf("%s %d", a.Budget, a.ThresholdPermille)), append(alerts, a)
			}
			if req.PageToken = resp.NextPageToken; req.PageToken == "" {
				return got, alerts
			}
		}
	}
	eventually(t, "all alerts are recorded", func() bool { got, _ := list("", 0); return len(got) >= len(want) })
	for _, budget := range []string{"", "budgets/each"} {
		for _, size := range []int32{0, 1, 2, 7, int32(len(want))} {
			if got, _ := list(budget, size); !slices.Equal(got, want) {
				t.Errorf("alerts of %q in pages of %d are\n%q, want\n%q", budget, size, got, want)
			}
		}
	}
	if got, _ := list("budgets/acme", 0); len(got) != 0 {
		t.Errorf("acme has alerts: %q", got)
	}
	_, alerts := list("", 0)
	newest := alerts[0]
	if newest.SettledNanos != 10_000_000 || newest.LimitNanos != 10_000_000 || newest.Owner.GetEmail() != "dana@example.com" ||
		newest.Period != "2026-11-23" || !newest.CreateTime.AsTime().Equal(g.clock.Now()) {
		t.Errorf("the newest is %v", newest)
	}
	if st := g.status(t, newest.Budget); len(st.Alerts) != 3 || !proto.Equal(st.Alerts[0], newest) {
		t.Errorf("the budget's status has the alerts %v", st.Alerts)
	}
}
