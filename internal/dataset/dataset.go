// Package dataset finds the public data that tests read and the project does not contain: traces, bills, price lists.
package dataset

import (
	"os"
	"path/filepath"
	"testing"
)

// Env names the folder of the data; unset, it is shared/data beside the folder of go.mod.
const Env = "CHARTERGATE_DATA"

// File gives the path of a file of the data, such as `traces/azure-llm-2023-conv.csv`, or skips the test.
func File(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv(Env)
	if dir == "" {
		dir = filepath.Join(root(t), "..", "shared", "data")
	}
	file := filepath.Join(dir, filepath.FromSlash(name))
	if _, err := os.Stat(file); err != nil {
		t.Skipf("SKIPPED: the public data is not here: put it at %s, or set %s to the folder that has %s", file, Env, name)
	}
	return file
}

// root is the folder of go.mod: tests run in the folder of their package.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at
		}
		if filepath.Dir(at) == at {
			t.Fatalf("there is no go.mod above %s", dir)
		}
	}
}
