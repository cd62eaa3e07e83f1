package routing

import (
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

var catalog = charter.WithMeta(&charter.Catalog{
	Tiers:  []charter.Tier{{ID: "economy"}, {ID: "premium"}},
	Models: []charter.Model{{ID: "mini", Tier: "economy"}, {ID: "nano", Tier: "economy"}, {ID: "large", Tier: "premium"}},
}, charter.Meta{}).(*charter.Catalog)

func TestSubstitutes(t *testing.T) {
	for _, c := range []struct {
		asked, model string
		want         bool
	}{
		{"", "mini", false}, {"large", "mini", true}, {"large", "large", false}, {"mini", "nano", false},
		{"mini", "large", false}, {"ghost", "mini", false},
	} {
		if got := Substitutes(&Call{Model: c.asked}, catalog, catalog.Model(c.model)); got != c.want {
			t.Errorf("%s for %q: %v", c.model, c.asked, got)
		}
	}
}

func TestUnproven(t *testing.T) {
	passed := func(capability string) charter.Evaluation {
		return charter.Evaluation{Capability: capability, Model: "mini", Passed: true}
	}
	failed := charter.Evaluation{Capability: "chat", Model: "mini"}
	expired := passed("chat")
	expired.Expires = now
	fresh := passed("chat")
	fresh.Expires = now.Add(time.Nanosecond)
	other := passed("chat")
	other.Model = "nano"
	for _, c := range []struct {
		name  string
		class string
		needs []string
		has   []charter.Evaluation
		want  string
	}{
		{"nothing", "chat", nil, nil, "chat"},
		{"the class", "chat", []string{"tools"}, []charter.Evaluation{passed("chat")}, ""},
		{"another class", "chat", nil, []charter.Evaluation{passed("code")}, "chat"},
		{"another model", "chat", nil, []charter.Evaluation{other}, "chat"},
		{"not expired", "chat", nil, []charter.Evaluation{fresh}, ""},
		{"expired", "chat", nil, []charter.Evaluation{expired}, "chat"},
		{"failed", "chat", nil, []charter.Evaluation{failed}, "chat"},
		{"a failure outweighs", "chat", nil, []charter.Evaluation{passed("chat"), failed}, "chat"},
		{"every", "chat", nil, []charter.Evaluation{passed("*")}, ""},
		{"a failure outweighs every", "chat", nil, []charter.Evaluation{passed("*"), failed}, "chat"},
		{"every in place of one that expired", "chat", nil, []charter.Evaluation{passed("*"), expired}, ""},
		{"each capability", "", []string{"chat", "tools"}, []charter.Evaluation{passed("chat"), passed("tools")}, ""},
		{"one of two", "", []string{"chat", "tools"}, []charter.Evaluation{passed("chat")}, "tools"},
		{"neither class nor capability", "", nil, []charter.Evaluation{passed("chat")}, "*"},
		{"neither, and every", "", nil, []charter.Evaluation{passed("*")}, ""},
	} {
		call := &Call{Model: "large", TaskClass: c.class, Capabilities: c.needs}
		if got := Unproven(call, &charter.Charter{Evaluations: c.has}, "mini", now); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestEscalated(t *testing.T) {
	c := &charter.Charter{ApprovedEscalations: []charter.ApprovedEscalation{{Budget: "b", Approved: now, Expires: now.Add(time.Hour)}}}
	for _, x := range []struct {
		budget string
		after  time.Duration
		want   bool
	}{{"b", 0, true}, {"b", -1, false}, {"b", time.Hour - 1, true}, {"b", time.Hour, false}, {"c", 0, false}} {
		if got := Escalated(c, x.budget, now.Add(x.after)); got != x.want {
			t.Errorf("%s after %s: %v", x.budget, x.after, got)
		}
	}
}

func TestForecast(t *testing.T) {
	day := BudgetState{UtilizationPermille: 250, Start: now.Unix(), End: now.Add(24 * time.Hour).Unix()}
	for _, c := range []struct {
		after time.Duration
		want  int64
	}{
		{6 * time.Hour, 1000}, {12 * time.Hour, 500}, {7 * time.Hour, 857}, {24 * time.Hour, 250}, {48 * time.Hour, 250},
		{0, 24_000}, {14 * time.Minute, 24_000}, {15 * time.Minute, 24_000}, {16 * time.Minute, 22_500}, {-time.Hour, 24_000},
		{7*time.Hour + 59*time.Second, 857},
	} {
		if got := day.Forecast(now.Add(c.after)); got != c.want {
			t.Errorf("after %s: %d, want %d", c.after, got, c.want)
		}
	}
	if got := (&BudgetState{UtilizationPermille: 1<<31 - 1, Start: 0, End: 1 << 40}).Forecast(now); got <= 0 {
		t.Errorf("a long window: %d", got)
	}
	if got := (&BudgetState{UtilizationPermille: 412}).Forecast(now); got != 412 {
		t.Errorf("no window: %d", got)
	}
}

func TestEvidenceDoesNotAllocate(t *testing.T) {
	c := &charter.Charter{Evaluations: []charter.Evaluation{{Capability: "chat", Model: "mini", Passed: true}}}
	call := &Call{Model: "large", TaskClass: "chat"}
	if n := testing.AllocsPerRun(100, func() {
		if !Substitutes(call, catalog, &catalog.Models[0]) || Unproven(call, c, "mini", now) != "" || Evidence(c, now) != 1 || Escalated(c, "b", now) {
			t.Fatal("not as expected")
		}
	}); n != 0 {
		t.Errorf("it allocates %v times", n)
	}
}
