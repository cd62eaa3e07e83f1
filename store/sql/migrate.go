package sql

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// forPostgres turns the schema, which is written for SQLite, into PostgreSQL's words.
var forPostgres = strings.NewReplacer("INTEGER", "BIGINT", "BLOB", "BYTEA")

// migrate brings the schema up to date: all that is missing in one transaction, so that it is there or not, and servers
// that start at once take turns. Error: a schema that is newer than this program.
func (s *Store) migrate(ctx context.Context) error {
	if s.migrated.Load() {
		return nil
	}
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	err = s.change(ctx, func(t *tx) error {
		if err := t.exec(`CREATE TABLE IF NOT EXISTS schema_migrations (version ` + s.word("INTEGER") + ` PRIMARY KEY)`); err != nil {
			return err
		}
		var at int
		if err := t.row(`SELECT COALESCE(MAX(version), 0) FROM schema_migrations`).Scan(&at); err != nil {
			return err
		}
		if at > len(names) {
			return fmt.Errorf("the usage database has schema version %d and this program knows %d: use a program at least as new as the one that last served it", at, len(names))
		}
		for i, name := range names[at:] {
			text, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if err := t.exec(s.word(string(text))); err != nil {
				return fmt.Errorf("migration %s: %w", name, err)
			}
			if err := t.exec(`INSERT INTO schema_migrations (version) VALUES ($1)`, at+i+1); err != nil {
				return err
			}
		}
		return nil
	})
	s.migrated.Store(err == nil)
	return err
}

// word translates a type or a schema.
func (s *Store) word(sqlite string) string {
	if s.postgres {
		return forPostgres.Replace(sqlite)
	}
	return sqlite
}
