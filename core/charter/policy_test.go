package charter

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func revisionOf(policy, hash string) *PolicyRevision {
	return &PolicyRevision{Policy: policy, Hash: hash}
}

func TestPolicyHistory(t *testing.T) {
	var p *Policy
	if _, ok := p.RolledBack(); ok {
		t.Error("a policy that is not there was rolled back")
	}
	for i := range 20 {
		p = p.Activated("team.support", fmt.Sprint("r", i))
	}
	if p.Active != "r19" || len(p.Earlier) != MaxEarlier || p.Earlier[0] != "r18" || p.Earlier[15] != "r3" {
		t.Errorf("after 20 activations the policy is %+v", p)
	}
	if same := p.Activated(p.ID, "r19"); !slices.Equal(same.Earlier, p.Earlier) {
		t.Errorf("activating the active revision changed what was before: %v", same.Earlier)
	}
	before := slices.Clone(p.Earlier)
	for i := 18; i >= 3; i-- {
		next, ok := p.RolledBack()
		if !ok || next.Active != fmt.Sprint("r", i) || len(next.Earlier) != i-3 {
			t.Fatalf("rolled back to %+v (%t), want r%d", next, ok, i)
		}
		p = next
	}
	if _, ok := p.RolledBack(); ok {
		t.Error("rolled back beyond what is remembered")
	}
	// After a rollback the history goes on from there.
	if p = p.Activated(p.ID, "new"); !slices.Equal(p.Earlier, []string{"r3"}) || before[0] != "r18" {
		t.Errorf("after a rollback and an activation: %+v", p)
	}
	p.Shadow, p.ShadowPPM = "candidate", 10_000
	if on := p.Activated(p.ID, "other"); on.Shadow != "candidate" || on.ShadowPPM != 10_000 {
		t.Errorf("another activation ended the shadow: %+v", on)
	}
	if on := p.Activated(p.ID, "candidate"); on.Shadow != "" || on.ShadowPPM != 0 {
		t.Errorf("the shadow goes on beside itself: %+v", on)
	}
}

func TestPoliciesOfASnapshot(t *testing.T) {
	chat := &Charter{ID: "chat", Team: "support", Budget: "acme"}
	s, err := new(Snapshot).Replace(1, []Change{Set(&Budget{ID: "acme"}), Set(chat)})
	if err != nil {
		t.Fatal(err)
	}
	with := func(changes ...Change) error {
		next, err := s.With(changes)
		if err == nil {
			s = next
		}
		return err
	}
	attach := func(id, hash string) []Change {
		return []Change{Set(revisionOf(id, hash)), Set(&Policy{ID: id, Active: hash})}
	}
	for _, id := range []string{"team.support", "feature.chat", "routing", "team.apes"} {
		if err := with(attach(id, "a1")...); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, p := range s.Policies() {
		names = append(names, p.Name())
	}
	if want := []string{"policies/routing", "policies/feature.chat", "policies/team.apes", "policies/team.support"}; !slices.Equal(names, want) {
		t.Errorf("the policies are %v, want %v", names, want)
	}
	of := s.Attached(chat)
	if of[0] != s.Policy("routing") || of[1] != s.Policy("team.support") || of[2] != s.Policy("feature.chat") || of[0] == nil || of[1] == nil || of[2] == nil {
		t.Errorf("attached to chat are %v", of)
	}
	if n := testing.AllocsPerRun(100, func() { of = s.Attached(chat) }); n > 0 {
		t.Errorf("finding them allocates %.0f times", n)
	}
	if of := s.Attached(&Charter{ID: "other", Team: "none"}); of[0] == nil || of[1] != nil || of[2] != nil {
		t.Errorf("attached to a feature of another team are %v", of)
	}
	if s.Record("policies/team.support") != s.Policy("team.support") || s.Record("policies/team.support/revisions/a1") != s.PolicyRevision("team.support", "a1") {
		t.Error("a policy or a revision is not found by its name")
	}
	if n := len(s.PolicyRevisions("team.support")); n != 1 {
		t.Errorf("team.support has %d revisions, want its own alone", n)
	}

	for what, test := range map[string]struct {
		change Change
		want   any
	}{
		"a revision that is not there":       {Set(&Policy{ID: "team.support", Active: "a2"}), new(*ReferenceError)},
		"another policy's revision":          {Set(&Policy{ID: "team.other", Active: "a1"}), new(*ReferenceError)},
		"a shadow that is not there":         {Set(&Policy{ID: "team.support", Active: "a1", Shadow: "a2"}), new(*ReferenceError)},
		"no active revision":                 {Set(&Policy{ID: "team.support"}), new(*InvalidError)},
		"an active revision deleted":         {Change{Name: "policies/team.support/revisions/a1"}, new(*InUseError)},
		"a charter with a policy deleted":    {Change{Name: "charters/chat"}, new(*InUseError)},
		"the organisation has none, allowed": {Set(&Policy{ID: "routing"}), nil},
	} {
		err := with(test.change)
		if test.want == nil && err != nil || test.want != nil && !errors.As(err, test.want) {
			t.Errorf("%s: error %v, want %T", what, err, test.want)
		}
	}
	missing := (*ReferenceError)(nil)
	if err := with(attach("feature.caht", "a1")...); !errors.As(err, &missing) || missing.Missing != "charters/caht" {
		t.Errorf("a policy of a feature that is not there: error %v", err)
	}
	if err := with(Change{Name: "policies/feature.chat"}, Change{Name: "charters/chat"}); err != nil || s.Policy("feature.chat") != nil {
		t.Errorf("a charter was not deleted with its policy: %v", err)
	}
}

func TestMostPolicies(t *testing.T) {
	changes := []Change{}
	for i := range MaxPolicies {
		id := fmt.Sprintf("team.t%d", i)
		changes = append(changes, Set(revisionOf(id, "a1")), Set(&Policy{ID: id, Active: "a1"}))
	}
	s, err := new(Snapshot).With(changes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.With([]Change{Set(&Policy{ID: "team.t7", Active: "a1"})}); err != nil {
		t.Errorf("one of the most policies cannot be changed: %v", err)
	}
	invalid := (*InvalidError)(nil)
	if _, err := s.With([]Change{Set(revisionOf("team.more", "a1")), Set(&Policy{ID: "team.more", Active: "a1"})}); !errors.As(err, &invalid) {
		t.Errorf("one more than the most: error %v", err)
	}
}
