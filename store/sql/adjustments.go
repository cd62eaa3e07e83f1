package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Adjust implements store.Usage.
func (s *Store) Adjust(ctx context.Context, list []usage.Adjustment) error {
	return s.transact(ctx, func(t *tx) error {
		ids, err := s.intern(t)
		if err != nil {
			return err
		}
		var rollups []usage.Rollup
		for _, a := range list {
			a.Effect = usage.EffectAdjustment
			a.Hour = a.Hour.UTC().Truncate(time.Hour)
			dim, err := ids.id(&a.Attribution)
			if err != nil {
				return err
			}
			var known usage.Adjustment
			var knownDim, hour int64
			err = t.row(`SELECT hour, dim, amount, reason, corrects FROM adjustments WHERE id = $1`, a.ID).
				Scan(&hour, &knownDim, &known.Amount, &known.Reason, &known.Corrects)
			switch {
			case err == nil && (hour != a.Hour.Unix() || knownDim != dim || known.Amount != a.Amount || known.Reason != a.Reason || known.Corrects != a.Corrects):
				return fmt.Errorf("adjustment %q was posted before with something else: %w", a.ID, store.ErrConflict)
			case err == nil:
				continue
			case !errors.Is(err, sql.ErrNoRows):
				return err
			}
			if err := t.exec(`INSERT INTO adjustments (id, time, hour, dim, amount, reason, corrects) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
				a.ID, a.Time.UnixMilli(), a.Hour.Unix(), dim, int64(a.Amount), a.Reason, a.Corrects); err != nil {
				return err
			}
			rollups = append(rollups, usage.Rollup{Hour: a.Hour, Attribution: a.Attribution, Totals: usage.Totals{Cost: usage.Cost{Other: a.Amount}}})
		}
		return s.countWith(t, ids, rollups)
	})
}

// Adjustments implements store.Usage.
func (s *Store) Adjustments(ctx context.Context, from, to time.Time, limit int) (list []usage.Adjustment, err error) {
	err = s.view(ctx, func(t *tx) error {
		if err := s.dims.catchUp(t); err != nil {
			return err
		}
		dims := s.dims.all()
		return t.each(func(r *sql.Rows) error {
			var a usage.Adjustment
			var at, hour, dim int64
			if err := r.Scan(&a.ID, &at, &hour, &dim, &a.Amount, &a.Reason, &a.Corrects); err != nil {
				return err
			}
			if dim < 0 || dim >= int64(len(dims)) || dims[dim] == nil {
				return errPack
			}
			a.Time, a.Hour, a.Attribution = time.UnixMilli(at).UTC(), time.Unix(hour, 0).UTC(), *dims[dim]
			list = append(list, a)
			return nil
		}, `SELECT id, time, hour, dim, amount, reason, corrects FROM adjustments WHERE hour >= $1 AND hour < $2 ORDER BY hour, id LIMIT $3`,
			from.Unix(), to.Unix(), limit)
	})
	return list, err
}
