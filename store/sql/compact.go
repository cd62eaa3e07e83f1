package sql

import (
	"context"
	"database/sql"
	"time"
)

// How many rows of one start are worth merging: while more are to come, and after.
const (
	mergeFresh = 64
	mergeOver  = 4
)

// Compact implements store.Usage. It also merges what Apply has appended and sums days and months that are over, so that
// a query reads less.
func (s *Store) Compact(ctx context.Context, before time.Time) error {
	if err := s.fold(ctx, levelHour, floorDay); err != nil {
		return err
	}
	if err := s.fold(ctx, levelDay, floorMonth); err != nil {
		return err
	}
	if err := s.merge(ctx); err != nil {
		return err
	}
	return s.transact(ctx, func(t *tx) error {
		clear(s.hours)
		at := floorDay(before).Unix()
		if err := t.exec(`UPDATE meta SET value = $1 WHERE name = 'hours_from' AND value < $1`, at); err != nil {
			return err
		}
		return t.exec(`DELETE FROM rollups WHERE level = 0 AND folded = 1 AND start < $1`, at)
	})
}

// fold counts rows of a level that are not counted above, in the level above: one unit of it in a transaction. The unit
// that the newest row is in stays, because more is to come.
func (s *Store) fold(ctx context.Context, level int, floor func(time.Time) time.Time) error {
	for {
		done := false
		err := s.transact(ctx, func(t *tx) error {
			var first, last sql.NullInt64
			if err := t.row(`SELECT MIN(start), MAX(start) FROM rollups WHERE level = $1 AND folded = 0`, level).Scan(&first, &last); err != nil {
				return err
			}
			var newest sql.NullInt64
			if err := t.row(`SELECT MAX(start) FROM rollups WHERE level = $1`, level).Scan(&newest); err != nil {
				return err
			}
			if !first.Valid || !floor(time.Unix(first.Int64, 0)).Before(floor(time.Unix(newest.Int64, 0))) {
				done = true
				return nil
			}
			start := floor(time.Unix(first.Int64, 0))
			end := start.AddDate(0, 0, 1)
			if level == levelDay {
				end = start.AddDate(0, 1, 0)
			}
			by := map[int64]*sums{}
			if err := t.gather(by, `level = $1 AND folded = 0 AND start >= $2 AND start < $3`, level, start.Unix(), end.Unix()); err != nil {
				return err
			}
			if _, err := t.insert(int64(level)+1, start.Unix(), pack(by)); err != nil {
				return err
			}
			const these = ` WHERE level = $1 AND folded = 0 AND start >= $2 AND start < $3`
			var hoursFrom int64
			if err := t.row(`SELECT value FROM meta WHERE name = 'hours_from'`).Scan(&hoursFrom); err != nil {
				return err
			}
			if level == levelHour && start.Unix() < hoursFrom {
				return t.exec(`DELETE FROM rollups`+these, level, start.Unix(), end.Unix())
			}
			return t.exec(`UPDATE rollups SET folded = 1`+these, level, start.Unix(), end.Unix())
		})
		if err != nil || done {
			return err
		}
	}
}

// gather adds up rows.
func (t *tx) gather(by map[int64]*sums, condition string, args ...any) error {
	return t.each(func(r *sql.Rows) error {
		var data []byte
		if err := r.Scan(&data); err != nil {
			return err
		}
		return unpack(data, func(dim int64) *sums {
			if by[dim] == nil {
				by[dim] = &sums{}
			}
			return by[dim]
		})
	}, `SELECT data FROM rollups WHERE `+condition, args...)
}

// merge makes one row of many that have the same level, start and place in the level above.
func (s *Store) merge(ctx context.Context) error {
	type same struct{ level, start, folded int64 }
	var list []same
	err := s.view(ctx, func(t *tx) error {
		return t.each(func(r *sql.Rows) error {
			var m same
			err := r.Scan(&m.level, &m.start, &m.folded)
			list = append(list, m)
			return err
		}, `SELECT level, start, folded FROM rollups GROUP BY level, start, folded HAVING COUNT(*) >=
			CASE WHEN start < (SELECT MAX(start) FROM rollups WHERE level = 0) THEN CAST($1 AS BIGINT) ELSE CAST($2 AS BIGINT) END`, mergeOver, mergeFresh)
	})
	if err != nil {
		return err
	}
	for _, m := range list {
		err := s.transact(ctx, func(t *tx) error {
			const these = `level = $1 AND start = $2 AND folded = $3`
			by := map[int64]*sums{}
			if err := t.gather(by, these, m.level, m.start, m.folded); err != nil {
				return err
			}
			if err := t.exec(`DELETE FROM rollups WHERE `+these, m.level, m.start, m.folded); err != nil {
				return err
			}
			id, err := t.insert(m.level, m.start, pack(by))
			if err != nil || m.folded == 0 {
				return err
			}
			return t.exec(`UPDATE rollups SET folded = 1 WHERE id = $1`, id)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
