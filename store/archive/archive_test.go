package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/archive"
	"github.com/chartergate/chartergate/store/dirlock"
)

func open(t *testing.T, dir string, segmentBytes int64) *archive.Archive {
	t.Helper()
	a, err := archive.Open(dir, segmentBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func put(t *testing.T, a *archive.Archive, batches ...store.OutboxBatch) {
	t.Helper()
	if err := a.Put(t.Context(), batches); err != nil {
		t.Fatal(err)
	}
}

func batch(owner string, n uint64) store.OutboxBatch {
	return store.OutboxBatch{Owner: owner, N: n, Data: fmt.Appendf(nil, "%s-%d%s", owner, n, bytes.Repeat([]byte{0}, int(n%50)))}
}

// list reads everything, as `owner/n`, and checks that the data is what was put.
func list(t *testing.T, dirs ...string) ([]string, int64, error) {
	t.Helper()
	r, err := archive.NewReader(dirs...)
	if err != nil {
		return nil, 0, err
	}
	var names []string
	for b, err := range r.Batches() {
		if err != nil {
			return names, r.Torn, err
		}
		if !bytes.Equal(b.Data, batch(b.Owner, b.N).Data) {
			t.Errorf("%s/%d holds %q", b.Owner, b.N, b.Data)
		}
		names = append(names, fmt.Sprintf("%s/%d", b.Owner, b.N))
	}
	return names, r.Torn, nil
}

func wantList(t *testing.T, want []string, dirs ...string) {
	t.Helper()
	if got, torn, err := list(t, dirs...); err != nil || torn != 0 || !slices.Equal(got, want) {
		t.Errorf("the archive holds %v and %d torn bytes, error %v; want %v", got, torn, err, want)
	}
}

func segmentFiles(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// What is put again, for whatever reason and wherever, is read once.
func TestReaderGivesEachBatchOnce(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	a := open(t, dir, 300)
	put(t, a, batch("a", 7), batch("a", 8), batch("b", 0))
	put(t, a, batch("a", 8), batch("a", 9)) // the answer to the first was lost
	put(t, a, batch("b", 2))
	put(t, a, batch("b", 1))
	put(t, a, batch("b", 0), batch("b", 1), batch("b", 2))
	for n := range uint64(20) {
		put(t, a, batch("c", n))
	}
	want := []string{"a/7", "a/8", "b/0", "a/9", "b/2", "b/1"}
	for n := range 20 {
		want = append(want, fmt.Sprintf("c/%d", n))
	}
	wantList(t, want, dir)
	if n := len(segmentFiles(t, dir, "*.journal")); n < 3 {
		t.Errorf("%d segments of about 300 bytes", n)
	}
	put(t, open(t, other, 0), batch("a", 9), batch("a", 10))
	wantList(t, append(want, "a/10"), dir, other)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Put(t.Context(), nil); err == nil {
		t.Error("put after it was closed")
	}
	again := open(t, dir, 300)
	put(t, again, batch("c", 20))
	wantList(t, append(want, "c/20"), dir)
}

func TestArchiveIsForItsOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "archive")
	a := open(t, dir, 1)
	put(t, a, batch("a", 0))
	put(t, a, batch("a", 1))
	if _, err := archive.Open(dir, 0); !errors.As(err, new(*dirlock.InUseError)) {
		t.Errorf("opened twice: error %v, want an InUseError", err)
	}
	err := filepath.WalkDir(filepath.Dir(dir), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{t.TempDir(), filepath.Join(dir, "gone")} {
		if _, _, err := list(t, dir); err == nil {
			t.Errorf("%s is read as an archive", dir)
		}
	}
}

// Whatever a crash leaves of a Put that was not confirmed is cut off at the next start, and what was confirmed stays.
func TestTornTailIsCutAtOpen(t *testing.T) {
	whole := t.TempDir()
	a := open(t, whole, 0)
	put(t, a, batch("a", 0), batch("a", 1))
	path := segmentFiles(t, whole, "*.journal")[0]
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, a, batch("a", 2), batch("a", 3))
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(full)
	flipped[len(kept)+12] ^= 1
	cases := map[string][]byte{
		"nothing": kept, "zeros": append(slices.Clone(kept), make([]byte, 100)...), "a bit": flipped,
		"a huge length": append(slices.Clone(kept), 255, 255, 255, 127, 0, 0, 0, 0, 0), "no first line": {}, "a part of the first line": full[:5],
	}
	for n := len(kept) + 1; n < len(full); n += 7 {
		cases[fmt.Sprintf("%d of %d bytes", n, len(full))] = full[:n]
	}
	for name, data := range cases {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		want := []string{"a/0", "a/1"}
		if len(data) < len(kept) {
			want = nil
		}
		before, torn, err := list(t, dir)
		if err != nil || len(before) < len(want) {
			t.Errorf("%s: read before it is opened: %v, error %v", name, before, err)
		}
		again := open(t, dir, 0)
		put(t, again, batch("a", 9))
		if slices.Contains(before, "a/2") {
			want = append(want, "a/2") // whole, if not confirmed
		}
		wantList(t, append(want, "a/9"), dir)
		beside := segmentFiles(t, dir, "*.torn")
		if (len(beside) == 1) != (torn > 0) {
			t.Errorf("%s: %d bytes were torn, kept beside: %v", name, torn, beside)
		}
		for _, file := range beside {
			if info, err := os.Stat(file); err != nil || info.Size() != torn || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %d torn bytes are kept as %v, error %v", name, torn, info, err)
			}
		}
	}
}

// Damage that is no torn tail is reported and not passed over.
func TestDamageIsReported(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir, 1)
	put(t, a, batch("a", 0))
	put(t, a, batch("a", 1))
	files := segmentFiles(t, dir, "*.journal")
	for _, at := range []int64{3, 31} { // the first line, a record
		f, err := os.OpenFile(files[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		flip := func() {
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			b[0] ^= 1
			if _, err := f.WriteAt(b[:], at); err != nil {
				t.Fatal(err)
			}
		}
		flip()
		if got, _, err := list(t, dir); !errors.As(err, new(*archive.CorruptError)) || len(got) != 0 {
			t.Errorf("a bit at %d is flipped: read %v, error %v", at, got, err)
		}
		flip()
		f.Close()
	}
	wantList(t, []string{"a/0", "a/1"}, dir)
	if err := os.WriteFile(files[1], []byte("the diary of somebody else, who wants to keep it\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := archive.Open(dir, 0); !errors.As(err, new(*archive.CorruptError)) {
		t.Errorf("another kind of file: error %v", err)
	}
}

// A disk that is full loses nothing that was confirmed, and is written on once there is room.
func TestFailedPut(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir, 1)
	put(t, a, batch("a", 0))
	next := filepath.Join(dir, "0000000000000002.journal")
	if err := os.Mkdir(next, 0o700); err != nil { // no segment can begin
		t.Fatal(err)
	}
	if err := a.Put(t.Context(), []store.OutboxBatch{batch("a", 1)}); err == nil {
		t.Error("put without a segment")
	}
	if err := os.Remove(next); err != nil {
		t.Fatal(err)
	}
	put(t, a, batch("a", 1))
	wantList(t, []string{"a/0", "a/1"}, dir)
}

// FuzzReader reads hostile segments: it never panics, never reads a batch that was not written whole, and what it reads
// can be written on.
func FuzzReader(f *testing.F) {
	dir := f.TempDir()
	a, err := archive.Open(dir, 0)
	if err != nil {
		f.Fatal(err)
	}
	if err := a.Put(f.Context(), []store.OutboxBatch{batch("a", 0), batch("b", 300), batch("a", 0), batch("", 1<<63)}); err != nil {
		f.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-3])
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "0000000000000001.journal"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		read := func() (names []string, err error) {
			r, err := archive.NewReader(dir)
			if err != nil {
				t.Fatal(err)
			}
			for b, err := range r.Batches() {
				if err != nil {
					return names, err
				}
				if name := fmt.Sprintf("%s/%d", b.Owner, b.N); slices.Contains(names, name) {
					t.Errorf("%s is read twice", name)
				} else {
					names = append(names, name)
				}
			}
			return names, nil
		}
		before, err := read()
		if err != nil {
			return
		}
		a, err := archive.Open(dir, 0)
		if err != nil {
			t.Fatalf("it is read without an error, and not opened: %v", err)
		}
		defer a.Close()
		if err := a.Put(t.Context(), []store.OutboxBatch{{Owner: "fresh", N: 1}}); err != nil {
			t.Fatal(err)
		}
		if after, err := read(); err != nil || !slices.Contains(before, "fresh/1") && !slices.Equal(after, append(before, "fresh/1")) {
			t.Errorf("%v was read, after a Put %v, error %v", before, after, err)
		}
	})
}
