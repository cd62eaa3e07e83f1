package sql_test

import (
	"path/filepath"
	"testing"

	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/sql"
	"github.com/chartergate/chartergate/store/storetest"
)

func open(t *testing.T, url string) *sql.Store {
	t.Helper()
	s, err := sql.Open(t.Context(), url, sql.Options{TopK: 5})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLite(t *testing.T) {
	storetest.RunUsage(t, func(t *testing.T) (a, b store.Usage) {
		url := "sqlite:" + filepath.Join(t.TempDir(), "new", "usage.db")
		return open(t, url), open(t, url)
	})
}

func TestPostgres(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.RunUsage(t, func(t *testing.T) (a, b store.Usage) {
		url := server.NewDatabase(t)
		return open(t, url), open(t, url)
	})
}
