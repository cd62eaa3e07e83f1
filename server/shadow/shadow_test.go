package shadow

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/policy"
	"github.com/chartergate/chartergate/server/preflight"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// follower is a decider as the command wires it.
type follower struct{ *policy.Decider }

func (f follower) Follow(s *charter.Snapshot) { f.Decider.Follow(s, slog.New(slog.DiscardHandler)) }

func deciderOf(t testing.TB, s *charter.Snapshot) follower {
	d, err := policy.NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	f := follower{d}
	f.Follow(s)
	return f
}

const always = `package chartergate.routing

decision := {"effect": "allow", "tiers": ["TIER"], "reasons": ["Always TIER."]}
`

func revision(id, tier string) *charter.PolicyRevision {
	m := map[string]string{"routing.rego": strings.ReplaceAll(always, "TIER", tier)}
	return &charter.PolicyRevision{Policy: id, Hash: policy.Hash(m), Modules: m}
}

func company(t testing.TB, policies ...charter.Record) *charter.Snapshot {
	t.Helper()
	day, err := charter.NewPeriod(charter.Day, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	model := func(id, tier string) charter.Model {
		return charter.Model{ID: id, Tier: tier, ContextTokens: 100_000, MaxOutputTokens: 10_000}
	}
	price := func(id string, factor money.Nanos) *pricing.Price {
		return pricing.New(id, noon.AddDate(-1, 0, 0), "USD", map[pricing.Unit]money.Nanos{pricing.Input: factor * money.Unit, pricing.Output: factor * money.Unit})
	}
	records := append([]charter.Record{
		&charter.Catalog{Tiers: []charter.Tier{{ID: "economy"}, {ID: "premium"}}, Models: []charter.Model{model("small", "economy"), model("large", "premium")}},
		&charter.PriceBook{ID: "lab", Currency: "USD", Prices: []*pricing.Price{price("small", 1), price("large", 10)}},
		&charter.Budget{ID: "chat", Limit: money.Unit, Currency: "USD", Period: day},
		&charter.Charter{ID: "chat", Team: "talk", Stage: charter.StageProduction, Budget: "chat"},
		&charter.Charter{ID: "other", Team: "else", Stage: charter.StageProduction, Budget: "chat"},
	}, policies...)
	var changes []charter.Change
	for _, r := range records {
		changes = append(changes, charter.Set(r))
	}
	s, err := new(charter.Snapshot).With(changes)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB, snap *charter.Snapshot) *Shadow {
	s := New(Config{
		Active: deciderOf(t, snap), Now: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler),
		Of: func(s *charter.Snapshot) (preflight.Decider, error) { return deciderOf(t, s), nil },
	})
	s.Follow(snap)
	return s
}

func input(snap *charter.Snapshot, feature string, n int) *routing.Input {
	return &routing.Input{
		Now: noon.Add(time.Duration(n) * time.Microsecond), Charter: snap.Charter(feature), Catalog: snap.Catalog(), Prices: snap.Prices(), Epoch: snap.Epoch,
		Call:    &routing.Call{Feature: feature, User: "ada", Task: "ticket-1", Estimate: routing.Estimate{InputTokens: 1000, MaxOutputTokens: 500}},
		Budgets: []routing.BudgetState{{ID: "chat", AlertPermille: 800, Budget: snap.Budget("chat")}},
	}
}

// drain decides what is queued.
func (s *Shadow) drain() {
	for len(s.queue) > 0 {
		j := <-s.queue
		s.decide(context.Background(), &j)
	}
}

var usd = &preflight.Decision{Currency: "USD"}

func TestShadowCountsWhatWouldDiffer(t *testing.T) {
	premium, economy, team := revision("routing", "premium"), revision("routing", "economy"), revision("team.talk", "economy")
	snap := company(t, premium, economy, team,
		&charter.Policy{ID: "routing", Active: premium.Hash, Shadow: economy.Hash, ShadowPPM: 1_000_000})
	s := start(t, snap)
	for n := range 10 {
		s.Decided(input(snap, "chat", n), usd)
	}
	s.drain()
	r := s.Report("routing")
	if r == nil || r.Calls != 10 || r.Differing != 10 || r.Failed != 0 || r.Dropped != 0 || len(r.Differences) != 1 {
		t.Fatalf("%+v", r)
	}
	d := r.Differences[0]
	if d.From.Model != "large" || d.To.Model != "small" || d.Calls != 10 || d.Cost[0]["USD"] != 10*10*1500*1000 || d.Cost[1]["USD"] != 10*1500*1000 {
		t.Errorf("%+v", d)
	}
	if len(d.Examples) != 3 || d.Examples[0].Call.User != "" || d.Examples[0].Call.Task != "" || d.Examples[0].Reasons[1][0] != "Always economy." {
		t.Errorf("examples: %+v", d.Examples)
	}

	// An unrelated change keeps the counts; another share starts anew; without a shadow nothing is told.
	s.Follow(snap)
	if r := s.Report("routing"); r.Calls != 10 {
		t.Errorf("after an unrelated change: %+v", r)
	}
	for _, c := range []struct {
		policy charter.Policy
		calls  int64
	}{{charter.Policy{ID: "routing", Active: premium.Hash, Shadow: economy.Hash, ShadowPPM: 5000}, 0}, {charter.Policy{ID: "routing", Active: premium.Hash}, -1}} {
		next, err := snap.Replace(snap.Epoch+1, []charter.Change{charter.Set(&c.policy)})
		if err != nil {
			t.Fatal(err)
		}
		s.Follow(next)
		if r := s.Report("routing"); (r == nil) != (c.calls < 0) || r != nil && r.Calls != c.calls {
			t.Errorf("%+v: %+v", c.policy, r)
		}
	}
}

// A team's candidate sees its team's calls alone.
func TestShadowOfATeam(t *testing.T) {
	economy := revision("team.talk", "economy")
	both := revision("team.talk", "premium")
	snap := company(t, economy, both, &charter.Policy{ID: "team.talk", Active: economy.Hash, Shadow: both.Hash, ShadowPPM: 1_000_000})
	s := start(t, snap)
	s.Decided(input(snap, "chat", 0), usd)
	s.Decided(input(snap, "other", 1), usd)
	s.drain()
	if r := s.Report("team.talk"); r.Calls != 1 || r.Differing != 1 {
		t.Errorf("%+v", r)
	}
}

func TestShadowTakesItsShareAndDropsWhatIsTooMuch(t *testing.T) {
	premium, economy := revision("routing", "premium"), revision("routing", "economy")
	snap := company(t, premium, economy, &charter.Policy{ID: "routing", Active: premium.Hash, Shadow: economy.Hash, ShadowPPM: 100_000})
	s := start(t, snap)
	for n := range 20_000 {
		s.Decided(input(snap, "chat", n), usd)
	}
	r := s.Report("routing")
	taken := int64(len(s.queue)) + r.Dropped
	if len(s.queue) != queueLength || taken < 1800 || taken > 2200 {
		t.Errorf("%d taken of 20,000 at 10%%, %d queued", taken, len(s.queue))
	}
	again := start(t, snap)
	for n := range 20_000 {
		again.Decided(input(snap, "chat", n), usd)
	}
	if other := int64(len(again.queue)) + again.Report("routing").Dropped; other != taken {
		t.Errorf("another server takes %d of the same calls, not %d", other, taken)
	}
}

// What a call pays on the hot path.
func BenchmarkDecided(b *testing.B) {
	premium, economy := revision("routing", "premium"), revision("routing", "economy")
	for _, c := range []struct {
		name string
		ppm  int32
	}{{"off", 0}, {"1%", 10_000}, {"100%", 1_000_000}} {
		b.Run(c.name, func(b *testing.B) {
			p := &charter.Policy{ID: "routing", Active: premium.Hash}
			if c.ppm > 0 {
				p.Shadow, p.ShadowPPM = economy.Hash, c.ppm
			}
			snap := company(b, premium, economy, p)
			s := start(b, snap)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go s.Run(ctx)
			in := input(snap, "chat", 0)
			b.ReportAllocs()
			for b.Loop() {
				in.Now = in.Now.Add(time.Microsecond)
				s.Decided(in, usd)
			}
			if r := s.Report("routing"); r != nil {
				b.ReportMetric(float64(r.Dropped)/float64(b.N), "dropped/op")
			}
		})
	}
}
