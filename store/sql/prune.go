package sql

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/chartergate/chartergate/store"
)

// Prune implements store.Usage.
func (s *Store) Prune(ctx context.Context, p store.Prune) error {
	return s.transact(ctx, func(t *tx) error {
		type deletion struct {
			query string
			at    int64
		}
		var list []deletion
		if !p.Days.IsZero() {
			at := floorMonth(p.Days)
			list = append(list, deletion{`DELETE FROM rollups WHERE start < $1`, at.Unix()}, deletion{`DELETE FROM adjustments WHERE hour < $1`, at.Unix()},
				deletion{`DELETE FROM applied WHERE newest < $1`, at.UnixMilli()})
			clear(s.hours)
		}
		if !p.Decisions.IsZero() {
			list = append(list, deletion{`DELETE FROM decisions WHERE time < $1`, p.Decisions.UnixMilli()})
		}
		if !p.Outcomes.IsZero() {
			at := p.Outcomes.UnixMilli()
			list = append(list, deletion{`DELETE FROM hold_outcomes WHERE updated < $1`, at}, deletion{`DELETE FROM tasks WHERE updated < $1`, at})
		}
		for _, d := range list {
			if err := t.exec(d.query, d.at); err != nil {
				return err
			}
		}
		return nil
	})
}

// Lead implements store.Usage.
func (s *Store) Lead(ctx context.Context, now time.Time, d time.Duration) (leads bool, err error) {
	err = s.transact(ctx, func(t *tx) error {
		r, err := t.ExecContext(ctx, `UPDATE meta SET value = $1 WHERE name = 'compacting' AND (value <= $2 OR value > $1)`, now.Add(d).UnixMilli(), now.UnixMilli())
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		leads = n > 0
		return err
	})
	return leads, err
}

// Position implements store.Usage.
func (s *Store) Position(ctx context.Context, name string) (n uint64, err error) {
	err = s.view(ctx, func(t *tx) error {
		var at int64
		err := t.row(`SELECT value FROM meta WHERE name = $1`, "position/"+name).Scan(&at)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		n = uint64(at)
		return err
	})
	return n, err
}

// SetPosition implements store.Usage.
func (s *Store) SetPosition(ctx context.Context, name string, n uint64) error {
	return s.transact(ctx, func(t *tx) error {
		return t.exec(`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, "position/"+name, int64(n))
	})
}
