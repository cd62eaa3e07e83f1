package oracle

import (
	"slices"
	"sort"
	"time"
)

// ceilings are the ceilings of one budget over the run, changed by one client, one change after the other.
type ceilings []Limit

func (h *History) ceilings() map[string]ceilings {
	all := map[string]ceilings{}
	for _, l := range h.Limits {
		all[l.Account] = append(all[l.Account], l)
	}
	for _, c := range all {
		slices.SortFunc(c, func(a, b Limit) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	}
	return all
}

// between gives the ceilings that can have been in force somewhere between two times, when a change may be seen up to
// stale after it was acknowledged.
func (c ceilings) between(from, to int64, stale time.Duration) (least, most int64) {
	// Whatever comes before the last change that everybody had seen by then is over.
	to0 := sort.Search(len(c), func(i int) bool { return c[i].Start > to })
	first := 0
	for i := to0 - 1; i >= 0; i-- {
		if c[i].End != 0 && c[i].End+int64(stale) <= from {
			first = i
			break
		}
	}
	if to0 == 0 {
		return 0, 0
	}
	least, most = c[first].Nanos, c[first].Nanos
	for _, l := range c[first:to0] {
		least, most = min(least, l.Nanos), max(most, l.Nanos)
	}
	return least, most
}

// of finds the ceilings of an account: its own, or those that its budget gives each key.
func of(all map[string]ceilings, account string) ceilings {
	if c, ok := all[account]; ok {
		return c
	}
	return all[budgetOf(account)]
}
