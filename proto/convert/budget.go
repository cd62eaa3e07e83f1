package convert

import (
	"errors"
	"maps"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// BudgetToProto converts a budget with its meta.
func BudgetToProto(b *charter.Budget) *chartergatev1.Budget {
	return &chartergatev1.Budget{
		Name: b.Name(), DisplayName: b.DisplayName, Parent: named("budgets/", b.Parent), Owner: OwnerToProto(b.Owner),
		LimitNanos: int64(b.Limit), Currency: b.Currency, Period: PeriodToProto(b.Period),
		RolloverCapNanos: int64(b.RolloverCap), Per: chartergatev1.BudgetKey(b.Per),
		AlertThresholdsPermille: slices.Clone(b.AlertThresholdsPermille),
		OnExpiry:                chartergatev1.OnExpiry(b.OnExpiry), Labels: maps.Clone(b.Labels),
		Etag: etag(b.Meta), CreateTime: TimeToProto(b.Created), UpdateTime: TimeToProto(b.Updated),
	}
}

// BudgetFromProto converts a budget. An empty currency stays empty: only who knows the parent can fill it in.
func BudgetFromProto(p *chartergatev1.Budget) (*charter.Budget, error) {
	bid, err := id(p.GetName(), "budgets/")
	if err != nil {
		return nil, err
	}
	parent, err := reference(p.Name, "parent", p.Parent, "budgets/")
	if err != nil {
		return nil, err
	}
	period, err := PeriodFromProto(p.Name, p.Period)
	if err != nil {
		return nil, err
	}
	return &charter.Budget{
		ID: bid, DisplayName: p.DisplayName, Parent: parent, Owner: OwnerFromProto(p.Owner),
		Limit: money.Nanos(p.LimitNanos), Currency: p.Currency, Period: period,
		RolloverCap: money.Nanos(p.RolloverCapNanos), Per: charter.Per(p.Per),
		AlertThresholdsPermille: p.AlertThresholdsPermille,
		OnExpiry:                charter.OnExpiry(p.OnExpiry), Labels: p.Labels,
	}, nil
}

// PeriodToProto converts a period.
func PeriodToProto(p charter.Period) *chartergatev1.Period {
	return &chartergatev1.Period{
		Calendar: chartergatev1.CalendarPeriod(p.Calendar), TimeZone: p.Zone,
		StartTime: TimeToProto(p.Start), EndTime: TimeToProto(p.End),
	}
}

// PeriodFromProto converts the period of the named budget. Its error names the field and wraps the *charter.PeriodError
// that says what is wrong.
func PeriodFromProto(budget string, p *chartergatev1.Period) (charter.Period, error) {
	start, err := timeFromProto(budget, "period.start_time", p.GetStartTime())
	if err != nil {
		return charter.Period{}, err
	}
	end, err := timeFromProto(budget, "period.end_time", p.GetEndTime())
	if err != nil {
		return charter.Period{}, err
	}
	period, err := charter.NewPeriod(charter.Calendar(p.GetCalendar()), p.GetTimeZone(), start, end)
	if problem := (*charter.PeriodError)(nil); errors.As(err, &problem) {
		return period, &PeriodError{charter.InvalidError{Name: budget, Field: "period", Problem: problem.Problem}, problem}
	}
	return period, err
}

// PeriodError is a *charter.PeriodError with the field that has it: errors.As finds it as a *charter.InvalidError and
// as a *charter.PeriodError.
type PeriodError struct {
	invalid charter.InvalidError
	period  *charter.PeriodError
}

func (e *PeriodError) Error() string {
	return e.invalid.Name + ": " + e.invalid.Field + ": " + e.period.Problem
}

// Unwrap gives both.
func (e *PeriodError) Unwrap() []error { return []error{&e.invalid, e.period} }
