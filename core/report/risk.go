package report

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/usage"
)

// Severity says how urgent a budget at risk is, numbered as in the API.
type Severity int32

// Severities.
const (
	Notice   Severity = iota + 1 // forced spend, an overflow allowance in use, or an upper forecast above the limit
	Warning                      // above an alert threshold
	High                         // the forecast is above the limit
	Critical                     // used up, or it will be within a day
)

// Reason says why a budget is at risk, numbered as in the API.
type Reason int32

// Reasons, the most urgent first.
const (
	Exhausted Reason = iota + 1
	Overspend
	MayOverspend
	AboveThreshold
	ForcedSpend
	OverflowInUse
)

// Risk is a budget at risk.
type Risk struct {
	*Account
	Severity   Severity
	Reasons    []Reason
	Threshold  int32 // the highest that is reached, in per mille; 0: none
	Forecast   *Forecast
	Rate       money.Nanos // a day, of late
	RunOut     time.Time   // zero: it lasts
	Affordable money.Nanos // a day, to last
	Features   []FeatureSpend
	Actions    []string
}

// FeatureSpend is what a feature spent of a budget, in its period or the history that is looked at.
type FeatureSpend struct {
	Feature string
	Cost    money.Nanos
	Share   int32 // in per mille
}

// spendOf is what is known of a budget's spend.
type spendOf struct {
	daily    *Daily
	features map[string]money.Nanos
	total    money.Nanos
}

// topFeatures is how many features a risk names.
const topFeatures = 3

// historyPart is how much is asked for at once, so that the answers stay small.
const historyPart = 7 * day

// spend asks what the budgets of the accounts spent of late, by budget.
func (m *Maker) spend(ctx context.Context) (map[string]*spendOf, error) {
	began := map[string]time.Time{}
	for i := range m.Accounts {
		began[m.Accounts[i].Budget.ID] = m.Accounts[i].Period.Start
	}
	by := map[string]*spendOf{}
	whole := m.History()
	for from := whole.From; from.Before(whole.To); from = from.Add(historyPart) {
		part := Window{From: from, To: from.Add(historyPart)}
		if whole.To.Before(part.To) {
			part.To = whole.To
		}
		rows, err := m.sum(ctx, part, []string{usage.DimBudgetPath, usage.DimFeature, usage.DimEffect}, nil, usage.Day)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := &rows[i]
			if r.Keys[2] == usage.EffectAdjustment { // not in the ledger: no ceiling counts it
				continue
			}
			cost, err := r.Cost.Total()
			if err != nil {
				return nil, err
			}
			for id := range strings.SplitSeq(r.Keys[0], "/") {
				start, known := began[id]
				if !known {
					continue
				}
				if err := spendIn(by, id, m.Now).count(r.Start, cost, r.Keys[1], !r.Start.Before(start.Truncate(day))); err != nil {
					return nil, err
				}
			}
		}
	}
	return by, nil
}

func spendIn(by map[string]*spendOf, id string, now time.Time) *spendOf {
	s := by[id]
	if s == nil {
		s = &spendOf{daily: NewDaily(now), features: map[string]money.Nanos{}}
		by[id] = s
	}
	return s
}

func (s *spendOf) count(t time.Time, cost money.Nanos, feature string, inPeriod bool) (err error) {
	if err = s.daily.Add(t, cost); err != nil || !inPeriod {
		return err
	}
	if s.total, err = money.Add(s.total, cost); err == nil {
		s.features[feature] += cost // at most the total
	}
	return err
}

func (s *spendOf) top() []FeatureSpend {
	list := make([]FeatureSpend, 0, len(s.features))
	for f, cost := range s.features {
		if cost > 0 {
			list = append(list, FeatureSpend{f, cost, share(cost, s.total)})
		}
	}
	slices.SortFunc(list, func(a, b FeatureSpend) int {
		return cmp.Or(cmp.Compare(b.Cost, a.Cost), cmp.Compare(a.Feature, b.Feature))
	})
	return list[:min(len(list), topFeatures)]
}

// Risks finds the budgets at risk among the accounts, the most severe first. Errors: of the store, money.ErrOverflow.
func (m *Maker) Risks(ctx context.Context, least Severity) ([]Risk, error) {
	spend, err := m.spend(ctx)
	if err != nil {
		return nil, err
	}
	thresholds := m.thresholds()
	var risks []Risk
	for i := range m.Accounts {
		a := &m.Accounts[i]
		if !a.Period.Contains(m.Now) {
			continue
		}
		r := Risk{Account: a}
		m.foresee(&r, spend[a.Budget.ID])
		if r.judge(m.Now, thresholds[a.Budget.ID]); r.Severity < max(least, Notice) {
			continue
		}
		if s := spend[a.Budget.ID]; s != nil && a.Key == "" && a.Overflow == "" {
			r.Features = s.top()
		}
		r.Actions = m.actions(&r)
		risks = append(risks, r)
	}
	slices.SortFunc(risks, func(a, b Risk) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Reasons[0], b.Reasons[0]), runsOut(&a).Compare(runsOut(&b)),
			cmp.Compare(b.Settled-b.Limit, a.Settled-a.Limit), cmp.Compare(a.Name, b.Name))
	})
	return risks, nil
}

func runsOut(r *Risk) time.Time {
	if r.RunOut.IsZero() {
		return r.Period.End
	}
	return r.RunOut
}

// foresee fills in what will become of an account: from the days of its budget, or for a key and an overflow allowance,
// whose days are not known, as it went since the period began, once a day of it is over. A run is not expected to go on.
func (m *Maker) foresee(r *Risk, s *spendOf) {
	left := r.Period.End.Sub(m.Now).Hours() / 24
	r.Affordable = fromFloat(float64(max(0, r.Limit-r.Settled)) / max(left, 1.0/24))
	if r.Key == "" && r.Overflow == "" {
		if s != nil {
			r.Rate = s.daily.Rate(m.Now)
			if f, out, ok := s.daily.Until(m.Now, r.Period.End, r.Settled, r.Limit); ok {
				r.Forecast, r.RunOut = &f, out
			}
		}
	} else if over := m.Now.Sub(r.Period.Start).Hours() / 24; r.Settled > 0 && over >= 1 && r.Budget.Per != charter.PerRun {
		rate := float64(r.Settled) / over
		r.Rate = fromFloat(rate)
		r.Forecast = &Forecast{Expected: fromFloat(float64(r.Settled) + rate*left), Method: MethodRate, Days: int(over)}
		if lasts := float64(r.Limit-r.Settled) / rate; lasts < left {
			r.RunOut = m.Now.Add(time.Duration(max(0, lasts) * float64(day))).UTC().Truncate(time.Minute)
		}
	}
	if r.Settled >= r.Limit && r.Settled > 0 {
		r.RunOut = m.Now.UTC().Truncate(time.Minute)
	}
}

// judge says whether and why an account is at risk.
func (r *Risk) judge(now time.Time, thresholds []int32) {
	found := func(reason Reason, severity Severity) {
		r.Reasons = append(r.Reasons, reason)
		r.Severity = max(r.Severity, severity)
	}
	for _, t := range thresholds {
		if n, ok := Ratio(int64(r.Limit), int64(t), 1000); ok && r.Settled > 0 && int64(r.Settled) >= n {
			r.Threshold = max(r.Threshold, t)
		}
	}
	f := r.Forecast
	switch {
	case r.Settled >= r.Limit && r.Settled > 0:
		found(Exhausted, Critical)
	case f != nil && f.Expected > r.Limit && !r.RunOut.IsZero() && r.RunOut.Sub(now) < day:
		found(Overspend, Critical)
	case f != nil && f.Expected > r.Limit:
		found(Overspend, High)
	case f != nil && f.Interval && f.High > r.Limit:
		found(MayOverspend, Notice)
	}
	if r.Threshold > 0 {
		found(AboveThreshold, Warning)
	}
	if r.Forced > 0 {
		found(ForcedSpend, Notice)
	}
	if r.Overflow != "" && r.Settled > 0 {
		found(OverflowInUse, Notice)
	}
}

// thresholds are at which shares of its limit an alert is recorded for each budget, as the ledger takes them.
func (m *Maker) thresholds() map[string][]int32 {
	by := map[string][]int32{}
	for _, c := range m.Charters.Charters() {
		if len(c.AlertThresholdsPermille) > 0 {
			by[c.Budget] = append(by[c.Budget], c.AlertThresholdsPermille...)
		}
	}
	for i := range m.Accounts {
		b := m.Accounts[i].Budget
		switch {
		case len(b.AlertThresholdsPermille) > 0:
			by[b.ID] = b.AlertThresholdsPermille
		case len(by[b.ID]) == 0:
			by[b.ID] = []int32{charter.DefaultAlertPermille}
		}
	}
	return by
}

// RunOuts are the accounts of the budgets that a window's usage is charged to, without keys and overflow allowances, that
// will not last their period, by currency, the first to run out first. Errors: of the store, money.ErrOverflow.
func (m *Maker) RunOuts(ctx context.Context, w Window, where map[string][]string) (map[string][]Risk, error) {
	paths, err := m.sum(ctx, w, []string{usage.DimBudgetPath}, where, usage.Whole)
	if err != nil {
		return nil, err
	}
	charged := map[string]bool{}
	for i := range paths {
		for id := range strings.SplitSeq(paths[i].Keys[0], "/") {
			charged[id] = true
		}
	}
	spend, err := m.spend(ctx)
	if err != nil {
		return nil, err
	}
	by := map[string][]Risk{}
	for i := range m.Accounts {
		a := &m.Accounts[i]
		if a.Key != "" || a.Overflow != "" || !charged[a.Budget.ID] || !a.Period.Contains(m.Now) {
			continue
		}
		r := Risk{Account: a}
		if m.foresee(&r, spend[a.Budget.ID]); !r.RunOut.IsZero() {
			by[a.Budget.Currency] = append(by[a.Budget.Currency], r)
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b Risk) int { return cmp.Or(a.RunOut.Compare(b.RunOut), cmp.Compare(a.Name, b.Name)) })
	}
	return by, nil
}
