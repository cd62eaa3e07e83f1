package charter

// Activated is the snapshot in which a revision is stored and decides in the place of what does: to try it out. Error:
// where its policy is none.
func (s *Snapshot) Activated(r *PolicyRevision) (*Snapshot, error) {
	return s.Replace(s.Epoch, []Change{Set(r), Set(s.Policy(r.Policy).Activated(r.Policy, r.Hash))})
}
