package bill

import (
	"cmp"
	"maps"
	"math/big"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/money"
)

// Spend is what the ledger counted of a model for a feature on a day.
type Spend struct {
	Provider, Model, Feature, Currency string
	Day                                time.Time
	InputTokens, OutputTokens          int64 // all classes of each
	Input, Output                      money.Nanos
	Other                              money.Nanos // retrieval, tools, compute, fees
	Adjusted                           money.Nanos // by adjustments that were posted before
}

func (s *Spend) total() money.Nanos { return s.Input + s.Output + s.Other + s.Adjusted }

// Charge is what was billed of a model, by the feature tag, on a day.
type Charge struct {
	Provider, Model, Feature, Currency string // Feature is empty where the lines have no such tag
	Day                                time.Time
	Class                              string
	Tokens                             int64
	Cost                               money.Nanos
}

// Cause explains a part of a variance.
type Cause string

// Causes. Those of one row add up to its variance exactly.
const (
	Rate            Cause = "rate"              // the same tokens at another price
	Volume          Cause = "volume"            // other tokens, at the ledger's price
	Unallocated     Cause = "unallocated"       // billed without a feature tag: what features lack and untagged lines have
	MissingInBill   Cause = "missing_in_bill"   // the ledger has spend of a day, the bill has nothing of its model
	MissingInLedger Cause = "missing_in_ledger" // the bill has charges of a day, the ledger nothing of their model
	Adjusted        Cause = "adjusted"          // posted before to make the ledger equal to the bill
	Unexplained     Cause = "unexplained"       // a cost without tokens: rate and volume cannot be told apart
)

// Causes in the order in which they are shown.
var Causes = []Cause{Rate, Volume, Unallocated, MissingInBill, MissingInLedger, Adjusted, Unexplained}

// Key says what is compared.
type Key struct {
	Currency, Provider, Model, Feature string
	Day                                time.Time
}

// Variance is billed less ledger, explained.
type Variance struct {
	Key
	Ledger, Billed money.Nanos
	Parts          map[Cause]money.Nanos // without those that are 0
}

// Amount is billed less ledger.
func (v *Variance) Amount() money.Nanos { return v.Billed - v.Ledger }

// Add adds another variance to v.
func (v *Variance) Add(w *Variance) {
	v.Ledger, v.Billed = v.Ledger+w.Ledger, v.Billed+w.Billed
	for c, n := range w.Parts {
		v.add(c, n)
	}
}

func (v *Variance) add(c Cause, n money.Nanos) {
	if n == 0 {
		return
	}
	if v.Parts == nil {
		v.Parts = make(map[Cause]money.Nanos)
	}
	if v.Parts[c] += n; v.Parts[c] == 0 {
		delete(v.Parts, c)
	}
}

// Reconciliation compares bills with the ledger.
type Reconciliation struct {
	Rows     []Variance // by currency, provider, model, feature and day
	Findings []Finding
}

// component is the tokens and costs of a cell that are priced alike.
type component struct {
	name string
	t, q map[string]int64       // tokens by feature: of the ledger, of the bill
	l, b map[string]money.Nanos // costs
}

func newComponent(name string) *component {
	return &component{name, map[string]int64{}, map[string]int64{}, map[string]money.Nanos{}, map[string]money.Nanos{}}
}

// cell is one model on one day.
type cell struct {
	Key       // without Feature
	spends    []*Spend
	charges   []*Charge
	unclassed bool // the bill has tokens of no class
}

// Reconcile explains the difference of each model, feature and day. The names must be those of Names.Match already.
// Error: money.ErrOverflow.
func Reconcile(spends []Spend, charges []Charge) (*Reconciliation, error) {
	if err := fits(spends, charges); err != nil {
		return nil, err
	}
	cells := make(map[Key]*cell)
	at := func(currency, provider, model string, day time.Time) *cell {
		k := Key{Currency: currency, Provider: provider, Model: model, Day: day.UTC().Truncate(24 * time.Hour)}
		if cells[k] == nil {
			cells[k] = &cell{Key: k}
		}
		return cells[k]
	}
	for i := range spends {
		s := &spends[i]
		if s.total() == 0 && s.InputTokens == 0 && s.OutputTokens == 0 && s.Adjusted == 0 {
			continue
		}
		c := at(s.Currency, s.Provider, s.Model, s.Day)
		c.spends = append(c.spends, s)
	}
	for i := range charges {
		b := &charges[i]
		c := at(b.Currency, b.Provider, b.Model, b.Day)
		c.charges = append(c.charges, b)
		c.unclassed = c.unclassed || b.Class == ""
	}
	r := &Reconciliation{}
	f := newFinder()
	for _, k := range slices.SortedFunc(maps.Keys(cells), Key.Compare) {
		rows, err := cells[k].explain(f)
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, rows...)
	}
	slices.SortFunc(r.Rows, func(a, b Variance) int { return a.Key.Compare(b.Key) })
	r.Findings = f.findings()
	return r, nil
}

// fits refuses sums that might overflow.
func fits(spends []Spend, charges []Charge) error {
	sum := money.Nanos(0)
	add := func(n money.Nanos) (err error) {
		if n < 0 {
			n = -n
		}
		if sum, err = money.Add(sum, n); err != nil || sum > 1<<61 {
			return money.ErrOverflow
		}
		return nil
	}
	for _, s := range spends {
		for _, n := range []money.Nanos{s.Input, s.Output, s.Other, s.Adjusted} {
			if err := add(n); err != nil {
				return err
			}
		}
	}
	for _, c := range charges {
		if err := add(c.Cost); err != nil {
			return err
		}
	}
	return nil
}

// Compare orders by currency, provider, model, feature and day.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Currency, o.Currency), cmp.Compare(k.Provider, o.Provider), cmp.Compare(k.Model, o.Model), cmp.Compare(k.Feature, o.Feature), k.Day.Compare(o.Day))
}

// rows are the variances of a cell by feature.
type rows struct {
	key Key
	by  map[string]*Variance
}

func (r *rows) of(feature string) *Variance {
	v := r.by[feature]
	if v == nil {
		k := r.key
		k.Feature = feature
		v = &Variance{Key: k}
		r.by[feature] = v
	}
	return v
}

func (c *cell) explain(f *finder) ([]Variance, error) {
	r := &rows{c.Key, make(map[string]*Variance)}
	ledger := false
	for _, s := range c.spends {
		v := r.of(s.Feature)
		v.Ledger += s.total()
		v.add(Adjusted, -s.Adjusted)
		ledger = ledger || s.total() != s.Adjusted || s.InputTokens+s.OutputTokens > 0
	}
	for _, b := range c.charges {
		r.of(b.Feature).Billed += b.Cost
		f.charge(c.Key, b)
	}
	var err error
	switch {
	case !ledger:
		for _, b := range c.charges {
			r.of(b.Feature).add(MissingInLedger, b.Cost)
		}
	case len(c.charges) == 0:
		for _, s := range c.spends {
			r.of(s.Feature).add(MissingInBill, -(s.Input + s.Output + s.Other))
		}
	default:
		for _, p := range c.components() {
			if err = p.explain(r, f); err != nil {
				return nil, err
			}
		}
	}
	list := make([]Variance, 0, len(r.by))
	for _, v := range r.by {
		list = append(list, *v)
	}
	f.cell(c.Key, list)
	return list, nil
}

// components parts a cell into input, output and what has no tokens. Tokens that the bill has in no class are compared
// with all tokens of the ledger.
func (c *cell) components() []*component {
	in, out, other := newComponent("input"), newComponent("output"), newComponent("other")
	if c.unclassed {
		in.name, out = "tokens", in
	}
	for _, s := range c.spends {
		in.t[s.Feature] += s.InputTokens
		in.l[s.Feature] += s.Input
		out.t[s.Feature] += s.OutputTokens
		out.l[s.Feature] += s.Output
		other.l[s.Feature] += s.Other
	}
	for _, b := range c.charges {
		to := in
		switch b.Class {
		case ClassOutput:
			to = out
		case ClassCompute:
			to = other
		}
		to.q[b.Feature] += b.Tokens
		to.b[b.Feature] += b.Cost
	}
	if c.unclassed {
		return []*component{in, other}
	}
	return []*component{in, out, other}
}

func (p *component) features() []string {
	set := make(map[string]bool)
	for _, m := range []map[string]money.Nanos{p.l, p.b} {
		for f := range m {
			set[f] = true
		}
	}
	list := make([]string, 0, len(set))
	for f := range set {
		list = append(list, f)
	}
	slices.Sort(list)
	return list
}

func (p *component) explain(r *rows, f *finder) error {
	var t, q int64
	var l, b money.Nanos
	features := p.features()
	for _, x := range features {
		t, q, l, b = t+p.t[x], q+p.q[x], l+p.l[x], b+p.b[x]
	}
	switch {
	case t == 0 && q == 0, q == 0 && b != 0, t == 0 && l != 0:
		for _, x := range features {
			r.of(x).add(Unexplained, p.b[x]-p.l[x])
		}
		return nil
	case t == 0 || q == 0:
		for _, x := range features {
			r.of(x).add(Volume, p.b[x]-p.l[x])
		}
		f.volume(r.key, q-t, b-l)
		return nil
	}
	var err error
	// at is what tokens cost at the ledger's price: the feature's own, or the model's where it has none.
	at := func(feature string, tokens int64) money.Nanos {
		n, d := int64(p.l[feature]), p.t[feature]
		if d <= 0 {
			n, d = int64(l), t
		}
		x, ok := quoHalfAway(new(big.Int).Mul(big.NewInt(tokens), big.NewInt(n)), big.NewInt(d))
		if !ok || x > 1<<61 || x < -1<<61 {
			err = money.ErrOverflow
		}
		return money.Nanos(x)
	}
	untagged, given := p.share(features)
	var expected, gap money.Nanos
	for _, x := range features {
		if x == "" {
			continue
		}
		v, cost, missing := r.of(x), at(x, p.q[x]), at(x, given[x])
		v.add(Rate, p.b[x]-cost)
		v.add(Unallocated, -missing)
		v.add(Volume, cost-p.l[x]+missing)
		expected, gap = expected+cost, gap+missing
	}
	if p.q[""] != 0 || p.b[""] != 0 || p.l[""] != 0 {
		v, more := r.of(""), at("", untagged)
		v.add(Rate, p.b[""]-gap-more)
		v.add(Unallocated, gap)
		v.add(Volume, more-p.l[""])
		expected += gap + more
	}
	f.rate(r.key, p.name, b-expected, expected, q)
	f.volume(r.key, q-t, expected-l)
	return err
}

// share gives untagged tokens to the features that lack some, in proportion; the rest is left.
func (p *component) share(features []string) (left int64, given map[string]int64) {
	given, left = make(map[string]int64), p.q[""]
	lack := new(big.Int)
	short := func(x string) int64 { return max(0, p.t[x]-p.q[x]) }
	for _, x := range features {
		if x != "" {
			lack.Add(lack, big.NewInt(short(x)))
		}
	}
	if left <= 0 || lack.Sign() == 0 {
		return left, given
	}
	all := big.NewInt(left)
	if all.Cmp(lack) > 0 {
		all.Set(lack)
	}
	rest := all.Int64()
	for _, x := range features {
		if x != "" {
			n := new(big.Int).Mul(all, big.NewInt(short(x)))
			given[x] = n.Quo(n, lack).Int64()
			rest -= given[x]
		}
	}
	for _, x := range features { // what rounding down left
		if more := min(rest, short(x)-given[x]); x != "" && more > 0 {
			given[x] += more
			rest -= more
		}
	}
	return left - all.Int64(), given
}
