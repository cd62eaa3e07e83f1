package sql

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Sum implements store.Usage.
func (s *Store) Sum(ctx context.Context, q usage.Query) (rows []usage.Row, coverage usage.Coverage, err error) {
	if err := q.Validate(); err != nil {
		return nil, coverage, err
	}
	err = s.view(ctx, func(t *tx) error {
		if coverage, err = readCoverage(t, q.From); err != nil {
			return err
		}
		if err := s.dims.catchUp(t); err != nil {
			return err
		}
		rows, err = sum(t, &q, groupBy(s.dims.all(), &q))
		return err
	})
	if err != nil {
		return nil, usage.Coverage{}, err
	}
	return rows, coverage, nil
}

func readCoverage(t *tx, from time.Time) (c usage.Coverage, err error) {
	err = t.each(func(r *sql.Rows) error {
		var owner string
		var to, newest int64
		if err := r.Scan(&owner, &to, &newest); err != nil {
			return err
		}
		if n := len(c.Through); newest >= from.UnixMilli() && (n == 0 || c.Through[n-1].Owner != owner) {
			c.Through = append(c.Through, usage.Position{Owner: owner, Batch: uint64(to)})
		}
		if at := time.UnixMilli(newest).UTC(); newest > 0 && at.After(c.AsOf) {
			c.AsOf = at
		}
		return nil
	}, `SELECT owner, to_n, newest FROM applied ORDER BY owner, from_n`)
	return c, err
}

// groups says which row of the answer each dim is counted in.
type groups struct {
	of   []int32 // by dim; -1: the query leaves it out
	rows []group
}

type group struct {
	keys     []string
	currency string
}

func groupBy(dims []*usage.Attribution, q *usage.Query) *groups {
	g := &groups{of: make([]int32, len(dims))}
	at := map[string]int32{}
	var name []byte
	for id, a := range dims {
		g.of[id] = -1
		if a == nil || !fits(a, q.Where) {
			continue
		}
		name = append(append(name[:0], a.Currency...), 0)
		for _, d := range q.By {
			name = append(append(name, a.Key(d)...), 0)
		}
		i, ok := at[string(name)]
		if !ok {
			i = int32(len(g.rows))
			at[string(name)] = i
			keys := make([]string, len(q.By))
			for j, d := range q.By {
				keys[j] = a.Key(d)
			}
			g.rows = append(g.rows, group{keys, a.Currency})
		}
		g.of[id] = i
	}
	return g
}

func fits(a *usage.Attribution, where map[string][]string) bool {
	for d, any := range where {
		if !slices.Contains(any, a.Key(d)) {
			return false
		}
	}
	return true
}

// span is rows of one level to read.
type span struct {
	level    int
	from, to int64
	unfolded bool // only what is not counted in the level above
}

// spans are the rows that hold a query's window, by the coarsest levels that fit. hoursFrom: hours before are kept as days
// only, which count in full where they begin in the window.
func spans(q *usage.Query, hoursFrom int64) (list []span) {
	from, to := q.From.Unix(), q.To.Unix()
	if q.Step == usage.Hour {
		return hourSpans(list, from, to, hoursFrom)
	}
	d1, d2 := ceilDay(q.From).Unix(), floorDay(q.To).Unix()
	if d1 >= d2 {
		return hourSpans(list, from, to, hoursFrom)
	}
	list = hourSpans(list, from, d1, hoursFrom)
	m1, m2 := d2, d2
	if q.Step != usage.Day {
		if a, b := ceilMonth(time.Unix(d1, 0)).Unix(), floorMonth(time.Unix(d2, 0)).Unix(); a < b {
			m1, m2 = a, b
			list = append(list, span{levelMonth, m1, m2, false}, span{levelDay, m1, m2, true})
		}
	}
	list = append(list, span{levelDay, d1, m1, false}, span{levelDay, m2, d2, false}, span{levelHour, d1, d2, true})
	return hourSpans(list, d2, to, hoursFrom)
}

func hourSpans(list []span, from, to, hoursFrom int64) []span {
	list = append(list, span{levelHour, from, to, false})
	return append(list, span{levelDay, from, min(to, hoursFrom), false})
}

func floorDay(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }
func floorMonth(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}
func ceilDay(t time.Time) time.Time { return floorDay(t.Add(24*time.Hour - time.Second)) }

func ceilMonth(t time.Time) time.Time {
	if m := floorMonth(t); !m.Equal(t) {
		return m.AddDate(0, 1, 0)
	}
	return t.UTC()
}

// MaxRows bounds an answer.
const MaxRows = 200_000

// sum reads and adds, the rows of the database shared by the processors.
func sum(t *tx, q *usage.Query, g *groups) ([]usage.Row, error) {
	var hoursFrom int64
	if err := t.row(`SELECT value FROM meta WHERE name = 'hours_from'`).Scan(&hoursFrom); err != nil {
		return nil, err
	}
	type packed struct {
		start int64
		data  []byte
	}
	work := make(chan packed, 8)
	parts := make([]totals, max(1, min(4, runtime.GOMAXPROCS(0))))
	errs := make([]error, len(parts))
	var running sync.WaitGroup
	for i := range parts {
		parts[i] = totals{}
		running.Go(func() {
			for p := range work {
				if errs[i] == nil {
					errs[i] = unpack(p.data, parts[i].of(p.start, g))
				}
			}
		})
	}
	var err error
	for _, s := range spans(q, hoursFrom) {
		if s.from >= s.to || err != nil {
			continue
		}
		folded := 1
		if s.unfolded {
			folded = 0
		}
		err = t.each(func(r *sql.Rows) error {
			var p packed
			if err := r.Scan(&p.start, &p.data); err != nil {
				return err
			}
			p.start = q.Start(time.Unix(p.start, 0)).Unix()
			work <- p
			return nil
		}, `SELECT start, data FROM rollups WHERE level = $1 AND start >= $2 AND start < $3 AND folded <= $4 ORDER BY start`, s.level, s.from, s.to, folded)
	}
	close(work)
	running.Wait()
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	all := parts[0]
	for _, p := range parts[1:] {
		if err := all.add(p, g); err != nil {
			return nil, err
		}
	}
	return all.rows(g)
}

// totals are sums by start and group.
type totals map[int64][]*sums

// of gives what unpack adds to.
func (a totals) of(start int64, g *groups) func(dim int64) *sums {
	by := a.at(start, g)
	return func(dim int64) *sums {
		if dim >= int64(len(g.of)) || g.of[dim] < 0 {
			return nil
		}
		p := &by[g.of[dim]]
		if *p == nil {
			*p = &sums{}
		}
		return *p
	}
}

func (a totals) at(start int64, g *groups) []*sums {
	by := a[start]
	if by == nil {
		by = make([]*sums, len(g.rows))
		a[start] = by
	}
	return by
}

func (a totals) add(b totals, g *groups) error {
	for start, from := range b {
		to := a.at(start, g)
		for i, s := range from {
			switch {
			case s == nil:
			case to[i] == nil:
				to[i] = s
			default:
				if err := to[i].addSums(s); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (a totals) rows(g *groups) ([]usage.Row, error) {
	count := 0
	for _, by := range a {
		for _, s := range by {
			if s != nil {
				count++
			}
		}
	}
	if count > MaxRows {
		return nil, fmt.Errorf("%w: %d, at most %d: ask for a shorter window, a longer step or fewer dimensions", store.ErrTooLarge, count, MaxRows)
	}
	rows := make([]usage.Row, 0, count)
	for start, by := range a {
		for i, s := range by {
			if s != nil {
				rows = append(rows, usage.Row{Start: time.Unix(start, 0).UTC(), Keys: g.rows[i].keys, Currency: g.rows[i].currency, Totals: s.totals()})
			}
		}
	}
	slices.SortFunc(rows, func(a, b usage.Row) int {
		return cmp.Or(a.Start.Compare(b.Start), slices.Compare(a.Keys, b.Keys), cmp.Compare(a.Currency, b.Currency))
	})
	return rows, nil
}
