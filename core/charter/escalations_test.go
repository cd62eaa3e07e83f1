package charter

import (
	"errors"
	"testing"
	"time"
)

func TestApprovedEscalationsAreChecked(t *testing.T) {
	day, err := NewPeriod(Day, "", time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	budget := func(id, parent string) Change {
		return Set(&Budget{ID: id, Parent: parent, Currency: "USD", Period: day, Limit: 1})
	}
	snap, err := (&Snapshot{}).With([]Change{budget("acme", ""), budget("chat", "acme"), budget("code", "acme"),
		Set(&Catalog{Tiers: []Tier{{ID: "economy"}}})})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	good := ApprovedEscalation{ID: "a", Budget: "acme", Approved: start, Expires: start.Add(time.Hour)}
	with := func(change func(e *ApprovedEscalation)) []ApprovedEscalation {
		e := good
		change(&e)
		return []ApprovedEscalation{e}
	}
	for _, c := range []struct {
		name  string
		list  []ApprovedEscalation
		field string // of an *InvalidError; "-" for a *ReferenceError
	}{
		{"a budget above", []ApprovedEscalation{good}, ""},
		{"the own budget", with(func(e *ApprovedEscalation) { e.Budget = "chat" }), ""},
		{"another budget", with(func(e *ApprovedEscalation) { e.Budget = "code" }), "approved_escalations[0].budget"},
		{"no such budget", with(func(e *ApprovedEscalation) { e.Budget = "ghost" }), "-"},
		{"twice", []ApprovedEscalation{good, good}, "approved_escalations[1].id"},
		{"over before it begins", with(func(e *ApprovedEscalation) { e.Expires = start }), "approved_escalations[0].expire_time"},
	} {
		_, err := snap.With([]Change{Set(&Charter{ID: "chat", Budget: "chat", ApprovedEscalations: c.list})})
		invalid, isInvalid := errors.AsType[*InvalidError](err)
		_, isReference := errors.AsType[*ReferenceError](err)
		switch {
		case c.field == "" && err != nil, c.field == "-" && !isReference, c.field != "" && c.field != "-" && (!isInvalid || invalid.Field != c.field):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
