// Package sql keeps what is queried, usage and decisions, in SQLite or PostgreSQL: one schema, one code.
//
// Sums are kept packed, an hour, day or month of all attributions in one row (pack.go), because a report reads all of
// them: a row for each sum costs a database ten times the time. Writing appends a row; Compact merges them.
package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	_ "github.com/jackc/pgx/v5/stdlib" // PostgreSQL
	_ "modernc.org/sqlite"             // SQLite

	"github.com/chartergate/chartergate/store"
)

// DefaultTopK is how many keys of a cohort, prompt pattern or label an hour keeps apart.
const DefaultTopK = 100

// Options of a Store. The zero value works.
type Options struct {
	// TopK is how many keys of a cohort, prompt pattern or label an hour keeps apart, those that come first; the others
	// are counted as usage.OtherKey. 0: DefaultTopK.
	TopK int
	// Later opens a PostgreSQL database that does not answer all the same: its schema is brought up to date once it does.
	Later bool
}

// Store is a usage store. It is safe for concurrent use, and several processes may use one PostgreSQL database.
type Store struct {
	write, read *sql.DB
	postgres    bool
	migrated    atomic.Bool
	topK        int

	mu    sync.Mutex // held by the one writer of this process
	hours map[int64]*hourKeys

	dims  dimensions
	bills billWriters
}

var _ store.Usage = (*Store)(nil)

// Open opens a database and brings its schema up to date. url is `postgres://user@host/database`, or `sqlite:` and the
// path of a file, which is made when it is missing, with its directory. Error: store.ErrUnavailable where the database
// does not answer.
func Open(ctx context.Context, url string, o Options) (*Store, error) {
	s := &Store{topK: o.TopK, hours: map[int64]*hourKeys{}}
	if s.topK == 0 {
		s.topK = DefaultTopK
	}
	s.dims.reset()
	var err error
	switch path, isSQLite := strings.CutPrefix(url, "sqlite:"); {
	case isSQLite:
		err = s.openSQLite(path)
	case strings.HasPrefix(url, "postgres:"), strings.HasPrefix(url, "postgresql:"):
		s.postgres = true
		if s.write, err = sql.Open("pgx", url); err == nil {
			s.write.SetMaxOpenConns(16)
			s.write.SetMaxIdleConns(4)
			s.read = s.write
		}
	default:
		return nil, errors.New("the database's URL must be postgres://user@host/database, or sqlite: and the path of a file")
	}
	if err != nil {
		return nil, err
	}
	if err := s.migrate(ctx); err != nil && !(o.Later && errors.Is(err, store.ErrUnavailable)) {
		return nil, errors.Join(fmt.Errorf("open the usage database: %w", err), s.Close())
	}
	return s, nil
}

// readers is how many queries SQLite answers at once.
const readers = 4

func (s *Store) openSQLite(path string) error {
	if path == "" {
		return errors.New("the database's URL sqlite: names no file")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// SQLite decodes a path before it opens it, and ends it at ? and #.
	file := url.URL{Scheme: "file", Opaque: strings.NewReplacer("%", "%25", "?", "%3F", "#", "%23").Replace(filepath.ToSlash(path))}
	dsn := func(more ...string) string {
		q := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-32768)", "mmap_size(1073741824)"}}
		for i := 0; i < len(more); i += 2 {
			q.Add(more[i], more[i+1])
		}
		file.RawQuery = q.Encode()
		return file.String()
	}
	var err error
	if s.write, err = sql.Open("sqlite", dsn("_txlock", "immediate")); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1) // one writer at a time; without this, others would be told that it is busy
	if s.read, err = sql.Open("sqlite", dsn("_pragma", "query_only(1)")); err != nil {
		return errors.Join(err, s.write.Close())
	}
	s.read.SetMaxOpenConns(readers)
	return nil
}

// Close implements store.Usage.
func (s *Store) Close() error {
	if s.read == s.write {
		return s.write.Close()
	}
	return errors.Join(s.read.Close(), s.write.Close())
}

// tx is a transaction with its context.
type tx struct {
	*sql.Tx
	ctx context.Context
}

func (t *tx) exec(query string, args ...any) error {
	_, err := t.ExecContext(t.ctx, query, args...)
	return err
}

func (t *tx) row(query string, args ...any) *sql.Row { return t.QueryRowContext(t.ctx, query, args...) }

// each calls f for every row.
func (t *tx) each(f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := t.QueryContext(t.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// lockKey is the advisory lock that writers of a PostgreSQL database hold, as "charterg" in ASCII.
const lockKey = 0x6368617274657267

// transact writes. Writers take turns, of all processes: ids and what follows from what was read are theirs alone.
func (s *Store) transact(ctx context.Context, f func(*tx) error) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.change(ctx, f)
}

// change is transact on a schema that may not be up to date.
func (s *Store) change(ctx context.Context, f func(*tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	begun, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(err)
	}
	defer begun.Rollback() //nolint:errcheck // after a commit it does nothing
	t := &tx{begun, ctx}
	if s.postgres {
		if err := t.exec(`SELECT pg_advisory_xact_lock($1)`, int64(lockKey)); err != nil {
			return unavailable(err)
		}
	}
	if err := f(t); err != nil {
		return unavailable(err)
	}
	return unavailable(begun.Commit())
}

// view reads one state of the database.
func (s *Store) view(ctx context.Context, f func(*tx) error) error {
	if err := s.migrate(ctx); err != nil {
		return err
	}
	o := &sql.TxOptions{}
	if s.postgres {
		o.Isolation, o.ReadOnly = sql.LevelRepeatableRead, true
	}
	begun, err := s.read.BeginTx(ctx, o)
	if err != nil {
		return unavailable(err)
	}
	defer begun.Rollback() //nolint:errcheck // it only read
	return unavailable(f(&tx{begun, ctx}))
}
