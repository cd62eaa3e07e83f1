package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

// says is a policy that allows a tier and says a word.
func says(tier, word string) map[string]string {
	return module(fmt.Sprintf(`decision := {"effect": "allow", "tiers": [%q], "reasons": [%q]}`, tier, word))
}

func patient(t *testing.T) *Decider {
	t.Helper()
	d, err := NewDecider()
	if err != nil {
		t.Fatal(err)
	}
	d.limit, d.shipped.limit = time.Minute, time.Minute
	return d
}

func revision(t *testing.T, name string, modules map[string]string) *Revision {
	return &Revision{Name: name, Policy: compile(t, modules)}
}

func TestAttachedPoliciesDecide(t *testing.T) {
	d := patient(t)
	org := revision(t, "policies/routing/revisions/1", says("economy", "organisation"))
	team := revision(t, "policies/team.support/revisions/2", says("economy", "team"))
	feature := revision(t, "policies/feature.support-copilot/revisions/3", says("economy", "feature"))
	teams, features := map[string]*Revision{"support": team}, map[string]*Revision{"support-copilot": feature}
	in := supportInput(t)
	other := *in
	other.Charter = &charter.Charter{ID: "other", Team: "sales"}
	for _, test := range []struct {
		set            Set
		support, other []string // reasons
	}{
		{Set{}, nil, nil}, // the shipped policy, whose words are its own
		{Set{Organisation: org}, []string{"organisation"}, []string{"organisation"}},
		{Set{Teams: teams}, []string{"team"}, nil},
		{Set{Features: features}, []string{"feature"}, nil},
		{Set{Teams: teams, Features: features}, []string{"team", "feature"}, nil},
		{Set{Organisation: org, Features: features}, []string{"organisation", "feature"}, []string{"organisation"}},
		{Set{org, teams, features}, []string{"organisation", "team", "feature"}, []string{"organisation"}},
	} {
		d.Use(&test.set)
		for _, c := range []struct {
			in   *routing.Input
			want []string
		}{{in, test.support}, {&other, test.other}} {
			plan, err := d.Decide(context.Background(), c.in)
			switch {
			case err != nil:
				t.Errorf("%s with %+v: %v", c.in.Charter.ID, test.set, err)
			case c.want == nil && plan.Revision != d.Builtin():
				t.Errorf("%s with %+v was decided by %s, want the shipped policy", c.in.Charter.ID, test.set, plan.Revision)
			case c.want != nil && (!slices.Equal(plan.Reasons, c.want) || strings.Count(plan.Revision, "/revisions/") != len(c.want)):
				t.Errorf("%s with %+v: reasons %v of %s, want %v", c.in.Charter.ID, test.set, plan.Reasons, plan.Revision, c.want)
			}
			if again, _ := d.Decide(context.Background(), c.in); again != plan {
				t.Errorf("%s with %+v: the second plan is another", c.in.Charter.ID, test.set)
			}
		}
	}
	if n := testing.AllocsPerRun(200, func() {
		if _, err := d.Decide(context.Background(), in); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("a remembered decision of three policies allocates %.0f times", n)
	}
	// Another catalog is combined anew: what a tier stands for changes with it.
	before, _ := d.Decide(context.Background(), in)
	changed := *in
	changed.Catalog, changed.Epoch = testCatalog(t), in.Epoch+1
	if after, err := d.Decide(context.Background(), &changed); err != nil || after == before {
		t.Errorf("the plan of another catalog is the same: %v", err)
	}
}

// Where guardrails leave the choice the shipped policy chooses below them; where they end the call they end it.
func TestGuardrailsLeaveTheChoice(t *testing.T) {
	d := patient(t)
	in := supportInput(t)
	shipped, err := d.Decide(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	org := revision(t, "policies/routing/revisions/1", module(`decision := {"effect": "downgrade", "max_output_tokens": 300, "reasons": ["capped"]}`))
	team := revision(t, "policies/team.support/revisions/2", module(`decision := {"effect": "allow", "max_input_tokens": 5000}`))
	teams := map[string]*Revision{"support": team}
	chosen := revision(t, "policies/feature.support-copilot/revisions/3", says("economy", "feature"))
	deny := revision(t, "policies/feature.support-copilot/revisions/4", module(`decision := {"effect": "deny", "reasons": ["closed"]}`))
	for _, test := range []struct {
		set       Set
		effect    routing.Effect
		tiers     []string
		revisions string
		output    int64
	}{
		{Set{Organisation: org}, routing.Downgrade, shipped.Tiers, org.Name + ", " + d.Builtin(), 300},
		{Set{Teams: teams}, shipped.Effect, shipped.Tiers, team.Name + ", " + d.Builtin(), shipped.MaxOutputTokens},
		{Set{Organisation: org, Teams: teams}, routing.Downgrade, shipped.Tiers, org.Name + ", " + team.Name + ", " + d.Builtin(), 300},
		{Set{org, teams, map[string]*Revision{"support-copilot": chosen}}, routing.Downgrade, []string{"economy"}, org.Name + ", " + team.Name + ", " + chosen.Name, 300},
		{Set{org, teams, map[string]*Revision{"support-copilot": deny}}, routing.Deny, nil, org.Name + ", " + team.Name + ", " + deny.Name, 300},
	} {
		d.Use(&test.set)
		plan, err := d.Decide(t.Context(), in)
		if err != nil || plan.Effect != test.effect || !slices.Equal(plan.Tiers, test.tiers) || plan.Revision != test.revisions || plan.MaxOutputTokens != test.output {
			t.Errorf("%+v, %v; want %v of %s by %s", plan, err, test.effect, test.tiers, test.revisions)
		}
		told, err := d.Explain(t.Context(), in, false)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, x := range told {
			names = append(names, x.Revision)
		}
		if got := strings.Join(names, routing.RevisionSeparator); got != test.revisions {
			t.Errorf("the explanation is of %s, the decision of %s", got, test.revisions)
		}
	}
}

// A policy that gives no decision takes nothing away from what the others say.
func TestAttachedPolicyFails(t *testing.T) {
	d := patient(t)
	in := supportInput(t)
	broken := revision(t, "policies/feature.support-copilot/revisions/9", module(`decision := {"effect": "deny"} if input.request.user == "nobody"`))
	features := map[string]*Revision{"support-copilot": broken}
	org := revision(t, "policies/routing/revisions/1", module(`decision := {"effect": "deny", "reasons": ["closed"]}`))
	d.Use(&Set{Organisation: org, Features: features})
	plan, err := d.Decide(context.Background(), in)
	failed := (*EvalError)(nil)
	if !errors.As(err, &failed) || failed.Revision != broken.Name || plan == nil || plan.Effect != routing.Deny || plan.Revision != org.Name {
		t.Errorf("plan %+v, error %v; want the organisation's deny with the error of the other", plan, err)
	}
	d.Use(&Set{Features: features})
	if plan, err := d.Decide(context.Background(), in); plan != nil || !errors.As(err, &failed) {
		t.Errorf("plan %+v, error %v; want no plan", plan, err)
	}
	d.Use(&Set{Teams: map[string]*Revision{"support": broken}, Features: features})
	if plan, err := d.Decide(context.Background(), in); plan != nil || strings.Count(err.Error(), "gave no decision") != 2 {
		t.Errorf("plan %+v, error %v; want no plan and both errors", plan, err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if plan, err := d.Decide(ended, in); plan != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("plan %+v, error %v; want the context's", plan, err)
	}
}

func TestUseKeepsWhatIsRemembered(t *testing.T) {
	d := patient(t)
	in := supportInput(t)
	org, team := revision(t, "policies/routing/revisions/1", says("economy", "o")), revision(t, "policies/team.support/revisions/2", says("economy", "t"))
	d.Use(&Set{Organisation: org, Teams: map[string]*Revision{"support": team}})
	if _, err := d.Decide(context.Background(), in); err != nil {
		t.Fatal(err)
	}
	memo := d.inUse.Load().organisation.evaluator
	d.Use(&Set{Organisation: org})
	if d.inUse.Load().organisation.evaluator != memo {
		t.Error("the organisation's policy forgot its plans when the team's was detached")
	}
	d.Use(&Set{Organisation: revision(t, org.Name, says("economy", "o"))})
	if d.inUse.Load().organisation.evaluator == memo {
		t.Error("another policy of the same name has the plans of the one before")
	}
}

// state is a snapshot with a charter and the policies that are given, by id, with their modules and a hash.
type state map[string]struct {
	hash    string
	modules map[string]string
}

func (s state) snapshot(t *testing.T, epoch int64) *charter.Snapshot {
	t.Helper()
	changes := []charter.Change{charter.Set(&charter.Charter{ID: "support-copilot", Team: "support"})}
	for id, p := range s {
		changes = append(changes, charter.Set(&charter.PolicyRevision{Policy: id, Hash: p.hash, Modules: p.modules}),
			charter.Set(&charter.Policy{ID: id, Active: p.hash}))
	}
	snap, err := new(charter.Snapshot).Replace(epoch, changes)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestFollow(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	d := patient(t)
	in := supportInput(t)
	reasons := func() string {
		t.Helper()
		plan, err := d.Decide(context.Background(), in)
		if err != nil {
			return err.Error()
		}
		return strings.Join(plan.Reasons, " ")
	}
	serving := func(epoch int64, problem string, revisions ...string) {
		t.Helper()
		s := d.Serving()
		if s.Epoch != epoch || !slices.Equal(s.Revisions, revisions) || (problem == "") != (s.Problem == "") || !strings.Contains(s.Problem, problem) {
			t.Errorf("serving %+v, want %v of %d and the problem %q", s, revisions, epoch, problem)
		}
	}
	serving(0, "", d.Builtin())
	d.Follow(state{}.snapshot(t, 1), logger)
	serving(1, "", d.Builtin())

	good := state{"routing": {"a1", says("economy", "org-a")}, "team.support": {"a2", says("economy", "team-a")}}
	d.Follow(good.snapshot(t, 2), logger)
	serving(2, "", "policies/routing/revisions/a1", "policies/team.support/revisions/a2")
	if got := reasons(); got != "org-a team-a" {
		t.Errorf("decided by %q", got)
	}
	compiled := d.known["policies/routing/revisions/a1"]
	d.Follow(good.snapshot(t, 3), logger)
	serving(3, "", "policies/routing/revisions/a1", "policies/team.support/revisions/a2")
	if d.known["policies/routing/revisions/a1"] != compiled {
		t.Error("a revision that is in use was compiled again")
	}

	// One that does not compile keeps all as they were, though another policy changed with it.
	log.Reset()
	bad := state{"routing": {"b1", says("economy", "org-b")}, "team.support": {"b2", module("decision := nothing")}}
	for epoch := range int64(3) {
		d.Follow(bad.snapshot(t, 4+epoch), logger)
	}
	serving(3, "policies/team.support/revisions/b2 does not compile", "policies/routing/revisions/a1", "policies/team.support/revisions/a2")
	if got := reasons(); got != "org-a team-a" {
		t.Errorf("decided by %q, want what decided before", got)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "the policies of before go on deciding") {
		t.Errorf("%d errors in the log, want one:\n%s", n, log.String())
	}
	d.Follow(good.snapshot(t, 8), logger)
	serving(8, "", "policies/routing/revisions/a1", "policies/team.support/revisions/a2")
	if d.known["policies/routing/revisions/a1"] != compiled || reasons() != "org-a team-a" {
		t.Error("what went on deciding was compiled again")
	}
	d.Follow(state{}.snapshot(t, 9), logger)
	serving(9, "", d.Builtin())
	if len(d.known) != 0 {
		t.Errorf("%d revisions are kept that are not attached", len(d.known))
	}

	// At the start nothing decided before: no decision is better than one without the guardrail.
	d = patient(t)
	d.Follow(bad.snapshot(t, 6), logger)
	serving(6, "b2 does not compile", "policies/routing/revisions/b1", "policies/team.support/revisions/b2")
	if got := reasons(); !strings.Contains(got, "policies/team.support/revisions/b2 gave no decision") {
		t.Errorf("decided: %q", got)
	}
	bad["routing"] = good["routing"]
	d.Follow(bad.snapshot(t, 7), logger) // it goes on, for the other is as broken as before
	serving(7, "b2 does not compile", "policies/routing/revisions/a1", "policies/team.support/revisions/b2")
}
