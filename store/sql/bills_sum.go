package sql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

const maxBillRows = 200_000

// SumBills implements store.Bills.
func (s *Store) SumBills(ctx context.Context, q store.BillQuery) (rows []store.BillRow, err error) {
	query, args, err := s.billQuery(&q)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, func(t *tx) error {
		if s.postgres {
			if err := t.exec(`SET LOCAL enable_nestloop = off`); err != nil {
				return err
			}
		}
		return t.each(func(r *sql.Rows) error {
			if len(rows) == maxBillRows {
				return fmt.Errorf("%w: more than %d rows: sum by fewer dimensions, or name some of their keys", store.ErrTooLarge, maxBillRows)
			}
			row, err := scanBillRow(r, len(q.By))
			rows = append(rows, row)
			return err
		}, query, args...)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b store.BillRow) int {
		if c := slices.Compare(a.Keys, b.Keys); c != 0 {
			return c
		}
		return strings.Compare(a.Currency, b.Currency)
	})
	return rows, nil
}

// parts are the sums of an amount that overflow nothing: units, nanos within one, and what rounding took off.
func parts(column, atto string) string {
	return fmt.Sprintf("COALESCE(SUM(%[1]s / 1000000000), 0), COALESCE(SUM(%[1]s %% 1000000000), 0), SUM(%[2]s)", column, atto)
}

func scanBillRow(r *sql.Rows, keys int) (store.BillRow, error) {
	row := store.BillRow{Keys: make([]string, keys)}
	var n [12]int64
	into := []any{&row.Currency, &row.Rows, &row.Tokens}
	for i := range row.Keys {
		into = append(into, &row.Keys[i])
	}
	for i := range n {
		into = append(into, &n[i])
	}
	if err := r.Scan(into...); err != nil {
		return row, err
	}
	row.Billed.AddParts(n[0], n[1], n[2])
	row.BilledLines.AddParts(n[0], n[1], 0)
	row.Effective.AddParts(n[3], n[4], n[5])
	row.List.AddParts(n[6], n[7], n[8])
	row.Quantity.AddParts(n[10], n[11], 0)
	row.Quantity.AddMillions(n[9])
	return row, nil
}

func (s *Store) billQuery(q *store.BillQuery) (string, []any, error) {
	if len(q.By) > usage.MaxBy {
		return "", nil, &usage.QueryError{Field: "by", Problem: fmt.Sprintf("has %d dimensions, it may have %d", len(q.By), usage.MaxBy)}
	}
	var args []any
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	keys := ""
	for i, d := range q.By {
		if slices.Contains(q.By[:i], d) {
			return "", nil, &usage.QueryError{Field: "by", Problem: "names " + d + " twice"}
		}
		e, err := s.billColumn(d, arg)
		if err != nil {
			return "", nil, err
		}
		keys += ", " + e + fmt.Sprintf(" AS k%d", i)
	}
	where := []string{"l.gone = 0", "i.done = 1"}
	if !q.From.IsZero() {
		where = append(where, "l.day >= "+arg(q.From.Unix()/86400))
	}
	if !q.To.IsZero() {
		where = append(where, "l.day < "+arg(q.To.Add(24*time.Hour-1).Unix()/86400))
	}
	for d, any := range q.Where {
		e, err := s.billColumn(d, arg)
		if err != nil {
			return "", nil, err
		}
		in := make([]string, len(any))
		for i, v := range any {
			in[i] = arg(v)
		}
		if len(in) == 0 {
			return "", nil, &usage.QueryError{Field: "where", Problem: "names no key of " + d}
		}
		where = append(where, e+" IN ("+strings.Join(in, ", ")+")")
	}
	by := "d.currency"
	for i := range q.By {
		by += fmt.Sprintf(", k%d", i)
	}
	return `SELECT d.currency, COUNT(*), SUM(l.tokens)` + keys + `, ` + parts("l.billed", "l.billed_atto") + `, ` + parts("l.effective", "l.effective_atto") + `, ` +
		parts("l.list", "l.list_atto") + `, SUM(l.quantity / 1000000), SUM(l.quantity % 1000000), SUM(l.quantity_nanos)
		FROM bill_lines l JOIN bill_dims d ON d.id = l.dim JOIN bill_imports i ON i.id = (l.id >> 32)
		WHERE ` + strings.Join(where, " AND ") + ` GROUP BY ` + by + fmt.Sprintf(` LIMIT %d`, maxBillRows+1), args, nil
}

// billColumn is a dimension in SQL.
func (s *Store) billColumn(d string, arg func(any) string) (string, error) {
	switch {
	case d == store.BillDay:
		if s.postgres {
			return `to_char(date '1970-01-01' + l.day::int, 'YYYY-MM-DD')`, nil
		}
		return `date(l.day * 86400, 'unixepoch')`, nil
	case d == store.BillPeriod:
		if s.postgres {
			return `to_char(to_timestamp(d.period) AT TIME ZONE 'UTC', 'YYYY-MM')`, nil
		}
		return `strftime('%Y-%m', d.period, 'unixepoch')`, nil
	case d == store.BillFileName:
		return `i.name`, nil
	case strings.HasPrefix(d, store.BillTag) && len(d) > len(store.BillTag):
		tag := arg(strings.TrimPrefix(d, store.BillTag))
		if s.postgres {
			return `COALESCE(NULLIF(d.tags, '')::json ->> ` + tag + `::text, '')`, nil
		}
		return `COALESCE(NULLIF(d.tags, '') ->> ` + tag + `, '')`, nil
	case slices.Contains(store.BillDimensions, d):
		return `d.` + d, nil
	}
	return "", &usage.QueryError{Field: "dimension", Problem: fmt.Sprintf("%q is not known: use %s, or tag: and a tag's name", d, strings.Join(store.BillDimensions, ", "))}
}
