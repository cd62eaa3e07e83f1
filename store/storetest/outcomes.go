package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// outcomes gives the successes and failures of a window.
func outcomes(t *testing.T, u store.Usage, from, to int) (successes, failures int64) {
	t.Helper()
	for _, r := range sumOf(t, u, usage.Query{From: hour(from), To: hour(to)}) {
		successes, failures = successes+r.Successes, failures+r.Failures
	}
	return successes, failures
}

func holdOutcomes(t *testing.T, a, b store.Usage) {
	at := attributed("f", "c")
	told := func(seq uint64, o usage.Outcome) usage.HoldOutcome {
		return usage.HoldOutcome{Owner: "o", Seq: seq, Outcome: o}
	}
	r := usage.Rollup{Hour: hour(0), Attribution: at, Totals: spent(1), Outcomes: []usage.HoldOutcome{
		told(1, usage.OutcomeSuccess), told(2, usage.OutcomeFailure), told(5000, usage.OutcomeSuccess),
	}}
	apply(t, a, []store.BatchID{{Owner: "o", N: 0}}, r)
	for _, c := range []struct {
		hold  usage.HoldOutcome
		first usage.Outcome
	}{
		{told(1, usage.OutcomeSuccess), usage.OutcomeSuccess}, {told(2, usage.OutcomeSuccess), usage.OutcomeFailure},
		{told(3, usage.OutcomeFailure), usage.OutcomeFailure}, {told(3, usage.OutcomeFailure), usage.OutcomeFailure},
		{told(4, usage.OutcomeSuccess), usage.OutcomeSuccess},
	} {
		if first, err := b.RecordOutcome(t.Context(), c.hold, hour(0), at); err != nil || first != c.first {
			t.Errorf("%+v: %d, %v", c.hold, first, err)
		}
	}
	// 4 is settled with another outcome after it was reported: the first stands.
	apply(t, a, []store.BatchID{{Owner: "o", N: 1}}, usage.Rollup{Hour: hour(0), Attribution: at, Totals: spent(1), Outcomes: []usage.HoldOutcome{told(4, usage.OutcomeFailure)}})
	if s, f := outcomes(t, a, 0, 1); s != 3 || f != 2 {
		t.Errorf("%d successes, %d failures", s, f)
	}
}

func taskOutcomes(t *testing.T, a, b store.Usage) {
	at := attributed("f", "c")
	run, task := usage.Task{Kind: usage.KindRun, Feature: "f", ID: "x"}, usage.Task{Kind: usage.KindTask, Feature: "f", ID: "x"}
	call := func(n uint64, h int, tasks ...usage.Task) {
		t.Helper()
		apply(t, a, []store.BatchID{{Owner: "o", N: n}}, usage.Rollup{Hour: hour(h), Attribution: at, Totals: spent(1), Tasks: tasks})
	}
	record := func(of usage.Task, o, want usage.Outcome) {
		t.Helper()
		if first, err := b.RecordTaskOutcome(t.Context(), of, o); err != nil || first != want {
			t.Errorf("%+v: %d, %v; want %d", of, first, err, want)
		}
	}
	call(0, 0, run)
	call(1, 2, run, run)
	record(run, usage.OutcomeSuccess, usage.OutcomeSuccess) // counted with the last call
	record(run, usage.OutcomeFailure, usage.OutcomeSuccess)
	if s, f := outcomes(t, a, 2, 3); s != 1 || f != 0 {
		t.Errorf("the run: %d successes, %d failures", s, f)
	}
	record(task, usage.OutcomeFailure, usage.OutcomeFailure) // before its spend
	record(task, usage.OutcomeFailure, usage.OutcomeFailure)
	if s, f := outcomes(t, a, 0, 24); s != 1 || f != 0 {
		t.Errorf("before the task's spend: %d successes, %d failures", s, f)
	}
	call(2, 5, task)
	call(3, 6, task)
	if s, f := outcomes(t, a, 5, 6); s != 0 || f != 1 {
		t.Errorf("the task: %d successes, %d failures", s, f)
	}
	var many []usage.Task
	for i := range 1000 {
		many = append(many, usage.Task{Kind: usage.KindTask, Feature: "f", ID: fmt.Sprint("many", i)})
		if i%100 == 0 {
			record(many[i], usage.OutcomeSuccess, usage.OutcomeSuccess)
		}
	}
	call(4, 8, many...)
	if s, f := outcomes(t, a, 0, 24); s != 11 || f != 1 {
		t.Errorf("in all: %d successes, %d failures", s, f)
	}
}

func adjustments(t *testing.T, a, b store.Usage) {
	apply(t, a, nil, usage.Rollup{Hour: hour(3), Attribution: attributed("f", "c"), Totals: spent(100)})
	at := attributed("f", "c")
	at.Effect = usage.EffectAdjustment
	list := []usage.Adjustment{
		{ID: "1", Time: hour(50), Hour: hour(3), Attribution: at, Amount: -7, Reason: "the rate was 7% too high", Corrects: "priceBooks/p"},
		{ID: "2", Time: hour(50), Hour: hour(4), Attribution: at, Amount: 3, Reason: "not metered", Corrects: "invoice 17"},
	}
	for range 2 { // again changes nothing
		if err := b.Adjust(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	other := list[1]
	other.Amount = 4
	if err := a.Adjust(t.Context(), []usage.Adjustment{{ID: "3", Hour: hour(4), Amount: 1}, other}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("the same id with another amount: %v", err)
	}
	got, err := a.Adjustments(t.Context(), hour(0), hour(24), 10)
	if err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v, %v", got, err)
	}
	rows := sumOf(t, a, usage.Query{From: hour(0), To: hour(24), By: []string{usage.DimEffect}})
	if len(rows) != 2 || rows[0].Keys[0] != usage.EffectAdjustment || rows[0].Cost.Other != -4 || rows[0].Calls != 0 || rows[1].Cost.Input != 100 {
		t.Errorf("%+v", rows)
	}
}

func keptDecisions(t *testing.T, a, b store.Usage) {
	var all []usage.Decision
	for i := range 250 {
		all = append(all, usage.Decision{
			ID: fmt.Sprintf("%08d", i), Time: hour(0).Add(time.Duration(i) * time.Minute), Feature: fmt.Sprint("f", i%2), Effect: []string{"deny", "allow", "downgrade"}[i%3],
			Cohort: "c", Run: fmt.Sprint("r", i), Model: "m", Reason: "POLICY", Data: []byte(fmt.Sprintf(`{"n":%d}`, i)),
		})
	}
	for _, list := range [][]usage.Decision{all[:200], all[150:]} {
		if err := a.KeepDecisions(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		q    usage.DecisionQuery
		fits func(i int) bool
	}{
		"all":        {usage.DecisionQuery{}, func(int) bool { return true }},
		"a feature":  {usage.DecisionQuery{Feature: "f1"}, func(i int) bool { return i%2 == 1 }},
		"an effect":  {usage.DecisionQuery{Effect: "deny", Reason: "POLICY", Cohort: "c", Model: "m"}, func(i int) bool { return i%3 == 0 }},
		"a run":      {usage.DecisionQuery{Run: "r7"}, func(i int) bool { return i == 7 }},
		"a window":   {usage.DecisionQuery{From: hour(1), To: hour(2)}, func(i int) bool { return i >= 60 && i < 120 }},
		"one":        {usage.DecisionQuery{ID: "00000007"}, func(i int) bool { return i == 7 }},
		"in order":   {usage.DecisionQuery{Feature: "f1", OldestFirst: true}, func(i int) bool { return i%2 == 1 }},
		"no feature": {usage.DecisionQuery{Feature: "f3"}, func(int) bool { return false }},
	} {
		var want, got []usage.Decision
		for i := len(all) - 1; i >= 0; i-- {
			if c.fits(i) {
				want = append(want, all[i])
			}
		}
		if c.q.OldestFirst {
			slices.Reverse(want)
		}
		if n, err := b.CountDecisions(t.Context(), c.q); err != nil || n != int64(len(want)) {
			t.Errorf("%s: counted %d, %v, want %d", name, n, err, len(want))
		}
		for c.q.Limit = 40; ; {
			page, next, err := b.Decisions(t.Context(), c.q)
			if err != nil || len(page) > c.q.Limit {
				t.Fatalf("%s: %d, %v", name, len(page), err)
			}
			if got = append(got, page...); next == "" {
				break
			}
			c.q.After = next
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d decisions, want %d", name, len(got), len(want))
		}
	}
}

func prune(t *testing.T, a, b store.Usage) {
	at := attributed("f", "c")
	for n, h := range []int{0, 24 * 40, 24 * 80} {
		apply(t, a, []store.BatchID{{Owner: fmt.Sprint("o", n), N: 0}}, usage.Rollup{Hour: hour(h), Newest: hour(h), Attribution: at, Totals: spent(1)})
	}
	if err := a.KeepDecisions(t.Context(), []usage.Decision{{ID: "1", Time: hour(0)}, {ID: "2", Time: hour(2)}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Prune(t.Context(), store.Prune{Days: hour(24 * 45), Decisions: hour(1), Outcomes: hour(1)}); err != nil {
		t.Fatal(err)
	}
	rows, c, err := a.Sum(t.Context(), usage.Query{From: hour(0), To: hour(24 * 100), Step: usage.Month})
	if err != nil || len(rows) != 2 || len(c.Through) != 2 { // months go as a whole: that of day 40 is the one of day 45
		t.Errorf("%+v, %+v, %v", rows, c, err)
	}
	if list, _, err := a.Decisions(t.Context(), usage.DecisionQuery{Limit: 10}); err != nil || len(list) != 1 || list[0].ID != "2" {
		t.Errorf("%+v, %v", list, err)
	}
}

func leads(t *testing.T, a, b store.Usage) {
	for i, c := range []struct {
		u    store.Usage
		at   time.Duration
		want bool
	}{{a, 0, true}, {b, 10 * time.Second, false}, {b, time.Minute, true}, {a, time.Minute + 1, false}, {a, -time.Hour, true}} {
		if got, err := c.u.Lead(t.Context(), hour(0).Add(c.at), 30*time.Second); err != nil || got != c.want {
			t.Errorf("%d: %v, %v", i, got, err)
		}
	}
	if err := a.SetPosition(t.Context(), "x", 7); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{"x": 7, "y": 0} {
		if n, err := b.Position(t.Context(), name); err != nil || n != want {
			t.Errorf("position %s: %d, %v", name, n, err)
		}
	}
}
