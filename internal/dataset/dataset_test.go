package dataset_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chartergate/chartergate/internal/dataset"
)

// recorder takes what a test would be told.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) { r.said = format }

func TestFileIsFoundOrTheTestSkipped(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(dataset.Env, dir)
	want := filepath.Join(dir, "traces", "a.csv")
	r := &recorder{TB: t}
	if dataset.File(r, "traces/a.csv"); !strings.HasPrefix(r.said, "SKIPPED: ") {
		t.Errorf("a file that is missing: %q", r.said)
	}
	if err := os.MkdirAll(filepath.Dir(want), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = &recorder{TB: t}
	if got := dataset.File(r, "traces/a.csv"); got != want || r.said != "" {
		t.Errorf("%s, %q", got, r.said)
	}
	t.Setenv(dataset.Env, "")
	r = &recorder{TB: t}
	if got, end := dataset.File(r, "a"), filepath.Join("shared", "data", "a"); !strings.HasSuffix(got, end) {
		t.Errorf("without %s: %s", dataset.Env, got)
	}
}
