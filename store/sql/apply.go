package sql

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Levels of rollups.
const (
	levelHour = iota
	levelDay
	levelMonth
)

// Apply implements store.Usage.
func (s *Store) Apply(ctx context.Context, batches []store.BatchID, rollups []usage.Rollup) error {
	return s.transact(ctx, func(t *tx) error {
		newest := time.Time{}
		for i := range rollups {
			if at := cmp.Or(rollups[i].Newest, rollups[i].Hour); at.After(newest) {
				newest = at
			}
		}
		if err := apply(t, batches, newest); err != nil {
			return err
		}
		return s.count(t, rollups)
	})
}

// run is batches of one owner, both ends included.
type run struct{ from, to uint64 }

func runs(batches []store.BatchID) map[string][]run {
	sorted := slices.SortedFunc(slices.Values(batches), func(a, b store.BatchID) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.N, b.N))
	})
	by := map[string][]run{}
	for _, b := range slices.Compact(sorted) {
		of := by[b.Owner]
		if n := len(of); n > 0 && of[n-1].to+1 == b.N {
			of[n-1].to = b.N
		} else {
			by[b.Owner] = append(of, run{b.N, b.N})
		}
	}
	return by
}

// apply notes batches as counted, joined to the runs beside them. Error: store.ErrConflict.
func apply(t *tx, batches []store.BatchID, newest time.Time) error {
	for owner, list := range runs(batches) {
		for _, r := range list {
			var overlaps int
			err := t.row(`SELECT COUNT(*) FROM applied WHERE owner = $1 AND from_n <= $2 AND to_n >= $3`, owner, int64(r.to), int64(r.from)).Scan(&overlaps)
			if err != nil {
				return err
			}
			if overlaps > 0 {
				return store.ErrConflict
			}
			until := newest.UnixMilli()
			join := func(condition string, n uint64) error {
				return t.each(func(rows *sql.Rows) error {
					var from, to, at int64
					if err := rows.Scan(&from, &to, &at); err != nil {
						return err
					}
					r.from, r.to, until = min(r.from, uint64(from)), max(r.to, uint64(to)), max(until, at)
					return nil
				}, `DELETE FROM applied WHERE owner = $1 AND `+condition+` RETURNING from_n, to_n, newest`, owner, int64(n))
			}
			if err := join(`from_n = $2`, r.to+1); err != nil {
				return err
			}
			if r.from > 0 {
				if err := join(`to_n = $2`, r.from-1); err != nil {
					return err
				}
			}
			if err := t.exec(`INSERT INTO applied (owner, from_n, to_n, newest) VALUES ($1, $2, $3, $4)`, owner, int64(r.from), int64(r.to), until); err != nil {
				return err
			}
		}
	}
	return nil
}

// Applied implements store.Usage.
func (s *Store) Applied(ctx context.Context, batches []store.BatchID) (map[store.BatchID]bool, error) {
	known := map[store.BatchID]bool{}
	err := s.view(ctx, func(t *tx) error {
		for owner, list := range runs(batches) {
			err := t.each(func(rows *sql.Rows) error {
				var from, to int64
				if err := rows.Scan(&from, &to); err != nil {
					return err
				}
				for _, r := range list {
					for n := max(r.from, uint64(from)); n <= min(r.to, uint64(to)); n++ {
						known[store.BatchID{Owner: owner, N: n}] = true
					}
				}
				return nil
			}, `SELECT from_n, to_n FROM applied WHERE owner = $1 AND to_n >= $2 AND from_n <= $3`, owner, int64(list[0].from), int64(list[len(list)-1].to))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return known, nil
}

// count adds rollups, a row for each hour.
func (s *Store) count(t *tx, rollups []usage.Rollup) error {
	ids, err := s.intern(t)
	if err != nil {
		return err
	}
	return s.countWith(t, ids, rollups)
}

func (s *Store) countWith(t *tx, ids *interner, rollups []usage.Rollup) (err error) {
	defer func() {
		if err != nil { // what was read of the hours may be of this transaction
			clear(s.hours)
		}
	}()
	hours := map[int64][]*usage.Rollup{}
	for i := range rollups {
		at := rollups[i].Hour.UTC().Truncate(time.Hour).Unix()
		hours[at] = append(hours[at], &rollups[i])
	}
	marks, tasks := newOutcomeMarks(t), map[usage.Task]*taskCalls{}
	packs := make(map[int64]map[int64]*sums, len(hours))
	for at, list := range hours {
		h, err := s.hour(t, at)
		if err != nil {
			return err
		}
		by := map[int64]*sums{}
		for _, r := range list {
			a := h.bound(&r.Attribution, s.topK)
			id, err := ids.id(&a)
			if err != nil {
				return err
			}
			if by[id] == nil {
				by[id] = &sums{}
			}
			if err := by[id].add(&r.Totals); err != nil {
				return err
			}
			for _, o := range r.Outcomes {
				_, fresh, err := marks.set(o)
				if err != nil {
					return err
				}
				if one := ended(o.Outcome); fresh {
					if err := by[id].add(&one); err != nil {
						return err
					}
				}
			}
			for _, task := range r.Tasks {
				if tasks[task] == nil {
					tasks[task] = &taskCalls{}
				}
				if c := tasks[task]; at >= c.hour {
					c.hour, c.dim = at, id
				}
				tasks[task].calls++
			}
		}
		packs[at] = by
	}
	if err := marks.write(); err != nil {
		return err
	}
	pending, err := noteTasks(t, tasks)
	if err != nil {
		return err
	}
	for at, by := range pending {
		for id, totals := range by {
			if err := packs[at][id].add(totals); err != nil {
				return err
			}
		}
	}
	for at, by := range packs {
		if s.hours[at].last, err = t.insert(levelHour, at, pack(by)); err != nil {
			return err
		}
	}
	s.forgetHours()
	return nil
}

// insert adds a row and gives its id, greater than any before.
func (t *tx) insert(level, start int64, data []byte) (id int64, err error) {
	if err = t.row(`UPDATE meta SET value = value + 1 WHERE name = 'rollups' RETURNING value`).Scan(&id); err != nil {
		return 0, err
	}
	return id, t.exec(`INSERT INTO rollups (id, level, start, folded, data) VALUES ($1, $2, $3, 0, $4)`, id, level, start, data)
}

// hourKeys is which keys an hour keeps apart.
type hourKeys struct {
	last int64 // the newest row of the hour that was read
	keys map[string]map[string]struct{}
}

// maxHours is of how many hours their keys are remembered.
const maxHours = 64

// hour gives the keys of an hour, with what other writers have added since.
func (s *Store) hour(t *tx, at int64) (*hourKeys, error) {
	h := s.hours[at]
	if h == nil {
		h = &hourKeys{keys: map[string]map[string]struct{}{}}
		s.hours[at] = h
	}
	all := s.dims.all()
	err := t.each(func(rows *sql.Rows) error {
		var data []byte
		if err := rows.Scan(&h.last, &data); err != nil {
			return err
		}
		return unpack(data, func(dim int64) *sums {
			if dim < int64(len(all)) && all[dim] != nil {
				h.see(all[dim])
			}
			return nil
		})
	}, `SELECT id, data FROM rollups WHERE level = 0 AND start = $1 AND id > $2 ORDER BY id`, at, h.last)
	return h, err
}

func (h *hourKeys) see(a *usage.Attribution) {
	h.keep(usage.DimCohort, a.Cohort, 1<<62)
	h.keep(usage.DimPromptPattern, a.PromptPattern, 1<<62)
	for k, v := range a.Labels {
		h.keep(usage.DimLabel+k, v, 1<<62)
	}
}

// keep gives the key that a key is counted as.
func (h *hourKeys) keep(dimension, key string, most int) string {
	if key == "" || key == usage.OtherKey {
		return key
	}
	keys := h.keys[dimension]
	if keys == nil {
		keys = map[string]struct{}{}
		h.keys[dimension] = keys
	}
	if _, known := keys[key]; !known {
		if len(keys) >= most {
			return usage.OtherKey
		}
		keys[key] = struct{}{}
	}
	return key
}

// bound is an attribution with usage.OtherKey for what the hour does not keep apart.
func (h *hourKeys) bound(a *usage.Attribution, most int) usage.Attribution {
	b := *a
	b.Cohort = h.keep(usage.DimCohort, a.Cohort, most)
	b.PromptPattern = h.keep(usage.DimPromptPattern, a.PromptPattern, most)
	if len(a.Labels) > 0 {
		b.Labels = make(map[string]string, len(a.Labels))
		for k, v := range a.Labels {
			b.Labels[k] = h.keep(usage.DimLabel+k, v, most)
		}
	}
	return b
}

func (s *Store) forgetHours() {
	for len(s.hours) > maxHours {
		oldest := int64(1<<63 - 1)
		for at := range s.hours {
			oldest = min(oldest, at)
		}
		delete(s.hours, oldest)
	}
}
