package policy

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/chartergate/chartergate/core/routing"
)

// TestEqualPlansAreOne changes every field of a plan in turn: one that appendPlan leaves out would make two plans one.
func TestEqualPlansAreOne(t *testing.T) {
	table := newInterned()
	base := table.intern(&routing.Plan{}, false)
	if again := table.intern(&routing.Plan{}, true); again != base {
		t.Error("an equal plan is another one")
	}
	fields := reflect.TypeFor[routing.Plan]()
	for i := range fields.NumField() {
		plan := new(routing.Plan)
		f := reflect.ValueOf(plan).Elem().Field(i)
		switch f.Kind() {
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		case reflect.String:
			continue // the revision: a table has one
		default:
			f.SetInt(1)
		}
		if table.intern(plan, true) == base {
			t.Errorf("plans that differ in %s are one", fields.Field(i).Name)
		}
	}
}

func TestInternedIsBounded(t *testing.T) {
	table := newInterned()
	for i := range 3 * internedPlans {
		table.intern(&routing.Plan{Reasons: []string{fmt.Sprint(i)}}, true)
	}
	if n := len(table.young) + len(table.old); n > internedPlans {
		t.Errorf("%d plans are kept", n)
	}
}

// TestReusedPlansAreCopied shows that what a machine writes next does not change a plan.
func TestReusedPlansAreCopied(t *testing.T) {
	table, texts := newInterned(), []string{"a"}
	plan := table.intern(&routing.Plan{Tiers: texts}, true)
	if texts[0] = "b"; plan.Tiers[0] != "a" {
		t.Error("the plan has changed")
	}
}
