package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/chartergate/chartergate/store"
)

// CorruptError says that a segment cannot be read on from an offset, although more was written after it.
type CorruptError struct {
	File   string
	Offset int64
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: restore the file from a backup", e.File, e.Offset)
}

// segment reads the records of a file.
type segment struct {
	name  string
	r     *bufio.Reader
	began bool
	whole int64 // up to here all is whole
}

func newSegment(r io.Reader, name string) *segment {
	return &segment{name: name, r: bufio.NewReaderSize(r, 1<<20)}
}

// next gives the next record. io.EOF at the end, errIncomplete when what follows is no whole record.
func (s *segment) next() (b store.OutboxBatch, err error) {
	if !s.began {
		first := make([]byte, len(magic))
		if err := s.fill(first); err != nil {
			return b, err
		}
		if string(first) != magic {
			if _, err := s.r.Peek(1); err == io.EOF {
				return b, errIncomplete
			}
			return b, &CorruptError{s.name, 0}
		}
		s.began, s.whole = true, int64(len(magic))
	}
	var header [headerSize]byte
	if err := s.fill(header[:]); err != nil {
		return b, err
	}
	size, err := bodySize(header[:])
	if err != nil {
		return b, err
	}
	body := make([]byte, size)
	if err := s.fill(body); err != nil {
		if err == io.EOF {
			err = errIncomplete
		}
		return b, err
	}
	if b, err = parseBody(header[:], body); err == nil {
		s.whole += int64(headerSize + size)
	}
	return b, err
}

// fill reads all of p: io.EOF for nothing, errIncomplete for a part.
func (s *segment) fill(p []byte) error {
	switch _, err := io.ReadFull(s.r, p); {
	case err == io.ErrUnexpectedEOF:
		return errIncomplete
	case err != nil && err != io.EOF:
		return fmt.Errorf("archive: read %s: %w", s.name, err)
	default:
		return err
	}
}

// Reader reads what archives hold, each batch once. It takes no lock: what a server that is running puts meanwhile may
// come or not.
type Reader struct {
	dirs []string
	from uint64 // segments below are left out
	// Torn is how many bytes at the ends of archives were no whole record, as while one is being written.
	Torn int64
}

// NewReader reads the archives of directories, one after the other. Error: one that holds no segment.
func NewReader(dirs ...string) (*Reader, error) {
	for _, dir := range dirs {
		numbers, err := segments(dir)
		if err != nil {
			return nil, err
		}
		if len(numbers) == 0 {
			return nil, fmt.Errorf("%s holds no archive: give the --archive-dir of a server; settlements come there about a minute after they were made", dir)
		}
	}
	return &Reader{dirs: dirs}, nil
}

// Batches gives every batch once, in the order in which they were first put. It ends after an error: *CorruptError, or
// what the file system says.
func (r *Reader) Batches() iter.Seq2[store.OutboxBatch, error] {
	return func(yield func(store.OutboxBatch, error) bool) {
		r.Torn = 0
		seen := map[string]*Numbers{}
		for _, dir := range r.dirs {
			list, err := segments(dir)
			if err != nil {
				yield(store.OutboxBatch{}, err)
				return
			}
			for i, n := range list {
				if n < r.from {
					continue
				}
				if !r.read(filepath.Join(dir, segmentName(n)), i == len(list)-1, seen, yield) {
					return
				}
			}
		}
	}
}

// read yields the batches of one file; false when there is no more to be done.
func (r *Reader) read(path string, last bool, seen map[string]*Numbers, yield func(store.OutboxBatch, error) bool) (goOn bool) {
	f, err := os.Open(path)
	if err != nil {
		yield(store.OutboxBatch{}, fmt.Errorf("archive: %w", err))
		return false
	}
	defer f.Close()
	for s := newSegment(f, path); ; {
		b, err := s.next()
		switch {
		case err == io.EOF:
			return true
		case errors.Is(err, errIncomplete) && last:
			if info, err := f.Stat(); err == nil {
				r.Torn += max(0, info.Size()-s.whole)
			}
			return true
		case errors.Is(err, errIncomplete):
			yield(store.OutboxBatch{}, &CorruptError{path, s.whole})
			return false
		case err != nil:
			yield(store.OutboxBatch{}, err)
			return false
		}
		of := seen[b.Owner]
		if of == nil {
			of = &Numbers{}
			seen[b.Owner] = of
		}
		if of.Add(b.N) && !yield(b, nil) {
			return false
		}
	}
}

// Segment is the number of the segment that is being written; those below change no more.
func (a *Archive) Segment() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// Batches gives the batches of the segments from one number on, each once, as Reader.Batches.
func (a *Archive) Batches(from uint64) iter.Seq2[store.OutboxBatch, error] {
	return (&Reader{dirs: []string{a.dir}, from: from}).Batches()
}

// With reads the archive together with those in other directories, each batch once. A directory may hold nothing yet.
func (a *Archive) With(dirs ...string) *Reader {
	return &Reader{dirs: append([]string{a.dir}, dirs...)}
}

// Name tells this archive from others by the batch that it begins with; empty where it holds none.
func (a *Archive) Name() (string, error) {
	list, err := segments(a.dir)
	if err != nil || len(list) == 0 {
		return "", err
	}
	f, err := os.Open(filepath.Join(a.dir, segmentName(list[0])))
	if err != nil {
		return "", fmt.Errorf("archive: %w", err)
	}
	defer f.Close()
	b, err := newSegment(f, f.Name()).next()
	if err == io.EOF || errors.Is(err, errIncomplete) {
		return "", nil
	}
	return fmt.Sprintf("%s/%d", b.Owner, b.N), err
}

// Len is how many archives it reads.
func (r *Reader) Len() int { return len(r.dirs) }
