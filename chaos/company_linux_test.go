package chaos

import (
	"strings"

	"github.com/chartergate/chartergate/chaos/oracle"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// company has a hot organisation budget over two teams, a team with a budget of its own, a ceiling for each user, a feature
// with an overflow allowance, and one whose holds are charged when they expire. Prices do not come out even, so that
// rounding shows.
const company = `
kind: Catalog
tiers: [{id: economy}, {id: standard}]
models:
  - {id: small, provider: p, tier: economy, capabilities: [chat], context_tokens: 400_000, max_output_tokens: 64_000}
  - {id: large, provider: p, tier: standard, capabilities: [chat], context_tokens: 400_000, max_output_tokens: 64_000}
---
kind: PriceBook
name: book
currency: USD
prices:
  - {model: small, effective_time: 2026-01-01, input: 0.212345678, cache_read: 0.021234567, output: 1.250011113, source: test}
  - {model: large, effective_time: 2026-01-01, input: 0.754321987, cache_read: 0.075432109, output: 4.500077771, source: test}
---
{kind: Budget, name: org, owner: {name: Ada}, limit: 0.10, currency: USD, period: {calendar: year}, alert_thresholds: [50%, 80%]}
---
{kind: Budget, name: team-a, parent: org, owner: {name: Ben}, limit: 1000, period: {calendar: year}}
---
{kind: Budget, name: team-b, parent: org, owner: {name: Cem}, limit: 1000, period: {calendar: year}}
---
{kind: Budget, name: team-c, owner: {name: Dea}, limit: 0.05, currency: USD, period: {calendar: year}}
---
{kind: Budget, name: people, owner: {name: Eli}, limit: 1000, currency: USD, period: {calendar: year}}
---
{kind: Budget, name: person, parent: people, owner: {name: Eli}, limit: 0.02, per: user, period: {calendar: year}}
---
{kind: Budget, name: platform, owner: {name: Fay}, limit: 1000, currency: USD, period: {calendar: year}}
---
{kind: Budget, name: copilot, parent: platform, owner: {name: Fay}, limit: 0.02, period: {calendar: year}}
---
{kind: Budget, name: agents, parent: org, owner: {name: Gil}, limit: 1000, period: {calendar: year}, on_expiry: charge}
---
{kind: Charter, name: chat-a, owner: {name: Ben}, team: t, stage: production, budget: team-a, permitted_tiers: [economy], exhausted: {mode: deny}}
---
{kind: Charter, name: chat-b, owner: {name: Cem}, team: t, stage: production, budget: team-b, permitted_tiers: [economy, standard], exhausted: {mode: deny}}
---
{kind: Charter, name: chat-c, owner: {name: Dea}, team: t, stage: production, budget: team-c, permitted_tiers: [economy, standard], exhausted: {mode: deny}}
---
{kind: Charter, name: helper, owner: {name: Eli}, team: t, stage: production, budget: person, permitted_tiers: [economy], exhausted: {mode: deny}}
---
{kind: Charter, name: copilot, owner: {name: Fay}, team: t, stage: production, budget: copilot, permitted_tiers: [economy],
 exhausted: {mode: downgrade, overflow_allowance: 0.03}}
---
{kind: Charter, name: agent, owner: {name: Gil}, team: t, stage: production, budget: agents, permitted_tiers: [economy], exhausted: {mode: deny}}
`

var rates = map[string]oracle.Rates{
	"small": {Input: 212_345_678, Cached: 21_234_567, Output: 1_250_011_113},
	"large": {Input: 754_321_987, Cached: 75_432_109, Output: 4_500_077_771},
}

// feature is what calls are made for, with its path and its share of all calls.
type feature struct {
	name   string
	path   []string
	charge bool
	share  int
}

var features = []feature{
	{"chat-a", []string{"budgets/team-a", "budgets/org"}, false, 30},
	{"chat-b", []string{"budgets/team-b", "budgets/org"}, false, 20},
	{"chat-c", []string{"budgets/team-c"}, false, 15},
	{"helper", []string{"budgets/person", "budgets/people"}, false, 15},
	{"copilot", []string{"budgets/copilot", "budgets/platform"}, false, 10},
	{"agent", []string{"budgets/agents", "budgets/org"}, true, 10},
}

// accounts are those that a hold is counted on, from the leaf to the root.
func (f *feature) accounts(user string, decision *pb.Decision) []string {
	list := append([]string(nil), f.path...)
	if list[0] == "budgets/person" {
		list[0] += "/keys/" + user
	}
	for _, r := range decision.GetReasons() {
		if r.GetCode() == pb.ReasonCode_REASON_CODE_OVERFLOW {
			list[0] += "/overflow/" + f.name
		}
	}
	return list
}

// fixedLimits are the ceilings that stay as the company has them, in nanos.
var fixedLimits = map[string]int64{
	"budgets/team-a": 1000e9, "budgets/team-b": 1000e9, "budgets/people": 1000e9, "budgets/platform": 1000e9, "budgets/agents": 1000e9,
	"budgets/copilot/overflow/copilot": 30_000_000,
}

// movedLimits are the ceilings that the treasurer moves, as they are at first, and by how much at a time: what some seconds
// of calls cost.
var movedLimits = map[string]struct{ first, step int64 }{
	"budgets/org": {100_000_000, 200_000_000}, "budgets/team-c": {50_000_000, 100_000_000},
	"budgets/person": {20_000_000, 20_000_000}, "budgets/copilot": {20_000_000, 30_000_000},
}

// thresholds are the alert thresholds of an account in per mille.
func thresholds(k oracle.AccountKey) []int32 {
	switch {
	case strings.Contains(k.Name, "/overflow/"):
		return nil
	case k.Name == "budgets/org":
		return []int32{500, 800}
	}
	return []int32{800}
}
