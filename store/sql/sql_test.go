package sql_test

import (
	"os"
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

func TestSQLitePathsAreTakenAsTheyAre(t *testing.T) {
	for _, name := range []string{"100%", "%41", "a?b", "a#b", "a b&c=d", "x?mode=memory", "é+%3F#%"} {
		dir := filepath.Join(t.TempDir(), name)
		s := open(t, "sqlite:"+filepath.Join(dir, name+".db"))
		if err := s.SetPosition(t.Context(), "here", 7); err != nil {
			t.Fatal(err)
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) == 0 || files[0].Name() != name+".db" {
			t.Errorf("%s has %v, %v", name, files, err)
		}
		again := open(t, "sqlite:"+filepath.Join(dir, name+".db"))
		if n, err := again.Position(t.Context(), "here"); err != nil || n != 7 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

func TestPostgres(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.RunUsage(t, func(t *testing.T) (a, b store.Usage) {
		url := server.NewDatabase(t)
		return open(t, url), open(t, url)
	})
}
