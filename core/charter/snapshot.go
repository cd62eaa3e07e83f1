package charter

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/pricing"
)

// Change sets a record, or deletes it when Record is nil.
type Change struct {
	Name   string
	Record Record
}

// Set is the change that sets a record.
func Set(r Record) Change { return Change{r.Name(), r} }

// users counts what names a budget.
type users struct{ children, charters int }

// Snapshot is the immutable whole of the control records at one epoch. The zero value is empty.
type Snapshot struct {
	// Epoch is the store's revision of the last control transaction in it.
	Epoch int64

	charters  cowMap[*Charter]
	budgets   cowMap[*Budget]
	users     cowMap[users] // by budget
	books     map[string]*PriceBook
	policies  [levels]cowMap[*Policy] // by what they are attached to
	revisions cowMap[*PolicyRevision] // by policy and hash
	catalog   *Catalog
	prices    *pricing.Book
}

// Charter finds a charter by id; nil if there is none.
func (s *Snapshot) Charter(id string) *Charter { c, _ := s.charters.get(id); return c }

// Budget finds a budget by id; nil if there is none.
func (s *Snapshot) Budget(id string) *Budget { b, _ := s.budgets.get(id); return b }

// Catalog is the catalog; nil before there is one.
func (s *Snapshot) Catalog() *Catalog { return s.catalog }

// Prices finds prices by model and time.
func (s *Snapshot) Prices() *pricing.Book { return s.prices }

// PriceBook finds a price book by id; nil if there is none.
func (s *Snapshot) PriceBook(id string) *PriceBook { return s.books[id] }

// Record finds a record by resource name; nil if there is none.
func (s *Snapshot) Record(name string) Record {
	kind, id, _ := strings.Cut(name, "/")
	switch {
	case kind == "charters":
		if c := s.Charter(id); c != nil {
			return c
		}
	case kind == "budgets":
		if b := s.Budget(id); b != nil {
			return b
		}
	case kind == "priceBooks":
		if b := s.books[id]; b != nil {
			return b
		}
	case name == "catalog":
		if s.catalog != nil {
			return s.catalog
		}
	case kind == "policies" && strings.Contains(id, revisionsInfix):
		if r, ok := s.revisions.get(id); ok {
			return r
		}
	case kind == "policies":
		if p := s.Policy(id); p != nil {
			return p
		}
	}
	return nil
}

// Charters lists the charters in the order of their ids.
func (s *Snapshot) Charters() []*Charter { return sorted(s.charters.all(), s.charters.size) }

// Budgets lists the budgets in the order of their ids.
func (s *Snapshot) Budgets() []*Budget { return sorted(s.budgets.all(), s.budgets.size) }

// PriceBooks lists the price books in the order of their ids.
func (s *Snapshot) PriceBooks() []*PriceBook {
	return sorted(func(yield func(string, *PriceBook) bool) {
		for k, v := range s.books {
			if !yield(k, v) {
				return
			}
		}
	}, len(s.books))
}

// Counts says how many charters and budgets there are.
func (s *Snapshot) Counts() (charters, budgets int) { return s.charters.size, s.budgets.size }

func sorted[V Record](all func(yield func(string, V) bool), size int) []V {
	list := make([]V, 0, size)
	for _, v := range all {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b V) int { return cmp.Compare(a.Name(), b.Name()) })
	return list
}

// Path appends the budget and its ancestors to dst, from the leaf to the root. False where one does not exist.
func (s *Snapshot) Path(dst []*Budget, leaf string) ([]*Budget, bool) {
	for id := leaf; id != ""; {
		b, ok := s.budgets.get(id)
		if !ok || len(dst) == MaxDepth {
			return dst, false
		}
		dst = append(dst, b)
		id = b.Parent
	}
	return dst, true
}

// Under says whether a budget is root or below it.
func (s *Snapshot) Under(id, root string) bool {
	for depth := 0; id != "" && depth < MaxDepth; depth++ {
		if id == root {
			return true
		}
		b, ok := s.budgets.get(id)
		if !ok {
			return false
		}
		id = b.Parent
	}
	return false
}

// Replace gives the snapshot with changes that are known to fit together, because With has checked them when they were
// written. Records carry their Meta.
func (s *Snapshot) Replace(epoch int64, changes []Change) (*Snapshot, error) {
	next := *s
	next.Epoch = max(s.Epoch, epoch)
	charters, budgets := edit[*Charter]{m: s.charters}, edit[*Budget]{m: s.budgets}
	revisions := edit[*PolicyRevision]{m: s.revisions}
	var policies [levels]edit[*Policy]
	for l := range policies {
		policies[l].m = s.policies[l]
	}
	named := edit[users]{m: s.users}
	count := func(budget string, children, charters int) {
		if budget != "" {
			n, _ := named.m.get(budget)
			named.set(budget, users{n.children + children, n.charters + charters})
		}
	}
	booksChanged := false
	for _, c := range changes {
		kind, id, _ := strings.Cut(c.Name, "/")
		switch {
		case kind == "charters":
			if old, ok := charters.m.get(id); ok {
				count(old.Budget, 0, -1)
			}
			charters.delete(id)
			if c.Record != nil {
				r := c.Record.(*Charter)
				charters.set(id, r)
				count(r.Budget, 0, 1)
			}
		case kind == "budgets":
			if old, ok := budgets.m.get(id); ok {
				count(old.Parent, -1, 0)
			}
			budgets.delete(id)
			if c.Record != nil {
				r := c.Record.(*Budget)
				budgets.set(id, r)
				count(r.Parent, 1, 0)
			}
		case kind == "priceBooks":
			if !booksChanged {
				next.books, booksChanged = clone(s.books), true
			}
			delete(next.books, id)
			if c.Record != nil {
				next.books[id] = c.Record.(*PriceBook)
			}
		case c.Name == "catalog":
			next.catalog = nil
			if c.Record != nil {
				r := c.Record.(*Catalog)
				if r.rank == nil {
					r = r.withMeta(r.Meta).(*Catalog)
				}
				next.catalog = r
			}
		case kind == "policies" && strings.Contains(id, revisionsInfix):
			revisions.delete(id)
			if c.Record != nil {
				revisions.set(id, c.Record.(*PolicyRevision))
			}
		case kind == "policies":
			level, to, ok := attachment(id)
			if !ok {
				return nil, fmt.Errorf("unknown policy %q", c.Name)
			}
			policies[level].delete(to)
			if c.Record != nil {
				policies[level].set(to, c.Record.(*Policy))
			}
		default:
			return nil, fmt.Errorf("unknown control record %q", c.Name)
		}
	}
	next.charters, next.budgets, next.users, next.revisions = charters.m, budgets.m, named.m, revisions.m
	for l := range policies {
		next.policies[l] = policies[l].m
	}
	if booksChanged {
		var prices []*pricing.Price
		var contracts []pricing.Contract
		for _, id := range slices.Sorted(maps.Keys(next.books)) {
			b := next.books[id]
			prices = append(prices, b.Prices...)
			contracts = append(contracts, pricing.Contract{Book: b.Name(), Adjustments: b.Adjustments, Rates: b.Rates})
		}
		book, err := pricing.NewBook(prices, contracts...)
		if err != nil {
			return nil, err
		}
		next.prices = book
	}
	return &next, nil
}

func clone[V any](m map[string]V) map[string]V {
	n := make(map[string]V, len(m)+1)
	for k, v := range m {
		n[k] = v
	}
	return n
}

// With checks changes against the snapshot and gives the snapshot with them. All or nothing. Errors:
// *ReferenceError, *CycleError, *InUseError, *ImmutableError, *InvalidError, *pricing.ConflictError.
func (s *Snapshot) With(changes []Change) (*Snapshot, error) {
	fixed := make([]Change, len(changes))
	for i, c := range changes {
		if b, ok := c.Record.(*PriceBook); ok && b != nil {
			c.Record = b.withMeta(b.Meta) // prices learn their book
		}
		fixed[i] = c
	}
	next, err := s.Replace(s.Epoch, fixed)
	if err != nil {
		return nil, err
	}
	catalogChanged := false
	for _, c := range fixed {
		switch r := c.Record.(type) {
		case *Charter:
			err = next.checkCharter(r)
		case *Budget:
			err = next.checkBudget(r, s.Budget(r.ID))
		case *Catalog:
			catalogChanged = true
			err = checkCatalog(r)
		case *Policy:
			err = next.checkPolicy(r)
		case nil:
			if user := next.userOf(c.Name); user != "" {
				err = &InUseError{c.Name, user}
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if catalogChanged {
		for _, c := range next.charters.all() {
			if missing := next.missingInCatalog(c); missing != "" {
				return nil, &InUseError{missing, c.Name()}
			}
		}
	}
	return next, nil
}

// userOf names a record that names one that is deleted; empty if there is none.
func (s *Snapshot) userOf(name string) string {
	kind, id, _ := strings.Cut(name, "/")
	switch kind {
	case "budgets":
		if n, _ := s.users.get(id); n == (users{}) {
			return ""
		}
		for _, b := range s.budgets.all() {
			if b.Parent == id {
				return b.Name()
			}
		}
		for _, c := range s.charters.all() {
			if c.Budget == id {
				return c.Name()
			}
		}
	case "charters":
		if p, ok := s.policies[levelFeature].get(id); ok {
			return p.Name()
		}
	case "policies":
		if policy, hash, ok := strings.Cut(id, revisionsInfix); ok {
			if p := s.Policy(policy); p != nil && (p.Active == hash || p.Shadow == hash) {
				return p.Name()
			}
		}
	}
	return ""
}

func (s *Snapshot) missingInCatalog(c *Charter) string {
	for _, t := range c.PermittedTiers {
		if s.catalog.Rank(t) < 0 {
			return "catalog/tiers/" + t
		}
	}
	for _, m := range c.PermittedModels {
		if s.catalog.Model(m) == nil {
			return "catalog/models/" + m
		}
	}
	return ""
}

// permitsAny says whether a charter that names both tiers and models leaves any model.
func (s *Snapshot) permitsAny(c *Charter) bool {
	if len(c.PermittedTiers) == 0 || len(c.PermittedModels) == 0 {
		return true
	}
	return slices.ContainsFunc(c.PermittedModels, func(id string) bool {
		return slices.Contains(c.PermittedTiers, s.catalog.Model(id).Tier)
	})
}

func (s *Snapshot) checkCharter(c *Charter) error {
	if s.Budget(c.Budget) == nil {
		return &ReferenceError{c.Name(), "budgets/" + c.Budget}
	}
	if missing := s.missingInCatalog(c); missing != "" {
		return &ReferenceError{c.Name(), missing}
	}
	if !s.permitsAny(c) {
		return &InvalidError{c.Name(), "permitted_models", "has no model of the permitted tiers: no call could ever be served"}
	}
	e := c.Exhausted
	if e.Mode >= ExhaustedDowngrade && e.OverflowAllowance <= 0 {
		return &InvalidError{c.Name(), "exhausted.overflow_allowance_nanos", "must be above 0 with DOWNGRADE and TRICKLE: calls after 100% are paid from it"}
	}
	if e.Mode == ExhaustedTrickle && e.RequestsPerMinute <= 0 {
		return &InvalidError{c.Name(), "exhausted.requests_per_minute", "must be 1 or more with TRICKLE"}
	}
	return checkThresholds(c.Name(), c.AlertThresholdsPermille)
}

func checkThresholds(name string, t []int32) error {
	if !slices.IsSorted(t) {
		return &InvalidError{name, "alert_thresholds_permille", "must be in ascending order"}
	}
	return nil
}

func (s *Snapshot) checkBudget(b, old *Budget) error {
	if old != nil {
		switch {
		case old.Currency != b.Currency:
			return &ImmutableError{b.Name(), "currency"}
		case old.Per != b.Per:
			return &ImmutableError{b.Name(), "per"}
		case old.Period.Calendar != b.Period.Calendar || old.Period.Zone != b.Period.Zone ||
			!old.Period.Start.Equal(b.Period.Start) || !old.Period.End.Equal(b.Period.End):
			return &ImmutableError{b.Name(), "period"}
		}
	}
	if b.RolloverCap > 0 && b.Period.Calendar == Window {
		return &InvalidError{b.Name(), "rollover_cap_nanos", "must be 0: a fixed window has no next period to roll over to"}
	}
	if err := checkThresholds(b.Name(), b.AlertThresholdsPermille); err != nil {
		return err
	}
	seen := []string{b.ID}
	for at := b; at.Parent != ""; {
		if i := slices.Index(seen, at.Parent); i >= 0 { // also a cycle above b
			return &CycleError{append(seen[i:], at.Parent)}
		}
		parent := s.Budget(at.Parent)
		if parent == nil {
			return &ReferenceError{at.Name(), "budgets/" + at.Parent}
		}
		if parent.Currency != b.Currency {
			return &InvalidError{b.Name(), "currency", fmt.Sprintf("is %s but its ancestor %s is in %s: a path has one currency", b.Currency, parent.Name(), parent.Currency)}
		}
		seen = append(seen, parent.ID)
		if len(seen) > MaxDepth {
			return &InvalidError{b.Name(), "parent", fmt.Sprintf("is too deep: the path would have more than %d budgets", MaxDepth)}
		}
		at = parent
	}
	return s.checkDepthBelow(b, len(seen))
}

// checkDepthBelow keeps paths through b short enough when b moves with its subtree.
func (s *Snapshot) checkDepthBelow(b *Budget, depth int) error {
	if n, _ := s.users.get(b.ID); n.children == 0 {
		return nil
	}
	if depth >= MaxDepth {
		for _, c := range s.budgets.all() {
			if c.Parent == b.ID {
				return &InvalidError{b.Name(), "parent", fmt.Sprintf("is too deep: paths below would have more than %d budgets", MaxDepth)}
			}
		}
		return nil
	}
	for _, c := range s.budgets.all() {
		if c.Parent == b.ID {
			if err := s.checkDepthBelow(c, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkCatalog(c *Catalog) error {
	tiers := map[string]bool{}
	for i, t := range c.Tiers {
		if tiers[t.ID] {
			return &InvalidError{c.Name(), fmt.Sprintf("tiers[%d].id", i), fmt.Sprintf("%q is there twice", t.ID)}
		}
		tiers[t.ID] = true
	}
	models := map[string]bool{}
	for i, m := range c.Models {
		switch {
		case models[m.ID]:
			return &InvalidError{c.Name(), fmt.Sprintf("models[%d].id", i), fmt.Sprintf("%q is there twice", m.ID)}
		case !tiers[m.Tier]:
			return &InvalidError{c.Name(), fmt.Sprintf("models[%d].tier", i), fmt.Sprintf("%q is not one of the tiers", m.Tier)}
		}
		models[m.ID] = true
	}
	return nil
}

// NewMeta is the meta of a record that a transaction writes at a time, given what it replaces.
func NewMeta(old Record, now time.Time) Meta {
	m := Meta{Created: now, Updated: now}
	if old != nil {
		m.Created = MetaOf(old).Created
	}
	return m
}

// MetaOf gives a record's meta.
func MetaOf(r Record) Meta {
	switch r := r.(type) {
	case *Charter:
		return r.Meta
	case *Budget:
		return r.Meta
	case *Catalog:
		return r.Meta
	case *PriceBook:
		return r.Meta
	case *Policy:
		return r.Meta
	case *PolicyRevision:
		return r.Meta
	}
	return Meta{}
}
