package preflight

import (
	"context"
	"slices"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/routing"
)

// BudgetView is how a budget of a call's path stands, under its status name.
type BudgetView struct {
	Name string
	ledger.State
}

// Look gives what Check would answer, with what the policies are asked with and how the budgets stand, from the leaf to
// the root, a moment before. Errors: those of Check.
func (s *Service) Look(ctx context.Context, call *routing.Call) (*Decision, *routing.Input, []BudgetView, error) {
	snap, now := s.Control.Snapshot(), s.Clock.Now()
	c := snap.Charter(call.Feature)
	if c == nil {
		return nil, nil, nil, &FeatureUnknownError{call.Feature}
	}
	if err := s.alive(s.Clock.Boot()); err != nil {
		return nil, nil, nil, err
	}
	var steps [charter.MaxDepth]step
	path, _, err := s.path(steps[:0], snap, c, call, now)
	if err != nil {
		return nil, nil, nil, err
	}
	accounts, states, err := s.accounts(ctx, nil, nil, snap, c.ID, path, now)
	if err != nil {
		return nil, nil, nil, err
	}
	views := make([]BudgetView, len(accounts))
	s.mu.Lock()
	for i, a := range accounts {
		views[i] = BudgetView{statusName(a.ID), a.State()}
	}
	s.mu.Unlock()
	in := &routing.Input{
		Now: now, Call: call, Charter: c, Budgets: slices.Clone(states), Catalog: snap.Catalog(), Prices: snap.Prices(), Epoch: snap.Epoch,
	}
	d, err := s.Check(Here(ctx), call)
	return d, in, views, err
}
