package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
)

var _ store.Bills = (*Store)(nil)

// idShift parts the id of a line into its import and its row.
const idShift = 32

// idsOf are the ids of an import's lines; the second is not one of them.
func idsOf(id int64) (from, to int64) { return id << idShift, (id + 1) << idShift }

const importColumns = `id, hash, name, format, done, position, finished, report`

func scanImport(row interface{ Scan(...any) error }) (b store.BillImport, err error) {
	var done, finished int64
	var report string
	err = row.Scan(&b.ID, &b.Hash, &b.Name, &b.Format, &done, &b.Position, &finished, &report)
	if b.Done = done != 0; b.Done {
		b.Finished, b.Report = time.Unix(finished, 0).UTC(), []byte(report)
	}
	return b, err
}

// BeginBill implements store.Bills.
func (s *Store) BeginBill(ctx context.Context, f store.BillFile) (b store.BillImport, err error) {
	err = s.transact(ctx, func(t *tx) error {
		b, err = scanImport(t.row(`SELECT `+importColumns+` FROM bill_imports WHERE hash = $1`, f.Hash))
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		b = store.BillImport{BillFile: f}
		if err := t.row(`SELECT value FROM meta WHERE name = 'bills'`).Scan(&b.ID); err != nil {
			return err
		}
		if b.ID++; b.ID >= 1<<(63-idShift) {
			return store.ErrTooLarge
		}
		if err := t.exec(`UPDATE meta SET value = $1 WHERE name = 'bills'`, b.ID); err != nil {
			return err
		}
		return t.exec(`INSERT INTO bill_imports (`+importColumns+`) VALUES ($1, $2, $3, $4, 0, 0, 0, '')`, b.ID, f.Hash, f.Name, f.Format)
	})
	return b, err
}

// AppendBill implements store.Bills.
func (s *Store) AppendBill(ctx context.Context, id, position, to int64, lines []bill.Line) error {
	if to >= 1<<idShift {
		return fmt.Errorf("%w: a file may have %d rows", store.ErrTooLarge, int64(1)<<idShift-1)
	}
	w := s.bills.of(id)
	defer s.bills.done(w)
	if err := w.prepare(id, lines); err != nil {
		return err
	}
	err := s.transact(ctx, func(t *tx) error {
		moved, err := t.ExecContext(t.ctx, `UPDATE bill_imports SET position = $1 WHERE id = $2 AND position = $3 AND done = 0`, to, id, position)
		if err != nil {
			return err
		}
		if n, err := moved.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, store.ErrConflict)
		}
		for _, scope := range w.scopes {
			if err := t.exec(`INSERT INTO bill_scopes (import, account, period) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, id, scope.account, scope.period); err != nil {
				return err
			}
		}
		if s.postgres {
			return w.copyPostgres(t)
		}
		return w.insertSQLite(t)
	})
	if err != nil {
		w.forget() // what it remembers as written may not be
	}
	return err
}

// overlapping are the other finished imports that have lines of the same accounts and months.
func overlapping(t *tx, ids []int64) (list []int64, err error) {
	in := numbers(ids)
	err = t.each(func(r *sql.Rows) error {
		var id int64
		if err := r.Scan(&id); err != nil {
			return err
		}
		list = append(list, id)
		return nil
	}, `SELECT DISTINCT o.import FROM bill_scopes o JOIN bill_imports i ON i.id = o.import AND i.done = 1
		JOIN bill_scopes n ON n.account = o.account AND n.period = o.period WHERE n.import IN (`+in+`) AND o.import NOT IN (`+in+`) ORDER BY o.import`)
	return list, err
}

func numbers(ids []int64) string {
	text := make([]string, len(ids))
	for i, id := range ids {
		text[i] = fmt.Sprint(id)
	}
	return strings.Join(text, ", ")
}

// linesOf is a condition on the lines of some imports.
func linesOf(ids []int64) string {
	text := make([]string, len(ids))
	for i, id := range ids {
		from, to := idsOf(id)
		text[i] = fmt.Sprintf("id >= %d AND id < %d", from, to)
	}
	return "(" + strings.Join(text, " OR ") + ")"
}

// FinishBills implements store.Bills.
func (s *Store) FinishBills(ctx context.Context, ids []int64, replace bool, at time.Time, report func(int64, store.BillChanges) []byte) error {
	if len(ids) == 0 {
		return nil
	}
	return s.transact(ctx, func(t *tx) error {
		open, err := unfinished(t, ids)
		if err != nil {
			return err
		}
		var old []int64
		if len(open) > 0 {
			if old, err = overlapping(t, ids); err != nil {
				return err
			}
		}
		for _, id := range open {
			var c store.BillChanges
			if len(old) > 0 {
				if c, err = s.supersede(t, id, open, old, replace); err != nil {
					return err
				}
			}
			if err := t.exec(`UPDATE bill_imports SET done = 1, finished = $1, report = $2 WHERE id = $3`, at.Unix(), string(report(id, c)), id); err != nil {
				return err
			}
		}
		return nil
	})
}

func unfinished(t *tx, ids []int64) (open []int64, err error) {
	err = t.each(func(r *sql.Rows) error {
		var id int64
		if err := r.Scan(&id); err != nil {
			return err
		}
		open = append(open, id)
		return nil
	}, `SELECT id FROM bill_imports WHERE done = 0 AND id IN (`+numbers(ids)+`) ORDER BY id`)
	return open, err
}

// supersede takes lines of earlier imports out of the sums whose key a new file has: of each key as many as the files
// of the delivery up to this one have.
func (s *Store) supersede(t *tx, id int64, delivery, old []int64, replace bool) (c store.BillChanges, err error) {
	if s.postgres { // it knows nothing yet of how many lines there are
		if err := t.exec(`SET LOCAL enable_nestloop = off`); err != nil {
			return c, err
		}
	}
	change := func(query string) (int64, error) {
		r, err := t.ExecContext(t.ctx, query)
		if err != nil {
			return 0, err
		}
		return r.RowsAffected()
	}
	// Lines that an earlier file of the delivery has replaced are gone already, so this file's count is its own.
	c.Restated, err = change(fmt.Sprintf(`UPDATE bill_lines SET gone = %d WHERE id IN (
		SELECT o.id FROM (SELECT id, key1, key2, ROW_NUMBER() OVER (PARTITION BY key1, key2 ORDER BY id) AS n FROM bill_lines WHERE gone = 0 AND %s) o
		JOIN (SELECT key1, key2, COUNT(*) AS n FROM bill_lines WHERE %s GROUP BY key1, key2) w ON w.key1 = o.key1 AND w.key2 = o.key2 WHERE o.n <= w.n)`,
		id, linesOf(old), linesOf([]int64{id})))
	if err != nil {
		return c, err
	}
	rest := fmt.Sprintf(`id IN (SELECT l.id FROM (SELECT id, dim FROM bill_lines WHERE gone = 0 AND %s) l JOIN bill_dims d ON d.id = l.dim
		WHERE EXISTS (SELECT 1 FROM bill_scopes n WHERE n.import = %d AND n.account = d.account AND n.period = d.period))`, linesOf(old), id)
	if id != delivery[len(delivery)-1] {
		return c, nil // the files that follow may have them
	}
	if replace {
		rest = strings.Replace(rest, fmt.Sprintf("n.import = %d", id), "n.import IN ("+numbers(delivery)+")", 1)
		c.Removed, err = change(fmt.Sprintf(`UPDATE bill_lines SET gone = %d WHERE %s`, id, rest))
		return c, err
	}
	rest = strings.Replace(rest, fmt.Sprintf("n.import = %d", id), "n.import IN ("+numbers(delivery)+")", 1)
	err = t.row(`SELECT COUNT(*) FROM bill_lines WHERE ` + rest).Scan(&c.Kept)
	return c, err
}

// DropBill implements store.Bills.
func (s *Store) DropBill(ctx context.Context, id int64) error {
	from, to := idsOf(id)
	return s.transact(ctx, func(t *tx) error {
		for _, query := range []string{
			fmt.Sprintf(`UPDATE bill_lines SET gone = 0 WHERE gone = %d`, id),
			fmt.Sprintf(`DELETE FROM bill_lines WHERE id >= %d AND id < %d`, from, to),
			fmt.Sprintf(`DELETE FROM bill_dims WHERE id >= %d AND id < %d`, from, to),
			fmt.Sprintf(`DELETE FROM bill_scopes WHERE import = %d`, id),
			fmt.Sprintf(`DELETE FROM bill_imports WHERE id = %d`, id),
		} {
			if err := t.exec(query); err != nil {
				return err
			}
		}
		return nil
	})
}

const maxBills = 1000

// ListBills implements store.Bills.
func (s *Store) ListBills(ctx context.Context) (list []store.BillImport, err error) {
	err = s.view(ctx, func(t *tx) error {
		return t.each(func(r *sql.Rows) error {
			b, err := scanImport(r)
			list = append(list, b)
			return err
		}, `SELECT `+importColumns+` FROM bill_imports ORDER BY id DESC LIMIT $1`, maxBills)
	})
	return list, err
}

// row is what bill_lines keeps of a line.
func (w *billWriter) row(id int64, l *bill.Line) error {
	billed, err := l.Billed.Amount()
	if err != nil {
		return err
	}
	var effective, list *int64
	var amounts [2]bill.Amount
	for i, x := range []struct {
		d    *bill.Decimal
		into **int64
	}{{l.Effective, &effective}, {l.List, &list}} {
		if x.d == nil {
			continue
		}
		if amounts[i], err = x.d.Amount(); err != nil {
			return err
		}
		n := int64(amounts[i].Nanos)
		*x.into = &n
	}
	units, nanos, ok := l.Quantity.Units()
	if !ok {
		return money.ErrOverflow
	}
	end := int64(0)
	if !l.End.IsZero() {
		end = l.End.Unix()
	}
	key1, key2 := l.KeyParts()
	start := l.Start.Unix()
	c := &w.columns
	for i, n := range []int64{id<<idShift | l.Row, w.dim(id, l), key1, key2, int64(math.Floor(float64(start) / 86400)), start, end, units, nanos, l.Tokens,
		int64(billed.Nanos), billed.Atto, 0, amounts[0].Atto, 0, amounts[1].Atto} {
		c.ints[i] = append(c.ints[i], n)
	}
	c.effective, c.list = append(c.effective, effective), append(c.list, list)
	return nil
}
