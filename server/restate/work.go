package restate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/pricing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
)

// work is one restatement.
type work struct {
	*Restater
	*Result
	now    time.Time
	snap   *charter.Snapshot
	prices *pricing.Book // in force
	before *pricing.Book // without corrections

	corrections []*correction
	models      []string  // that are looked at
	from, to    time.Time // whole days
	cells       map[cellKey]*cell
	sums        map[sumKey]*Sum
	unrestated  map[[2]string]*Unrestated
	journals    map[string]*journal
	read        map[modelDay]tally // what was read of the models
}

// cellKey is what an adjustment is for: a correction, and the hash of an hour and an attribution.
type cellKey struct{ correction, hash string }

// cell is what its entries and adjustments add up to.
type cell struct {
	of        *correction // nil: it is gone
	hour      time.Time
	to        usage.Attribution
	entries   int64
	was, is   money.Nanos
	posted    money.Nanos
	adjusted  int // how often it was posted
	correctsA string
}

type sumKey struct{ correction, currency string }

type modelDay struct {
	model string
	day   int64 // Unix seconds
}

type tally struct {
	calls int64
	cost  money.Nanos
}

// journal is what was read of one owner's.
type journal struct {
	archive.Numbers
	first time.Time // when the batch with the smallest number was sealed
}

const idPrefix = "restate/"

// idOf is the n-th adjustment of a cell. The name of a correction may have slashes.
func idOf(k cellKey, n int) string {
	return idPrefix + k.correction + "/" + k.hash + "/" + strconv.Itoa(n)
}

func parseID(id string) (correction, hash string, ok bool) {
	id = strings.TrimPrefix(id, idPrefix)
	n := strings.LastIndexByte(id, '/')
	if n < 0 {
		return "", "", false
	}
	h := strings.LastIndexByte(id[:n], '/')
	if h < 0 {
		return "", "", false
	}
	return id[:h], id[h+1 : n], true
}

// hashOf tells hours and attributions apart by what the ledger says of a call; the rest follows from the control records and
// may change.
func hashOf(hour time.Time, a *usage.Attribution) string {
	h := sha256.New()
	for _, s := range []string{a.Feature, a.Tier, a.Model, a.Cohort, a.PromptPattern, a.BudgetPath, a.Currency} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	fmt.Fprint(h, hour.Unix())
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// knows takes an adjustment that was posted.
func (w *work) knows(of, hash string, a *usage.Adjustment) error {
	k := cellKey{of, hash}
	c := w.cells[k]
	if c == nil {
		c = &cell{of: w.named(of), hour: a.Hour, to: a.Attribution, correctsA: a.Corrects}
		w.cells[k] = c
	}
	c.adjusted++
	var err error
	c.posted, err = money.Add(c.posted, a.Amount)
	return err
}

func (w *work) named(name string) *correction {
	if i := slices.IndexFunc(w.corrections, func(c *correction) bool { return c.name == name }); i >= 0 {
		return w.corrections[i]
	}
	return nil
}

func (w *work) sumOf(name, currency string, c *correction) *Sum {
	k := sumKey{name, currency}
	s := w.sums[k]
	if s == nil {
		s = &Sum{Correction: name, Currency: currency}
		if c != nil {
			s.Model, s.Corrects, s.Reason = c.Model, c.corrects(), c.Reason
		}
		w.sums[k] = s
	}
	return s
}

// readAll reads what is counted, then etcd, then the archives: a batch that leaves one is in the next by then, so that what was
// counted and is in none is missing for certain.
func (w *work) readAll(ctx context.Context) error {
	rows, coverage, err := w.Usage.Sum(ctx, usage.Query{
		From: w.from, To: w.to, By: []string{usage.DimModel, usage.DimEffect}, Where: map[string][]string{usage.DimModel: w.models}, Step: usage.Day,
	})
	if err != nil {
		return err
	}
	if err := w.Journal(ctx, func(b store.OutboxBatch) error { return w.take(&b, &w.InEtcd) }); err != nil {
		return err
	}
	archives := *w.Restater.Archives // a reader counts as it reads, and several restatements may run
	for b, err := range archives.Batches() {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = w.take(&b, &w.InArchives)
		}
		if err != nil {
			return err
		}
	}
	w.Result.Archives = archives.Len()
	return w.miss(rows, coverage)
}

// take reads a batch, once.
func (w *work) take(b *store.OutboxBatch, entries *int64) error {
	j := w.journals[b.Owner]
	if j == nil {
		j = &journal{}
		w.journals[b.Owner] = j
	}
	if !j.Add(b.N) {
		return nil
	}
	batch, err := w.Decode(*b)
	if err != nil {
		return err
	}
	if n, _ := j.First(); n == b.N {
		j.first = batch.Time
	}
	for _, e := range batch.Entries {
		if e.Kind == ledger.KindRelease || len(e.Path) == 0 {
			continue
		}
		*entries++
		if err := w.entry(e); err != nil {
			return fmt.Errorf("a settlement of jr/%s/%d: %w", b.Owner, b.N, err)
		}
	}
	return nil
}

// entry counts an entry that is of a model and a time that are looked at.
func (w *work) entry(e *ledger.Entry) error {
	call := e.Call
	if call.Time.IsZero() {
		call.Time = e.Time
	}
	if call.Time.Before(w.from) || !call.Time.Before(w.to) || !slices.Contains(w.models, call.Model) {
		return nil
	}
	at := modelDay{call.Model, call.Time.UTC().Truncate(24 * time.Hour).Unix()}
	t := w.read[at]
	cost, err := money.Add(t.cost, e.Amount)
	if err != nil {
		return err
	}
	w.read[at] = tally{t.calls + e.Calls, cost}
	i := slices.IndexFunc(w.corrections, func(c *correction) bool {
		return c.Model == call.Model && !call.Time.Before(later(c.From, w.Since)) && (c.To.IsZero() || call.Time.Before(c.To))
	})
	if i < 0 {
		return nil
	}
	c := w.corrections[i]
	hour, a := w.Attribution(&call, e.Path)
	is, problem, err := w.costs(e, &call, a.Currency)
	if err != nil {
		return err
	}
	if problem != "" {
		return w.leave(c, problem, e.Amount)
	}
	k := cellKey{c.name, hashOf(hour, &a)}
	of := w.cells[k]
	if of == nil {
		if len(w.cells) >= maxCells {
			return fmt.Errorf("more than %d hours and attributions: restate one correction at a time: %w", maxCells, store.ErrTooLarge)
		}
		of = &cell{of: c}
		w.cells[k] = of
	}
	of.hour, of.to, of.entries = hour, a, of.entries+1
	if of.was, err = money.Add(of.was, e.Amount); err != nil {
		return err
	}
	of.is, err = money.Add(of.is, is)
	return err
}

func (w *work) leave(c *correction, problem string, amount money.Nanos) error {
	k := [2]string{c.name, problem}
	if w.unrestated == nil {
		w.unrestated = map[[2]string]*Unrestated{}
	}
	u := w.unrestated[k]
	if u == nil {
		u = &Unrestated{Correction: c.name, Problem: problem}
		w.unrestated[k] = u
	}
	u.Entries++
	var err error
	u.Settled, err = money.Add(u.Settled, amount)
	return err
}

// miss finds what was counted and not read: batches of journals, and sums of days.
func (w *work) miss(rows []usage.Row, coverage usage.Coverage) error {
	for _, p := range coverage.Through {
		j := w.journals[p.Owner]
		if j == nil {
			w.Missing = append(w.Missing, fmt.Sprintf("all of the journal of server %s, counted up to batch %d", p.Owner, p.Batch))
			continue
		}
		first, _ := j.First()
		if first > 0 && j.first.After(w.from) { // else those before it are too old to matter
			first = 0
		}
		if n, lacks := j.Lacks(first, p.Batch); lacks {
			w.Missing = append(w.Missing, fmt.Sprintf("batch %d of the journal of server %s, counted up to %d", n, p.Owner, p.Batch))
		}
	}
	counted := map[modelDay]tally{}
	for i := range rows {
		r := &rows[i]
		if r.Keys[1] == usage.EffectAdjustment {
			continue
		}
		at := modelDay{r.Keys[0], r.Start.Unix()}
		cost, err := r.Cost.Total()
		if err == nil {
			cost, err = money.Add(cost, counted[at].cost)
		}
		if err != nil {
			return err
		}
		counted[at] = tally{counted[at].calls + r.Calls, cost}
	}
	days := slices.SortedFunc(maps.Keys(counted), func(a, b modelDay) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.day, b.day))
	})
	for _, at := range days {
		if c, r := counted[at], w.read[at]; r.calls < c.calls || r.cost < c.cost {
			w.Missing = append(w.Missing, fmt.Sprintf("%s on %s: %d calls that cost %s were counted, %d that cost %s were read", at.model,
				time.Unix(at.day, 0).UTC().Format(time.DateOnly), c.calls, c.cost, r.calls, r.cost))
		}
	}
	if more := len(w.Missing) - maxMissing; more > 0 {
		w.Missing = append(w.Missing[:maxMissing], fmt.Sprintf("and %d more", more))
	}
	return nil
}

// rest sums up, and gives the adjustments that are not posted yet.
func (w *work) rest() (list []usage.Adjustment, err error) {
	hours := map[sumKey]map[int64]bool{}
	keys := slices.SortedFunc(maps.Keys(w.cells), func(a, b cellKey) int {
		return cmp.Or(cmp.Compare(a.correction, b.correction), w.cells[a].hour.Compare(w.cells[b].hour), cmp.Compare(a.hash, b.hash))
	})
	for _, k := range keys {
		c := w.cells[k]
		s := w.sumOf(k.correction, c.to.Currency, c.of)
		s.Model = cmp.Or(s.Model, c.to.Model)
		s.Entries += c.entries
		if c.entries > 0 {
			at := sumKey{k.correction, c.to.Currency}
			if hours[at] == nil {
				hours[at] = map[int64]bool{}
			}
			hours[at][c.hour.Unix()] = true
			s.Hours = int64(len(hours[at]))
		}
		difference, err := money.Sub(c.is, c.was)
		if err != nil {
			return nil, err
		}
		for _, x := range []struct {
			to *money.Nanos
			by money.Nanos
		}{{&s.Settled, c.was}, {&s.Restated, c.is}, {&s.Difference, difference}, {&s.Posted, c.posted}} {
			if *x.to, err = money.Add(*x.to, x.by); err != nil {
				return nil, err
			}
		}
		amount, err := money.Sub(difference, c.posted)
		if err != nil {
			return nil, err
		}
		if amount == 0 {
			continue
		}
		s.Adjustments++
		a := usage.Adjustment{ID: idOf(k, c.adjusted), Time: w.now, Hour: c.hour, Attribution: c.to, Amount: amount, Corrects: c.correctsA,
			Reason: "the price book no longer has the correction " + k.correction}
		if c.of != nil {
			a.Corrects, a.Reason = c.of.corrects(), "restated at the corrected price: "+c.of.Reason
		}
		list = append(list, a)
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.sums), func(a, b sumKey) int {
		return cmp.Or(cmp.Compare(a.correction, b.correction), cmp.Compare(a.currency, b.currency))
	}) {
		if s := w.sums[k]; s.Entries > 0 || s.Posted != 0 || s.Adjustments > 0 || !w.elsewhere(k) {
			w.Sums = append(w.Sums, *s)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(w.unrestated), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		w.Unrestated = append(w.Unrestated, *w.unrestated[k])
	}
	return list, nil
}

// elsewhere says that a correction has entries in another currency.
func (w *work) elsewhere(k sumKey) bool {
	for other, s := range w.sums {
		if other.correction == k.correction && other.currency != k.currency && s.Entries > 0 {
			return true
		}
	}
	return false
}
