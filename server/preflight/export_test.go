package preflight

import "slices"

// Owners are the replicas that this one knows of.
func (s *Service) Owners() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ledger.Owners())
}

// HomeOf is the replica that holds what is left of a tree's budgets near their ceilings.
func (s *Service) HomeOf(root string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Home(root)
}

// LooksAfter says whether this replica has taken over an owner that is gone.
func (s *Service) LooksAfter(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.Predecessor(owner) != nil
}
