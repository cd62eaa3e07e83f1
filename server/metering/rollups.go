package metering

import (
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
)

// attributed is what tells one rollup from another. Owner, team, provider and labels follow from it, as the control records
// are when the batch is counted.
type attributed struct {
	hour                                 int64 // Unix seconds
	feature, tier, model, cohort, prompt string
	budget, path                         string
	effect                               routing.Effect
}

// rollups sums the entries of batches.
func (m *Meter) rollups(batches []*ledger.Batch) (list []usage.Rollup, entries int) {
	snap := m.Control.Snapshot()
	at := map[attributed]int{}
	paths := map[string]string{}
	var buf []byte
	for _, b := range batches {
		for _, e := range b.Entries {
			if e.Kind == ledger.KindRelease || len(e.Path) == 0 {
				continue
			}
			entries++
			buf = appendPath(buf[:0], e.Path)
			path, ok := paths[string(buf)]
			if !ok {
				path = string(buf)
				paths[path] = path
			}
			called := e.Call.Time
			if called.IsZero() {
				called = e.Time
			}
			key := attributed{
				called.Unix() / 3600 * 3600, e.Call.Feature, e.Call.Tier, e.Call.Model, e.Call.Cohort, e.Call.PromptPattern,
				e.Path[0].Budget, path, e.Call.Effect,
			}
			i, ok := at[key]
			if !ok {
				i = len(list)
				at[key] = i
				list = append(list, usage.Rollup{Hour: time.Unix(key.hour, 0).UTC(), Attribution: attribution(snap, &key, called)})
			}
			r := &list[i]
			if !count(r, e) { // it does not fit with the others of its hour: the store says so again, of this batch alone
				at[key] = len(list)
				list = append(list, usage.Rollup{Hour: r.Hour, Attribution: r.Attribution})
				count(&list[len(list)-1], e)
			}
		}
	}
	return list, entries
}

// count adds an entry to a rollup.
func count(r *usage.Rollup, e *ledger.Entry) bool {
	t := usage.Totals{Calls: e.Calls, Usage: e.Usage, Cost: e.Cost, Forced: e.Forced, Saved: e.Saved}
	single := e.Seq != 0 && e.Outcome != usage.OutcomeUnknown
	if !single {
		t.Successes, t.Failures = e.Successes, e.Failures
	}
	if r.Totals.Add(&t) != nil {
		return false
	}
	if e.Time.After(r.Newest) {
		r.Newest = e.Time
	}
	if single {
		r.Outcomes = append(r.Outcomes, usage.HoldOutcome{Owner: e.Batch.Owner, Seq: e.Seq, Outcome: e.Outcome})
	}
	if e.Call.Run != "" {
		r.Tasks = append(r.Tasks, usage.Task{Kind: usage.KindRun, Feature: e.Call.Feature, ID: e.Call.Run})
	}
	if e.Call.Task != "" {
		r.Tasks = append(r.Tasks, usage.Task{Kind: usage.KindTask, Feature: e.Call.Feature, ID: e.Call.Task})
	}
	return true
}

// appendPath writes the budgets of a path from the root to the leaf, joined by `/`.
func appendPath(b []byte, path []ledger.AccountID) []byte {
	for i := len(path) - 1; i >= 0; i-- {
		if len(b) > 0 {
			b = append(b, '/')
		}
		b = append(b, path[i].Budget...)
	}
	return b
}

// attribution completes a key from the control records.
func attribution(snap *charter.Snapshot, k *attributed, at time.Time) usage.Attribution {
	a := usage.Attribution{
		Feature: k.feature, Budget: k.budget, BudgetPath: k.path, Cohort: k.cohort, Tier: k.tier, Model: k.model, PromptPattern: k.prompt,
	}
	if k.effect != routing.EffectUnspecified {
		a.Effect = k.effect.String()
	}
	if c := snap.Charter(k.feature); c != nil {
		a.Owner, a.Team, a.Labels = c.Owner.Name, c.Team, c.Labels
	}
	if m := snap.Catalog().Model(k.model); m != nil {
		a.Provider = m.Provider
	}
	if b := snap.Budget(k.budget); b != nil {
		a.Currency = b.Currency
		if a.Owner == "" {
			a.Owner = b.Owner.Name
		}
	} else if p, err := snap.Prices().Lookup(k.model, at); err == nil { // the budget is deleted
		a.Currency = p.Currency
	}
	return a
}

// Attribution is what a call is counted as: of a hold, whose token says the rest. hour is where.
func (m *Meter) Attribution(c *ledger.Call, path []ledger.AccountID) (hour time.Time, a usage.Attribution) {
	k := attributed{
		c.Time.Unix() / 3600 * 3600, c.Feature, c.Tier, c.Model, c.Cohort, c.PromptPattern, path[0].Budget, string(appendPath(nil, path)), c.Effect,
	}
	return time.Unix(k.hour, 0).UTC(), attribution(m.Control.Snapshot(), &k, c.Time)
}
