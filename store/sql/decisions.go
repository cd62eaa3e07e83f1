package sql

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/usage"
)

// decisionRows is how many decisions one statement writes.
const decisionRows = 100

func number(n int) string { return strconv.Itoa(n) }

// placeholders are `($n, $n+1, …` for so many values from the n-th argument on.
func placeholders(after, count int) string {
	b := strings.Builder{}
	b.WriteByte('(')
	for i := range count {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("$" + number(after+i+1))
	}
	return b.String()
}

// KeepDecisions implements store.Usage.
func (s *Store) KeepDecisions(ctx context.Context, list []usage.Decision) error {
	return s.transact(ctx, func(t *tx) error {
		for len(list) > 0 {
			part := list[:min(len(list), decisionRows)]
			list = list[len(part):]
			query, args := strings.Builder{}, make([]any, 0, 9*len(part))
			query.WriteString(`INSERT INTO decisions (id, time, feature, effect, cohort, run, model, reason, data) VALUES `)
			for i, d := range part {
				if i > 0 {
					query.WriteString(", ")
				}
				query.WriteString(placeholders(len(args), 9) + ")")
				args = append(args, d.ID, d.Time.UnixMilli(), d.Feature, d.Effect, d.Cohort, d.Run, d.Model, d.Reason, string(d.Data))
			}
			query.WriteString(` ON CONFLICT (id) DO NOTHING`)
			if err := t.exec(query.String(), args...); err != nil {
				return err
			}
		}
		return nil
	})
}

// Decisions implements store.Usage.
func (s *Store) Decisions(ctx context.Context, q usage.DecisionQuery) (list []usage.Decision, next string, err error) {
	limit := max(1, min(q.Limit, 1000))
	where, args := conditions(&q)
	order := " ORDER BY id DESC LIMIT "
	if q.OldestFirst {
		order = " ORDER BY id LIMIT "
	}
	err = s.view(ctx, func(t *tx) error {
		return t.each(func(r *sql.Rows) error {
			var d usage.Decision
			var at int64
			if err := r.Scan(&d.ID, &at, &d.Feature, &d.Effect, &d.Cohort, &d.Run, &d.Model, &d.Reason, &d.Data); err != nil {
				return err
			}
			d.Time = time.UnixMilli(at).UTC()
			list = append(list, d)
			return nil
		}, "SELECT id, time, feature, effect, cohort, run, model, reason, data FROM decisions"+where+order+number(limit+1), args...)
	})
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].ID
	}
	return list, next, err
}

// CountDecisions implements store.Usage.
func (s *Store) CountDecisions(ctx context.Context, q usage.DecisionQuery) (n int64, err error) {
	where, args := conditions(&q)
	err = s.view(ctx, func(t *tx) error { return t.row("SELECT COUNT(*) FROM decisions"+where, args...).Scan(&n) })
	return n, err
}

// conditions is the WHERE clause of a query.
func conditions(q *usage.DecisionQuery) (where string, args []any) {
	where = " WHERE 1 = 1"
	add := func(condition string, arg any) {
		args = append(args, arg)
		where += " AND " + condition + " $" + number(len(args))
	}
	if !q.From.IsZero() {
		add("time >=", q.From.UnixMilli())
	}
	if !q.To.IsZero() {
		add("time <", q.To.UnixMilli())
	}
	switch {
	case q.After != "" && q.OldestFirst:
		add("id >", q.After)
	case q.After != "":
		add("id <", q.After)
	}
	for _, f := range []struct{ column, value string }{
		{"id", q.ID}, {"feature", q.Feature}, {"effect", q.Effect}, {"cohort", q.Cohort}, {"run", q.Run}, {"model", q.Model}, {"reason", q.Reason},
	} {
		if f.value != "" {
			add(f.column+" =", f.value)
		}
	}
	return where, args
}
