// Package restate finds what settlements would have cost at the prices that correct theirs, and posts the difference.
//
// The ledger stays as it is, and so does what counts against ceilings: differences are adjustments in the usage database. An
// adjustment is for one correction, one hour and one attribution. What was posted for these before is read first, and only the
// rest is posted, under the next number, so that two restatements at once cannot post the same twice.
package restate

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// Limits.
const (
	maxCells   = 500_000 // hours and attributions of one restatement
	maxPosted  = 500_000 // adjustments that are read
	postAtOnce = 500     // adjustments in one transaction
	maxMissing = 20      // told one by one
)

// Errors of Restate.
var (
	ErrUnknown    = errors.New("no price book has this correction, and nothing was posted for it")
	ErrIncomplete = errors.New("settlements were counted that are in no archive this server reads, and a part must not be posted as the whole: start it with --read-archive-dir for the archive of each other server")
	ErrConflict   = errors.New("another restatement has posted meanwhile: run it again")
)

// Restater is what a restatement works with. All are required.
type Restater struct {
	Usage   store.Usage
	Control store.Control
	// Journal gives every batch in etcd.
	Journal func(ctx context.Context, each func(store.OutboxBatch) error) error
	// Archives is what has left etcd, of as many archives.
	Archives *archive.Reader
	Decode   func(store.OutboxBatch) (*ledger.Batch, error)
	// Attribution is what a call is counted as, and in which hour.
	Attribution func(c *ledger.Call, path []ledger.AccountID) (hour time.Time, a usage.Attribution)
	Keep        time.Duration // for how long usage is kept; corrections of what is older change nothing
	Now         func() time.Time
}

// Result is what corrections change.
type Result struct {
	Sums       []Sum
	Unrestated []Unrestated
	Accepted   bool
	// Entries that were read, and from how many archives.
	InEtcd, InArchives int64
	Archives           int
	Missing            []string // what was counted and not read
	Since              time.Time
}

// Sum is what one correction changes in one currency.
type Sum struct {
	Correction, Model, Corrects, Reason, Currency string
	Hours, Entries                                int64
	Settled, Restated, Difference                 money.Nanos
	Posted                                        money.Nanos // the part of Difference that was posted before
	Adjustments                                   int64       // that post the rest
}

// Unrestated are entries whose cost at the corrected price is not known.
type Unrestated struct {
	Correction, Problem string
	Entries             int64
	Settled             money.Nanos
}

// correction is one of the price books, with its name.
type correction struct {
	pricing.Correction
	name string
}

func nameOf(c *pricing.Correction) string {
	return c.Model + "@" + c.From.UTC().Format(time.RFC3339Nano)
}

// corrects names the price that is corrected.
func (c *correction) corrects() string {
	if c.Old == nil {
		return ""
	}
	return fmt.Sprintf("%s %s from %s", c.Old.Book, c.Model, c.Old.Effective.UTC().Format(time.RFC3339))
}

// Restate finds what a correction changes, by its name as in Sum, or all where it is empty, and posts it. Errors: ErrUnknown;
// to post, ErrIncomplete, with the result, and ErrConflict; store.ErrTooLarge, money.ErrOverflow, those of the stores.
func (r *Restater) Restate(ctx context.Context, name string, post bool) (*Result, error) {
	now, snap := r.Now().UTC(), r.Control.Snapshot()
	res := &Result{Since: ceil(now.Add(-r.Keep), 24*time.Hour)}
	w := &work{Restater: r, Result: res, prices: snap.Prices(), snap: snap, now: now, cells: map[cellKey]*cell{}, journals: map[string]*journal{}, read: map[modelDay]tally{}, sums: map[sumKey]*Sum{}}
	posted, err := r.posted(ctx, res.Since, now)
	if err != nil {
		return nil, err
	}
	if err := w.choose(name, posted); err != nil || len(w.models) == 0 {
		return res, err
	}
	if w.before, err = published(snap); err != nil {
		return nil, err
	}
	if err := w.readAll(ctx); err != nil {
		return nil, err
	}
	list, err := w.rest()
	if err != nil || !post {
		return res, err
	}
	if len(res.Missing) > 0 {
		return res, fmt.Errorf("%w; missing: %s", ErrIncomplete, strings.Join(res.Missing, "; "))
	}
	for part := range slices.Chunk(list, postAtOnce) {
		err := r.Usage.Adjust(ctx, part)
		if errors.Is(err, store.ErrConflict) {
			return nil, ErrConflict
		}
		if err != nil {
			return nil, err
		}
	}
	res.Accepted = true
	return res, nil
}

// published are the prices without corrections: what settlements were priced at before.
func published(snap *charter.Snapshot) (*pricing.Book, error) {
	var list []*pricing.Price
	var contracts []pricing.Contract
	for _, b := range snap.PriceBooks() {
		for _, p := range b.Prices {
			if p.Corrects == nil {
				list = append(list, p)
			}
		}
		contracts = append(contracts, pricing.Contract{Book: b.Name(), Adjustments: b.Adjustments, Rates: b.Rates})
	}
	return pricing.NewBook(list, contracts...)
}

// posted reads the adjustments of restatements.
func (r *Restater) posted(ctx context.Context, since, now time.Time) (list []usage.Adjustment, err error) {
	const page = 10_000
	from, to := since.Truncate(time.Hour), now.Truncate(time.Hour).Add(25*time.Hour)
	for limit := page; ; {
		part, err := r.Usage.Adjustments(ctx, from, to, limit)
		if err != nil {
			return nil, err
		}
		whole := len(part) < limit
		if !whole { // the last hour may go on
			last := part[len(part)-1].Hour
			if last.Equal(from) {
				if limit *= 4; limit > maxPosted {
					return nil, fmt.Errorf("more than %d adjustments in the hour of %s: %w", maxPosted, last.Format(time.RFC3339), store.ErrTooLarge)
				}
				continue
			}
			part = part[:slices.IndexFunc(part, func(a usage.Adjustment) bool { return a.Hour.Equal(last) })]
			from = last
		}
		for i := range part {
			if strings.HasPrefix(part[i].ID, idPrefix) {
				list = append(list, part[i])
			}
		}
		if len(list) > maxPosted {
			return nil, fmt.Errorf("more than %d adjustments were posted: %w", maxPosted, store.ErrTooLarge)
		}
		if whole {
			return list, nil
		}
		limit = page
	}
}

// choose takes the corrections to look at, and what was posted for them and for those of their models that are gone.
func (w *work) choose(name string, posted []usage.Adjustment) error {
	known, found := map[string]bool{}, name == ""
	only := "" // this model
	list := w.prices.Corrections()
	for i := range list {
		c := &correction{list[i], nameOf(&list[i])}
		known[c.name] = true
		if name == "" || name == c.name {
			w.corrections = append(w.corrections, c)
		}
		if name == c.name {
			found, only = true, c.Model
		}
	}
	for i := range posted {
		a := &posted[i]
		of, _, _ := parseID(a.ID)
		if of == name {
			found, only = true, a.Model
		}
	}
	if !found {
		return fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	w.from, w.to = w.now, w.now
	add := func(model string, from, to time.Time) {
		if !slices.Contains(w.models, model) {
			w.models = append(w.models, model)
		}
		if from.Before(w.from) {
			w.from = from
		}
		if to.After(w.to) {
			w.to = to
		}
	}
	for i := range posted {
		a := &posted[i]
		of, hash, _ := parseID(a.ID)
		if name != "" && of != name && (known[of] || a.Model != only) {
			continue
		}
		if err := w.knows(of, hash, a); err != nil {
			return err
		}
		add(a.Model, a.Hour, a.Hour)
	}
	for _, c := range w.corrections {
		if c.From.Before(w.now) && (c.To.IsZero() || c.To.After(w.Since)) {
			add(c.Model, later(c.From, w.Since), w.now)
		}
		w.sumOf(c.name, c.New.Currency, c)
	}
	w.from, w.to = w.from.UTC().Truncate(24*time.Hour), ceil(w.to.UTC().Add(time.Nanosecond), 24*time.Hour)
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func ceil(t time.Time, d time.Duration) time.Time { return t.UTC().Add(d - 1).Truncate(d) }
