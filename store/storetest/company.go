package storetest

import (
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/store"
)

// company is a record of every kind, in the order in which they could be created one by one. The last is a charter.
func company(t *testing.T) []charter.Record {
	t.Helper()
	acme := root(t, "acme", 1_000_000*money.Unit)
	support := root(t, "support", 20_000*money.Unit)
	support.Parent, support.Per, support.OnExpiry = "acme", charter.PerUser, charter.OnExpiryCharge
	support.RolloverCap, support.AlertThresholdsPermille = 500*money.Unit, []int32{500, 900}
	revision := func(policy, hash string) *charter.PolicyRevision {
		return &charter.PolicyRevision{
			Policy: policy, Hash: hash, Modules: map[string]string{"routing.rego": "package chartergate.routing\n"}, Message: "first",
			Author: "ada@example.com", Tests: 3,
		}
	}
	january := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	mini := pricing.New("gpt-4o-mini", january, "USD", map[pricing.Unit]money.Nanos{
		pricing.Input: 150_000_000, pricing.CacheRead: 75_000_000, pricing.Output: 600_000_000, pricing.Request: 0,
	})
	mini.Tools, mini.Source = map[string]money.Nanos{"web_search": 10_000 * money.Unit}, "https://openai.com/api/pricing"
	return []charter.Record{
		acme,
		support,
		&charter.Catalog{
			Tiers: []charter.Tier{{ID: "economy", Description: "small"}, {ID: "premium"}},
			Models: []charter.Model{{
				ID: "gpt-4o-mini", Provider: "openai", Tier: "economy", Capabilities: []string{"chat", "tools"},
				ContextTokens: 128_000, MaxOutputTokens: 16_384, Regions: []string{"eu-central-1"},
			}},
		},
		&charter.PriceBook{ID: "openai", Currency: "USD", Prices: []*pricing.Price{mini}},
		revision(charter.RoutingPolicy, "5f2a77c0d1e94b36"),
		&charter.Policy{ID: charter.RoutingPolicy, Active: "5f2a77c0d1e94b36"},
		revision("team.support", "5f2a77c0d1e94b37"),
		revision("team.support", "5f2a77c0d1e94b38"),
		&charter.Policy{
			ID: "team.support", Active: "5f2a77c0d1e94b37", Earlier: []string{"5f2a77c0d1e94b38"},
			Shadow: "5f2a77c0d1e94b38", ShadowPPM: 10_000,
		},
		&charter.Charter{
			ID: "support-copilot", DisplayName: "Support copilot", Owner: charter.Owner{Name: "Mira Keller", Email: "mira@example.com"},
			Team: "support", Stage: charter.StageProduction, Budget: "support",
			PermittedTiers: []string{"economy"}, PermittedModels: []string{"gpt-4o-mini"}, TargetCostPer1000: 40 * money.Unit,
			AlertThresholdsPermille: []int32{800, 950},
			Exhausted:               charter.Exhausted{Mode: charter.ExhaustedTrickle, OverflowAllowance: 100 * money.Unit, RequestsPerMinute: 30},
			Escalation:              []charter.EscalationStep{{Owner: charter.Owner{Name: "Finance"}, After: 2 * time.Hour}},
			Evaluations:             []charter.Evaluation{{Capability: "chat", Model: "gpt-4o-mini", Passed: true, ScorePermille: 930, Expires: january}},
			Labels:                  map[string]string{"cost-centre": "4711"}, FailMode: charter.FailStrictestTier,
		},
	}
}

func root(t *testing.T, id string, limit money.Nanos) *charter.Budget {
	t.Helper()
	month, err := charter.NewPeriod(charter.Month, "Europe/Zurich", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return &charter.Budget{
		ID: id, DisplayName: id, Owner: charter.Owner{Name: "Ada Bauer", Email: "ada@example.com"}, Limit: limit,
		Currency: "USD", Period: month, Labels: map[string]string{"entity": "acme-ag"},
	}
}

func set(records ...charter.Record) []charter.Change {
	changes := make([]charter.Change, len(records))
	for i, r := range records {
		changes[i] = charter.Set(r)
	}
	return changes
}

func just(changes ...charter.Change) func(*charter.Snapshot) ([]charter.Change, error) {
	return func(*charter.Snapshot) ([]charter.Change, error) { return changes, nil }
}

// commit makes changes and proves that the store gives the snapshot that holds them from then on.
func commit(t *testing.T, c store.Control, changes ...charter.Change) *charter.Snapshot {
	t.Helper()
	s, err := c.Commit(t.Context(), just(changes...))
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	if now := c.Snapshot(); now.Epoch < s.Epoch {
		t.Errorf("Snapshot is at epoch %d after a commit at %d", now.Epoch, s.Epoch)
	}
	return s
}

// await waits until a replica knows something, 10 seconds at most.
func await(t *testing.T, c store.Control, known func(*charter.Snapshot) bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	c.OnChange(func(*charter.Snapshot) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for !known(c.Snapshot()) {
		select {
		case <-changed:
		case <-deadline.C:
			t.Fatal("the replica does not know after 10 seconds")
		}
	}
}
