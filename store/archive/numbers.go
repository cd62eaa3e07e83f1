package archive

import "slices"

// Numbers is a set of batch numbers, as the runs that they mostly come in.
type Numbers struct{ runs []run }

type run struct{ from, to uint64 } // both included

// Add says whether n is new.
func (s *Numbers) Add(n uint64) bool {
	i, found := slices.BinarySearchFunc(s.runs, n, func(r run, n uint64) int {
		switch {
		case n < r.from:
			return 1
		case n > r.to:
			return -1
		}
		return 0
	})
	if found {
		return false
	}
	below, above := i > 0 && s.runs[i-1].to+1 == n, i < len(s.runs) && n+1 == s.runs[i].from
	switch {
	case below && above:
		s.runs[i-1].to = s.runs[i].to
		s.runs = slices.Delete(s.runs, i, i+1)
	case below:
		s.runs[i-1].to = n
	case above:
		s.runs[i].from = n
	default:
		s.runs = slices.Insert(s.runs, i, run{n, n})
	}
	return true
}

// First is the smallest number; false where the set is empty.
func (s *Numbers) First() (uint64, bool) {
	if len(s.runs) == 0 {
		return 0, false
	}
	return s.runs[0].from, true
}

// Lacks gives the first number between two, both included, that is not in the set.
func (s *Numbers) Lacks(from, to uint64) (n uint64, lacks bool) {
	for _, r := range s.runs {
		if from > to || r.from > from {
			break
		}
		if r.to >= from {
			from = r.to + 1
		}
	}
	return from, from <= to
}
