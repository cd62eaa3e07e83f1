package simulate

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
)

// Limits of a result.
const (
	MaxDifferences = 100 // the most frequent
	MaxExamples    = 3   // of each difference, the first
	MaxKeys        = 100 // of each budget, those that cost the most; the rest is told as `keys/*`
)

// Result is what a simulation found. Where there are two sides the first is as decided, the second with the candidate.
type Result struct {
	Decisions, Changed int64
	Failed             int64  // the candidate gave no decision
	FirstFailure       string // why
	Skipped            int64  // not replayed, not in Decisions
	FirstSkip          string // why
	Effects            []EffectCount
	Tiers              []Share
	Features, Budgets  []Spend
	Differences        []Difference
}

// EffectCount says how many decisions had an effect.
type EffectCount struct {
	Effect routing.Effect
	Calls  [2]int64
}

// Share is the calls that a tier served, and their cost by currency.
type Share struct {
	Name  string
	Calls [2]int64
	Cost  [2]map[string]money.Nanos
}

// Spend is what a feature or a budget spent.
type Spend struct {
	Name, Currency string
	Calls          int64 // asked
	Ran            [2]int64
	Cost           [2]money.Nanos
	Ceiling        money.Nanos // of the last period; 0 of a feature
	Exhausted      [2]time.Time
}

// Choice is the part of a decision that differences are told by.
type Choice struct {
	Effect      routing.Effect
	Tier, Model string
}

type differenceKey struct{ From, To Choice }

func choiceOf(a *Answer) Choice { return Choice{a.Effect, a.Tier, a.Model} }

// Difference is decisions that would be others. From and To are equal where only limits differ.
type Difference struct {
	From, To Choice
	Calls    int64
	Cost     [2]map[string]money.Nanos // by currency, of those that ran
	Examples []Example
}

// Example is one of the calls, without its user.
type Example struct {
	Time    time.Time
	Call    *routing.Call
	Reasons [2][]string
}

func (d *Difference) add(q *query, answers *[sides]Answer) error {
	d.Calls++
	for side := range answers {
		if answers[side].Ran() {
			if err := addTo(d.Cost[side], q.currency, answers[side].Cost); err != nil {
				return err
			}
		}
	}
	if len(d.Examples) < MaxExamples {
		d.Examples = append(d.Examples, Example{q.input.Now, WithoutUser(q.Call.Call), [2][]string{answers[asDecided].Reasons, answers[withCandidate].Reasons}})
	}
	return nil
}

// Result tells what was found so far.
func (s *Simulation) Result() (*Result, error) {
	r := &Result{Decisions: s.decisions, Changed: s.changed, Failed: s.failed, FirstFailure: s.firstFailure, Skipped: s.skipped, FirstSkip: s.firstSkip}
	for e := routing.Allow; e <= routing.Deny; e++ {
		r.Effects = append(r.Effects, EffectCount{e, [2]int64{s.effects[asDecided][e], s.effects[withCandidate][e]}})
	}
	for _, t := range s.tiers {
		r.Tiers = append(r.Tiers, *t)
	}
	catalog := s.Snapshot.Catalog()
	slices.SortFunc(r.Tiers, func(a, b Share) int {
		return cmp.Or(cmp.Compare(catalog.Rank(a.Name), catalog.Rank(b.Name)), cmp.Compare(a.Name, b.Name))
	})
	r.Features = spends(s.features)
	var err error
	if r.Budgets, err = fewerKeys(spends(s.lines)); err != nil {
		return nil, err
	}
	for _, d := range s.differ {
		r.Differences = append(r.Differences, *d)
	}
	slices.SortFunc(r.Differences, CompareDifferences)
	r.Differences = r.Differences[:min(len(r.Differences), MaxDifferences)]
	return r, nil
}

// CompareDifferences orders by calls, the most first, then by what they are.
func CompareDifferences(a, b Difference) int {
	choices := func(a, b Choice) int {
		return cmp.Or(cmp.Compare(a.Effect, b.Effect), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Model, b.Model))
	}
	return cmp.Or(cmp.Compare(b.Calls, a.Calls), choices(a.From, b.From), choices(a.To, b.To))
}

func spends(lines map[string]*line) []Spend {
	list := make([]Spend, 0, len(lines))
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		l := lines[name]
		list = append(list, Spend{name, l.currency, l.calls, l.ran, l.cost, l.ceil, l.exhausted})
	}
	return list
}

// fewerKeys folds the keys of each budget beyond MaxKeys into one line, such that sums stay. The list is in the order of
// names.
func fewerKeys(list []Spend) ([]Spend, error) {
	var kept []Spend
	for len(list) > 0 {
		name, _, keyed := strings.Cut(list[0].Name, "/keys/")
		n := 1
		for keyed && n < len(list) && strings.HasPrefix(list[n].Name, name+"/keys/") {
			n++
		}
		keys := list[:n]
		list = list[n:]
		if n > MaxKeys {
			slices.SortStableFunc(keys, func(a, b Spend) int { return cmp.Compare(max(b.Cost[0], b.Cost[1]), max(a.Cost[0], a.Cost[1])) })
			rest := Spend{Name: name + "/keys/*", Currency: keys[0].Currency}
			for i := range keys[MaxKeys:] {
				if err := rest.add(&keys[MaxKeys+i]); err != nil {
					return nil, err
				}
			}
			keys = append(keys[:MaxKeys:MaxKeys], rest)
		}
		kept = append(kept, keys...)
	}
	return kept, nil
}

func (s *Spend) add(o *Spend) error {
	s.Calls += o.Calls
	for side := range s.Cost {
		s.Ran[side] += o.Ran[side]
		if err := add(&s.Cost[side], o.Cost[side]); err != nil {
			return err
		}
		if t := o.Exhausted[side]; !t.IsZero() && (s.Exhausted[side].IsZero() || t.Before(s.Exhausted[side])) {
			s.Exhausted[side] = t
		}
	}
	return nil
}
