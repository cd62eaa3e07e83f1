package report

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

func period(t testing.TB, c charter.Calendar) charter.Period {
	t.Helper()
	p, err := charter.NewPeriod(c, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// company has acme > chat (a month, alerts at 50% and 90%), acme > agents (a day for each run) and acme > teams (a month for
// each cohort); the feature chat downgrades when chat is used up.
func company(t testing.TB) *charter.Snapshot {
	t.Helper()
	budget := func(id, parent string, limit money.Nanos, c charter.Calendar, change func(*charter.Budget)) charter.Change {
		b := &charter.Budget{ID: id, Parent: parent, Owner: charter.Owner{Name: "Ada"}, Limit: limit, Currency: "USD", Period: period(t, c)}
		if change != nil {
			change(b)
		}
		return charter.Set(b)
	}
	catalog := &charter.Catalog{Tiers: []charter.Tier{{ID: "economy"}}, Models: []charter.Model{{ID: "small", Tier: "economy"}}}
	snap, err := (&charter.Snapshot{}).With([]charter.Change{
		charter.Set(catalog),
		budget("acme", "", 1000e9, charter.Month, nil),
		budget("chat", "acme", 100e9, charter.Month, func(b *charter.Budget) { b.AlertThresholdsPermille = []int32{500, 900} }),
		budget("agents", "acme", 10e9, charter.Day, func(b *charter.Budget) { b.Per = charter.PerRun }),
		budget("teams", "acme", 30e9, charter.Month, func(b *charter.Budget) { b.Per = charter.PerCohort }),
		charter.Set(&charter.Charter{
			ID: "chat", Owner: charter.Owner{Name: "Kim"}, Team: "support", Stage: charter.StageProduction, Budget: "chat", TargetCostPer1000: 5e9,
			Exhausted:  charter.Exhausted{Mode: charter.ExhaustedDowngrade, OverflowAllowance: 5e9},
			Escalation: []charter.EscalationStep{{Owner: charter.Owner{Name: "Noor"}}, {Owner: charter.Owner{Name: "Tomás"}}},
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func account(t testing.TB, m *Maker, name string, limit, settled, forced money.Nanos) *Account {
	t.Helper()
	id, rest, _ := strings.Cut(strings.TrimPrefix(name, "budgets/"), "/")
	b := m.Charters.Budget(id)
	span, _ := b.Period.At(now)
	a := Account{Name: name, Budget: b, Period: span, Limit: limit, Settled: settled, Forced: forced}
	if kind, key, _ := strings.Cut(rest, "/"); kind == "keys" {
		a.Key = key
	} else {
		a.Overflow = key
	}
	m.Accounts = append(m.Accounts, a)
	return &m.Accounts[len(m.Accounts)-1]
}

func TestRisks(t *testing.T) {
	for _, c := range []struct {
		name            string
		daily           money.Nanos // of the budget chat, in the last 20 days
		account         string
		limit           money.Nanos
		settled, forced money.Nanos
		severity        Severity // 0: not at risk
		reasons         []Reason
		says            []string
	}{
		{"nothing spent", 0, "budgets/chat", 100e9, 0, 0, 0, nil, nil},
		{"it lasts", 1e9, "budgets/chat", 100e9, 23e9, 0, 0, nil, nil},
		{"used up", 5e9, "budgets/chat", 100e9, 100e9, 0, Critical, []Reason{Exhausted, AboveThreshold},
			[]string{"Raise the limit by 37.00 USD to last until 2026-12-01 00:00Z", "calls run on the cheapest tier", "Feature chat spends 100.0%", "Escalate: Noor, then Tomás."}},
		{"a limit of 0", 0, "budgets/chat", 0, 0, 0, 0, nil, nil},
		{"over a limit of 0", 0, "budgets/chat", 0, 1, 1, Critical, []Reason{Exhausted, AboveThreshold, ForcedSpend}, []string{"wait for the next period"}},
		{"within a day", 5e9, "budgets/chat", 100e9, 97e9, 0, Critical, []Reason{Overspend, AboveThreshold}, []string{"instead of 5.00 to last until"}},
		{"before the end", 5e9, "budgets/chat", 100e9, 80e9, 0, High, []Reason{Overspend, AboveThreshold}, []string{"Spend 2.70 USD a day instead of 5.00", "raise the limit by 17.00"}},
		{"above a threshold", 1e9, "budgets/chat", 100e9, 60e9, 0, Warning, []Reason{AboveThreshold}, []string{"it lasts until 2026-12-01"}},
		{"forced", 1e9, "budgets/chat", 100e9, 23e9, 2e9, Notice, []Reason{ForcedSpend}, []string{"2.00 USD was settled above its holds"}},
		{"overflow", 1e9, "budgets/chat/overflow/chat", 5e9, 1e9, 0, Notice, []Reason{OverflowInUse}, []string{"Feature chat runs on its overflow allowance"}},
		{"a cohort that will not last", 0, "budgets/teams/keys/pro", 30e9, 28e9, 0, High, []Reason{Overspend, AboveThreshold}, []string{"a day instead of 1.24"}},
		{"a run is not expected to go on", 0, "budgets/agents/keys/r1", 10e9, 6e9, 0, 0, nil, nil},
		{"a run above its threshold", 0, "budgets/agents/keys/r1", 10e9, 8e9, 0, Warning, []Reason{AboveThreshold}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			m := maker(s)
			m.Charters = company(t)
			for i := range 20 {
				if c.daily > 0 {
					roll := usage.Rollup{Hour: now.Truncate(time.Hour).AddDate(0, 0, -1-i), Attribution: usage.Attribution{Feature: "chat", BudgetPath: "acme/chat", Currency: "USD"}, Totals: usage.Totals{Cost: usage.Cost{Input: c.daily}}}
					if err := s.Apply(t.Context(), []store.BatchID{{Owner: "o", N: uint64(i)}}, []usage.Rollup{roll}); err != nil {
						t.Fatal(err)
					}
				}
			}
			account(t, m, c.account, c.limit, c.settled, c.forced)
			risks, err := m.Risks(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			if c.severity == 0 {
				if len(risks) != 0 {
					t.Errorf("%+v", risks[0])
				}
				return
			}
			if len(risks) != 1 || risks[0].Severity != c.severity || !slices.Equal(risks[0].Reasons, c.reasons) {
				t.Fatalf("%+v", risks)
			}
			text := strings.Join(risks[0].Actions, "\n")
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in:\n%s", want, text)
				}
			}
			if least, err := m.Risks(t.Context(), c.severity+1); err != nil || len(least) != 0 {
				t.Errorf("asked for more urgent ones: %v, %v", least, err)
			}
		})
	}
}

// The most severe come first, then those that run out first.
func TestRisksAreInOrder(t *testing.T) {
	m := maker(open(t))
	m.Charters = company(t)
	for i, a := range [][2]money.Nanos{{30e9, 26e9}, {30e9, 29e9}, {30e9, 31e9}, {30e9, 2e9}} {
		account(t, m, fmt.Sprint("budgets/teams/keys/", i), a[0], a[1], 0)
	}
	account(t, m, "budgets/chat", 100e9, 55e9, 0)
	risks, err := m.Risks(t.Context(), Notice)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range risks {
		names = append(names, strings.TrimPrefix(r.Name, "budgets/"))
	}
	if !slices.Equal(names, []string{"teams/keys/2", "teams/keys/1", "teams/keys/0", "chat"}) {
		t.Error(names)
	}
}

// What the ledger has settled is compared with what is counted, by root budget, adjustments apart.
func TestCompare(t *testing.T) {
	s := open(t)
	m := maker(s)
	m.Charters = company(t)
	for i, r := range []usage.Rollup{
		{Hour: at("2026-11-01T00"), Attribution: usage.Attribution{BudgetPath: "acme/chat", Currency: "USD"}, Totals: usage.Totals{Cost: usage.Cost{Input: 7}}},
		{Hour: at("2026-10-31T23"), Attribution: usage.Attribution{BudgetPath: "acme/chat", Currency: "USD"}, Totals: usage.Totals{Cost: usage.Cost{Input: 100}}},
		{Hour: at("2026-11-23T14"), Attribution: usage.Attribution{BudgetPath: "acme", Currency: "USD"}, Totals: usage.Totals{Cost: usage.Cost{Output: 5}}},
		{Hour: at("2026-11-23T14"), Attribution: usage.Attribution{BudgetPath: "acme", Currency: "USD", Effect: usage.EffectAdjustment}, Totals: usage.Totals{Cost: usage.Cost{Other: -3}}},
		{Hour: at("2026-11-23T14"), Attribution: usage.Attribution{BudgetPath: "beta/acme", Currency: "USD"}, Totals: usage.Totals{Cost: usage.Cost{Output: 9}}},
	} {
		if err := s.Apply(t.Context(), []store.BatchID{{Owner: "o", N: uint64(i)}}, []usage.Rollup{r}); err != nil {
			t.Fatal(err)
		}
	}
	account(t, m, "budgets/acme", 1000e9, 15, 0)
	account(t, m, "budgets/chat", 100e9, 7, 0)
	list, err := m.Compare(t.Context())
	if err != nil || len(list) != 1 || list[0].Ledger != 15 || list[0].Reported != 12 || list[0].Difference != 3 || list[0].Problem != "" {
		t.Errorf("%+v, %v", list, err)
	}
	kolkata, _ := charter.NewPeriod(charter.Month, "Asia/Kolkata", time.Time{}, time.Time{})
	m.Accounts[0].Period, _ = kolkata.At(now)
	if list, err = m.Compare(t.Context()); err != nil || !strings.Contains(list[0].Problem, "whole hours") {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestUnitCosts(t *testing.T) {
	s := open(t)
	m := maker(s)
	m.Charters = company(t)
	count := func(n uint64, feature, cohort string, back int, cost money.Nanos, calls, ok, failed int64) {
		t.Helper()
		r := usage.Rollup{Hour: now.Truncate(time.Hour).AddDate(0, 0, -back), Attribution: usage.Attribution{Feature: feature, Cohort: cohort, Currency: "USD"},
			Totals: usage.Totals{Calls: calls, Successes: ok, Failures: failed, Cost: usage.Cost{Input: cost}}}
		if err := s.Apply(t.Context(), []store.BatchID{{Owner: "o", N: n}}, []usage.Rollup{r}); err != nil {
			t.Fatal(err)
		}
	}
	count(0, "chat", "free", 1, 10e9, 3000, 1500, 500)
	count(1, "chat", "pro", 1, 1e9, 30, 0, 7)
	count(2, "wild", "free", 1, 4, 3, 2, 0) // no charter
	count(3, "chat", "free", 9, 6e9, 1000, 1000, 0)
	w, _ := (&Ask{Last: 7 * 24 * time.Hour}).Window(now, "")
	list, err := m.UnitEconomics(t.Context(), w, []string{usage.DimCohort, usage.DimFeature}, nil, 2)
	if err != nil || len(list) != 1 || len(list[0].Lines) != 2 || list[0].More != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	free, pro := list[0].Lines[0], list[0].Lines[1]
	if *free.PerSuccesses != 6_666_666_667 || *free.Target != 5e9 || *free.OverTarget != 2_500_000_000 || *free.Previous != 6e9 || *free.Change != 111 || *free.Success != 750 || *free.PerCall != 3_333_333 {
		t.Errorf("free: %+v", free)
	}
	if pro.PerSuccesses != nil || pro.Change != nil || *pro.Success != 0 || *pro.Target != 5e9 || pro.OverTarget != nil {
		t.Errorf("no success: %+v", pro)
	}
	// Of a sum with successes of a feature without a target there is no target.
	if total := list[0].Total; total.Target != nil || *total.PerSuccesses != (11_000_000_004*1000+751)/1502 {
		t.Errorf("total: %+v", total)
	}
}

// Quotients are rounded half up, whatever their sign and size.
func TestRatio(t *testing.T) {
	for _, c := range []struct{ a, b, c, want int64 }{
		{1, 1000, 3, 333}, {2, 1000, 3, 667}, {1, 1, 2, 1}, {-1, 1, 2, 0}, {-3, 1, 2, -1}, {-2, 1000, 3, -667}, {1<<63 - 1, 1000, 1<<63 - 1, 1000}, {-(1 << 62), 2, 1, -(1 << 63) / 1},
	} {
		got, ok := Ratio(c.a, c.b, c.c)
		if c.want == -1<<63 {
			if ok {
				t.Errorf("%v fits", c)
			}
			continue
		}
		if got != c.want || !ok {
			t.Errorf("%v is %d, %v", c, got, ok)
		}
	}
	if _, ok := Ratio(1, 1, 0); ok {
		t.Error("a division by 0")
	}
	if _, ok := Ratio(1<<62, 1000, 1); ok {
		t.Error("it does not fit")
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := rapid.Int64Range(-1e9, 1e9).Draw(t, "a"), rapid.Int64Range(1, 1e9).Draw(t, "b"), rapid.Int64Range(1, 1e9).Draw(t, "c")
		if got, ok := Ratio(a, b, c); !ok || 2*(a*b-got*c) >= c || 2*(got*c-a*b) > c {
			t.Fatalf("%d x %d / %d is %d", a, b, c, got)
		}
	})
}

func TestAbout(t *testing.T) {
	for n, want := range map[money.Nanos]string{0: "0.00", 5: "0.000000005", 100_000: "0.0001", 1_234_567_890: "1.23", 1_999_999_999: "2.00", -1_234_567_000_000_000: "-1,234,567.00", 123_456_789: "0.1235"} {
		if got := About(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
