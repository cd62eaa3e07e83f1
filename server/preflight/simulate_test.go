package preflight_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/simulate"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
)

// What the gate decides and what the simulation of the same policy decides is the same, to the nano, over days with
// downgrades, exhausted budgets, overflow allowances, keys, rollover and closed windows.
func TestSimulationDecidesAsTheGate(t *testing.T) {
	w := newWorld(t)
	c := w.company(150 * money.Unit / 1000)
	overflowing := *c
	overflowing.Exhausted = charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: 20 * money.Unit / 1000}
	thirsty := &charter.Charter{ID: "agents", Owner: charter.Owner{Name: "Ada"}, Team: "chat", Stage: charter.StagePilot, Budget: "runs"}
	runs := budget(t, "runs", "org", 60*money.Unit/1000)
	runs.Per = charter.PerUser
	org := budget(t, "org", "", 700*money.Unit/1000)
	org.RolloverCap = 300 * money.Unit / 1000
	window, err := charter.NewPeriod(charter.Window, "", noon, noon.AddDate(0, 0, 2))
	if err != nil {
		t.Fatal(err)
	}
	event := budget(t, "event", "", money.Unit)
	event.Period = window
	w.apply(org, runs, event, &overflowing, thirsty,
		&charter.Charter{ID: "event", Owner: charter.Owner{Name: "Ada"}, Team: "chat", Stage: charter.StagePilot, Budget: "event"})

	random := rand.New(rand.NewPCG(1, 2))
	classes := []string{"chat", "classify", "code", ""}
	var calls []simulate.Call
	effects := map[routing.Effect]int{}
	overflowed := 0
	for day := range 3 {
		if day > 0 {
			w.clock.advance(24 * time.Hour)
		}
		for range 150 {
			c := &routing.Call{
				Feature: []string{"chat", "agents", "event"}[random.IntN(3)], User: fmt.Sprintf("u%d", random.IntN(4)),
				TaskClass: classes[random.IntN(len(classes))], Complexity: int32(random.IntN(3) * 40),
				Estimate: routing.Estimate{InputTokens: random.Int64N(3000), MaxOutputTokens: 1 + random.Int64N(1500)},
			}
			now := w.clock.Now()
			d, h := w.reserve(c)
			if h != nil {
				w.settle(h.Token, c.Estimate.InputTokens, d.MaxOutputTokens)
			}
			effects[d.Effect]++
			a := decided(d)
			if a.Overflow {
				overflowed++
			}
			calls = append(calls, simulate.Call{Time: now, Call: c, Decided: a})
		}
	}
	if effects[routing.Allow] == 0 || effects[routing.Downgrade] == 0 || effects[routing.Deny] == 0 || overflowed == 0 {
		t.Fatalf("the calls are too tame: %v, %d paid by the overflow allowance", effects, overflowed)
	}

	decider, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	s := simulate.New(simulate.Config{Snapshot: w.control.Snapshot(), Candidate: decider})
	for i := range calls {
		if err := s.Step(context.Background(), &calls[i]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Result()
	if err != nil {
		t.Fatal(err)
	}
	if r.Decisions != 450 || r.Changed != 0 || r.Failed != 0 || r.Skipped != 0 {
		t.Errorf("%d decisions, %d changed, %d failed, %d skipped: %+v", r.Decisions, r.Changed, r.Failed, r.Skipped, r.Differences)
	}
	byName := map[string]simulate.Spend{}
	for _, b := range append(r.Features, r.Budgets...) {
		byName[b.Name] = b
		if b.Cost[0] != b.Cost[1] || b.Ran[0] != b.Ran[1] {
			t.Errorf("%s: as decided %s, with the same policy %s", b.Name, b.Cost[0], b.Cost[1])
		}
		if !b.Exhausted[0].Equal(b.Exhausted[1]) {
			t.Errorf("%s ran out at %s, with the same policy at %s", b.Name, b.Exhausted[0], b.Exhausted[1])
		}
	}
	sum := byName["budgets/runs/keys/u0"].Cost[1] + byName["budgets/runs/keys/u1"].Cost[1] + byName["budgets/runs/keys/u2"].Cost[1] + byName["budgets/runs/keys/u3"].Cost[1]
	chat := byName["budgets/chat"].Cost[1] + byName["budgets/chat/overflow/chat"].Cost[1]
	if sum == 0 || sum != byName["charters/agents"].Cost[1] || chat != byName["charters/chat"].Cost[1] ||
		byName["charters/event"].Cost[1] != byName["budgets/event"].Cost[1] || sum+chat != byName["budgets/org"].Cost[1] {
		t.Errorf("features, leaves and the root do not agree: %+v", byName)
	}
	// The ledger's own sums: of the last day, and over all days by what it settled.
	today := simulate.New(simulate.Config{Snapshot: w.control.Snapshot(), Candidate: decider})
	for i := range calls[300:] {
		if err := today.Step(context.Background(), &calls[300+i]); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = today.Result(); err != nil {
		t.Fatal(err)
	}
	for _, b := range r.Budgets {
		if b.Name == "budgets/event" {
			continue // its window began before
		}
		if st := w.status(b.Name); st.Settled != b.Cost[0] {
			t.Errorf("%s: settled %s, as decided %s", b.Name, st.Settled, b.Cost[0])
		}
	}
}

// decided is an answer of the gate as the simulation takes it.
func decided(d *preflight.Decision) *simulate.Answer {
	a := &simulate.Answer{Effect: d.Effect, Tier: d.Tier, Model: d.Model, MaxOutputTokens: d.MaxOutputTokens, TrimContextToTokens: d.TrimContextToTokens, PromptCache: d.PromptCache, Cost: d.Cost}
	for _, r := range d.Reasons {
		a.Reasons = append(a.Reasons, r.Message)
		switch r.Code {
		case preflight.CodeOverflow:
			a.Overflow, a.Exhausted = true, simulate.BudgetOf(r.Budget)
		case preflight.CodeBudgetExhausted, preflight.CodeTrickleLimit:
			a.Exhausted = simulate.BudgetOf(r.Budget)
		}
	}
	return a
}
