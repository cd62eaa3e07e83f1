package preflight

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
)

// Status is how an account stands, with its budget and period.
type Status struct {
	ledger.State
	Name     string
	Period   string
	Span     charter.Span
	Currency string
	Budget   *charter.Budget
}

// statusName is the resource name of an account: `budgets/{id}`, with `/keys/{key}` or `/overflow/{feature}`.
func statusName(id ledger.AccountID) string {
	switch {
	case id.Key != "":
		return "budgets/" + id.Budget + "/keys/" + id.Key
	case id.Overflow != "":
		return "budgets/" + id.Budget + "/overflow/" + id.Overflow
	}
	return "budgets/" + id.Budget
}

// StatusName is the resource name of an account.
func StatusName(id ledger.AccountID) string { return statusName(id) }

// Status tells how one budget stands in its current period, by its status name. Errors: *BudgetUnknownError,
// *UnavailableError.
func (s *Service) Status(ctx context.Context, name string) (*Status, error) {
	snap := s.Control.Snapshot()
	id, rest, _ := strings.Cut(strings.TrimPrefix(name, "budgets/"), "/")
	b := snap.Budget(id)
	if b == nil {
		return nil, &BudgetUnknownError{"budgets/" + id}
	}
	account, span := s.current(b)
	kind, key, _ := strings.Cut(rest, "/")
	switch {
	case rest == "" && b.Per != charter.PerNone:
		return nil, &BudgetUnknownError{"a single status of budgets/" + id + " (it is kept per " + b.Per.String() + ": name budgets/" + id + "/keys/{" + b.Per.String() + "})"}
	case kind == "keys" && b.Per != charter.PerNone:
		account.Key = key
	case kind == "overflow" && snap.Charter(key) != nil && snap.Charter(key).Budget == id:
		account.Overflow = key
	case rest != "":
		return nil, &BudgetUnknownError{name}
	}
	states, err := s.states(ctx, []ledger.AccountID{account})
	if err != nil {
		return nil, err
	}
	return status(b, span, states[0]), nil
}

func (s *Service) current(b *charter.Budget) (ledger.AccountID, charter.Span) {
	span, _ := s.span(b, s.Clock.Now())
	return ledger.AccountID{Budget: b.ID, Start: span.Start.Unix(), End: span.End.Unix()}, *span
}

func status(b *charter.Budget, span charter.Span, st ledger.State) *Status {
	return &Status{State: st, Name: statusName(st.ID), Period: span.String(), Span: span, Currency: b.Currency, Budget: b}
}

// Statuses tells how the budgets stand at and under root, or all for "", in the order of their budgets' ids, from
// the first status behind the name after, at most limit. Keyed budgets and overflow allowances have one for each key and feature seen.
func (s *Service) Statuses(ctx context.Context, root, after string, limit int) ([]*Status, error) {
	snap := s.Control.Snapshot()
	if root != "" && snap.Budget(root) == nil {
		return nil, &BudgetUnknownError{"budgets/" + root}
	}
	var list []*Status
	afterID, _, _ := strings.Cut(strings.TrimPrefix(after, "budgets/"), "/")
	for _, b := range snap.Budgets() {
		if b.ID < afterID || root != "" && !snap.Under(b.ID, root) {
			continue
		}
		account, span := s.current(b)
		ids, err := s.Ledger.Keys(ctx, b.ID, account.Start)
		if err != nil {
			return nil, &UnavailableError{err.Error()}
		}
		if b.Per == charter.PerNone && !slices.Contains(ids, account) {
			ids = append(ids, account)
		}
		if b.ID == afterID {
			ids = slices.DeleteFunc(ids, func(id ledger.AccountID) bool { return statusName(id) <= after })
		}
		slices.SortFunc(ids, func(a, b ledger.AccountID) int { return cmp.Compare(statusName(a), statusName(b)) })
		ids = ids[:min(len(ids), limit-len(list))]
		states, err := s.states(ctx, ids)
		if err != nil {
			return nil, err
		}
		for _, st := range states {
			list = append(list, status(b, span, st))
		}
		if len(list) >= limit {
			break
		}
	}
	return list, nil
}

// states reads accounts, opening those that are not open.
func (s *Service) states(ctx context.Context, ids []ledger.AccountID) ([]ledger.State, error) {
	states := make([]ledger.State, 0, len(ids))
	for part := range slices.Chunk(ids, openAtOnce) {
		if err := s.openPath(ctx, part); err != nil {
			return nil, err
		}
		s.mu.Lock()
		others := len(s.ledger.Owners()) > 1 || slices.ContainsFunc(part, func(id ledger.AccountID) bool {
			a := s.ledger.Account(id)
			return a != nil && a.Unread() // of one that is gone
		})
		s.mu.Unlock()
		if others { // what they have settled
			if err := s.refresh(ctx, part); err != nil {
				return nil, err
			}
		}
		s.mu.Lock()
		for _, id := range part {
			if a := s.ledger.Account(id); a != nil {
				states = append(states, a.State())
			}
		}
		s.mu.Unlock()
	}
	return states, nil
}

// Open gives how every open account stands now, without asking the store, at most limit of them, keyed ones excluded:
// for metrics.
func (s *Service) Open(limit int) []ledger.State {
	now := s.Clock.Now().Unix()
	s.mu.Lock()
	defer s.mu.Unlock()
	var states []ledger.State
	for _, a := range s.ledger.Accounts() {
		if id := a.ID; id.Key == "" && id.Start <= now && now < id.End && len(states) < limit {
			states = append(states, a.State())
		}
	}
	return states
}

// Alerts gives recorded alerts of a budget, or of all for "", the newest first, at most limit. Those of a budget that is
// deleted stay. Errors: *BudgetUnknownError, *UnavailableError.
func (s *Service) Alerts(ctx context.Context, budget string, limit int) ([]ledger.Alert, error) {
	alerts, err := s.Ledger.Alerts(ctx, budget, limit)
	if err != nil {
		return nil, &UnavailableError{err.Error()}
	}
	if budget != "" && len(alerts) == 0 && s.Control.Snapshot().Budget(budget) == nil {
		return nil, &BudgetUnknownError{"budgets/" + budget}
	}
	return alerts, nil
}

// PeriodName names the period of an account.
func (s *Service) PeriodName(id ledger.AccountID) string {
	if b := s.Control.Snapshot().Budget(id.Budget); b != nil {
		if span, _ := b.Period.At(time.Unix(id.Start, 0)); span.Start.Unix() == id.Start {
			return span.String()
		}
	}
	return time.Unix(id.Start, 0).UTC().Format(time.RFC3339)
}

// AccountAlerts gives the recorded alerts of one account, the newest first.
func (s *Service) AccountAlerts(ctx context.Context, id ledger.AccountID) ([]ledger.Alert, error) {
	alerts, err := s.Ledger.AccountAlerts(ctx, id)
	if err != nil {
		return nil, &UnavailableError{err.Error()}
	}
	return alerts, nil
}
