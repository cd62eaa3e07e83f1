package sql

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/usage"
)

// holdsPerChunk is how many holds a row of hold_outcomes has, 2 bits each.
const holdsPerChunk = 4096

// outcomeMarks are the rows of hold_outcomes that a transaction has looked at.
type outcomeMarks struct {
	t      *tx
	chunks map[outcomeChunk]*markRow
}

type outcomeChunk struct {
	owner string
	n     uint64
}

type markRow struct {
	marks   []byte
	changed bool
}

func newOutcomeMarks(t *tx) *outcomeMarks {
	return &outcomeMarks{t, map[outcomeChunk]*markRow{}}
}

// set notes how a hold's call ended and gives what was noted first.
func (m *outcomeMarks) set(o usage.HoldOutcome) (first usage.Outcome, fresh bool, err error) {
	key := outcomeChunk{o.Owner, o.Seq / holdsPerChunk}
	row := m.chunks[key]
	if row == nil {
		row = &markRow{}
		err := m.t.row(`SELECT marks FROM hold_outcomes WHERE owner = $1 AND chunk = $2`, key.owner, int64(key.n)).Scan(&row.marks)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return 0, false, err
		}
		if err == nil && len(row.marks) != holdsPerChunk/4 {
			return 0, false, errPack
		}
		if row.marks == nil {
			row.marks = make([]byte, holdsPerChunk/4)
		}
		m.chunks[key] = row
	}
	at, shift := o.Seq%holdsPerChunk/4, o.Seq%4*2
	if was := usage.Outcome(row.marks[at] >> shift & 3); was != usage.OutcomeUnknown {
		return was, false, nil
	}
	row.marks[at] |= byte(o.Outcome) << shift
	row.changed = true
	return o.Outcome, true, nil
}

func (m *outcomeMarks) write() error {
	for key, row := range m.chunks {
		if !row.changed {
			continue
		}
		if err := m.t.exec(`INSERT INTO hold_outcomes (owner, chunk, marks, updated) VALUES ($1, $2, $3, $4)
			ON CONFLICT (owner, chunk) DO UPDATE SET marks = excluded.marks, updated = excluded.updated`,
			key.owner, int64(key.n), row.marks, time.Now().UnixMilli()); err != nil {
			return err
		}
	}
	return nil
}

// ended is totals of one outcome.
func ended(o usage.Outcome) (t usage.Totals) {
	switch o {
	case usage.OutcomeSuccess:
		t.Successes = 1
	case usage.OutcomeFailure:
		t.Failures = 1
	}
	return t
}

// RecordOutcome implements store.Usage.
func (s *Store) RecordOutcome(ctx context.Context, o usage.HoldOutcome, hour time.Time, a usage.Attribution) (first usage.Outcome, err error) {
	err = s.transact(ctx, func(t *tx) error {
		m := newOutcomeMarks(t)
		var fresh bool
		if first, fresh, err = m.set(o); err != nil || !fresh {
			return err
		}
		if err := m.write(); err != nil {
			return err
		}
		return s.count(t, []usage.Rollup{{Hour: hour, Attribution: a, Totals: ended(o.Outcome)}})
	})
	return first, err
}

// taskCalls is where the last call of a task is counted, and how many there are.
type taskCalls struct {
	hour, dim int64
	calls     int64
}

// taskRows is how many tasks one statement writes.
const taskRows = 200

// noteTasks notes where tasks are counted, and gives outcomes that were reported before their first call, to be counted.
func noteTasks(t *tx, tasks map[usage.Task]*taskCalls) (pending map[int64]map[int64]*usage.Totals, err error) {
	pending = map[int64]map[int64]*usage.Totals{}
	list := make([]usage.Task, 0, len(tasks))
	for task := range tasks {
		list = append(list, task)
	}
	now := time.Now().UnixMilli()
	for len(list) > 0 {
		part := list[:min(len(list), taskRows)]
		list = list[len(part):]
		query := strings.Builder{}
		args := make([]any, 0, 8*len(part))
		query.WriteString(`INSERT INTO tasks (kind, feature, id, hour, dim, calls, outcome, counted, updated) VALUES `)
		for i, task := range part {
			if i > 0 {
				query.WriteString(", ")
			}
			c := tasks[task]
			query.WriteString(placeholders(len(args), 6) + ", 0, 0, $" + number(len(args)+7) + ")")
			args = append(args, int64(task.Kind), task.Feature, task.ID, c.hour, c.dim, c.calls, now)
		}
		query.WriteString(` ON CONFLICT (kind, feature, id) DO UPDATE SET hour = excluded.hour, dim = excluded.dim,
			calls = tasks.calls + excluded.calls, updated = excluded.updated RETURNING kind, feature, id, outcome, counted`)
		var due []usage.Task
		err := t.each(func(r *sql.Rows) error {
			var task usage.Task
			var outcome usage.Outcome
			var counted int
			if err := r.Scan(&task.Kind, &task.Feature, &task.ID, &outcome, &counted); err != nil {
				return err
			}
			if outcome == usage.OutcomeUnknown || counted != 0 {
				return nil
			}
			due = append(due, task)
			c := tasks[task]
			if pending[c.hour] == nil {
				pending[c.hour] = map[int64]*usage.Totals{}
			}
			if pending[c.hour][c.dim] == nil {
				pending[c.hour][c.dim] = &usage.Totals{}
			}
			one := ended(outcome)
			return pending[c.hour][c.dim].Add(&one)
		}, query.String(), args...)
		if err != nil {
			return nil, err
		}
		for _, task := range due {
			if err := t.exec(`UPDATE tasks SET counted = 1 WHERE kind = $1 AND feature = $2 AND id = $3`, int64(task.Kind), task.Feature, task.ID); err != nil {
				return nil, err
			}
		}
	}
	return pending, nil
}

// RecordTaskOutcome implements store.Usage.
func (s *Store) RecordTaskOutcome(ctx context.Context, task usage.Task, o usage.Outcome) (first usage.Outcome, err error) {
	err = s.transact(ctx, func(t *tx) error {
		var hour, dim int64
		now := time.Now().UnixMilli()
		err := t.row(`SELECT hour, dim, outcome FROM tasks WHERE kind = $1 AND feature = $2 AND id = $3`, int64(task.Kind), task.Feature, task.ID).Scan(&hour, &dim, &first)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			first = o
			return t.exec(`INSERT INTO tasks (kind, feature, id, hour, dim, calls, outcome, counted, updated) VALUES ($1, $2, $3, 0, 0, 0, $4, 0, $5)`,
				int64(task.Kind), task.Feature, task.ID, int64(o), now)
		case err != nil:
			return err
		case first != usage.OutcomeUnknown:
			return nil
		}
		first = o
		if err := t.exec(`UPDATE tasks SET outcome = $4, counted = 1, updated = $5 WHERE kind = $1 AND feature = $2 AND id = $3`,
			int64(task.Kind), task.Feature, task.ID, int64(o), now); err != nil {
			return err
		}
		one, by := ended(o), sums{}
		if err := by.add(&one); err != nil {
			return err
		}
		_, err = t.insert(levelHour, hour, pack(map[int64]*sums{dim: &by}))
		return err
	})
	return first, err
}
