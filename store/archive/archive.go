// Package archive keeps settlements that left the ledger's journal in append-only files of one directory. It is the
// store.Outbox of a server that has no other.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/dirlock"
)

// SegmentBytes is from which size on a segment is followed by another.
const SegmentBytes = 64 << 20

const suffix = ".journal"

// Archive appends batches to the segments of a directory, which it has to itself. It is safe for concurrent use.
type Archive struct {
	dir     string
	lock    *os.File
	segment int64 // bytes at which the next one begins

	mu   sync.Mutex
	file *os.File // nil: the next Put begins a segment
	size int64    // of what is durable in it
	last uint64   // number of the newest segment
	err  error    // why nothing can be put any more
}

var _ store.Outbox = (*Archive)(nil)

// Open locks a directory, which it makes when it is missing, readable by its owner alone. What a crash left incomplete at
// the end, which Put never confirmed, is cut off and kept beside as a file that ends in `.torn`. segmentBytes 0:
// SegmentBytes. Errors: *dirlock.InUseError, *CorruptError, or what the file system says.
func Open(dir string, segmentBytes int64) (*Archive, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	lock, err := dirlock.Lock(dir)
	if err != nil {
		return nil, err
	}
	if segmentBytes == 0 {
		segmentBytes = SegmentBytes
	}
	a := &Archive{dir: dir, lock: lock, segment: segmentBytes}
	if err := a.resume(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// segments gives the numbers of a directory's segments, ascending.
func segments(dir string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	var numbers []uint64
	for _, f := range files {
		var n uint64
		if name, ok := strings.CutSuffix(f.Name(), suffix); ok {
			if _, err := fmt.Sscanf(name, "%016x", &n); err == nil && segmentName(n) == f.Name() {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func segmentName(n uint64) string { return fmt.Sprintf("%016x%s", n, suffix) }

// resume finds the end of the newest segment and goes on there.
func (a *Archive) resume() error {
	numbers, err := segments(a.dir)
	if err != nil || len(numbers) == 0 {
		return err
	}
	a.last = numbers[len(numbers)-1]
	path := filepath.Join(a.dir, segmentName(a.last))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	end, size, err := wholeUntil(f)
	if err == nil && end < size {
		err = a.cut(f, end, size)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if end == 0 { // not even its first line was written
		return errors.Join(f.Close(), os.Remove(path))
	}
	a.file, a.size = f, end
	return nil
}

// wholeUntil says up to where a segment holds whole records.
func wholeUntil(f *os.File) (end, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, fmt.Errorf("archive: %w", err)
	}
	s := newSegment(f, f.Name())
	for err == nil {
		_, err = s.next()
	}
	if err != io.EOF && !errors.Is(err, errIncomplete) {
		return 0, 0, err
	}
	return s.whole, info.Size(), nil
}

// cut takes off the end of a segment and keeps it beside.
func (a *Archive) cut(f *os.File, end, size int64) error {
	torn := fmt.Sprintf("%s.%s.torn", f.Name(), time.Now().UTC().Format("20060102T150405.000000000"))
	beside, err := os.OpenFile(torn, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	_, err = io.Copy(beside, io.NewSectionReader(f, end, size-end))
	if err = errors.Join(err, beside.Sync(), beside.Close()); err == nil {
		err = errors.Join(f.Truncate(end), f.Sync(), syncDir(a.dir))
	}
	if err != nil {
		return fmt.Errorf("archive: cut off what is incomplete at the end of %s: %w", f.Name(), err)
	}
	return nil
}

// Put implements store.Outbox. ctx is not looked at: writing to a disk cannot be called off. Once what a failed Put has
// left cannot be taken back, all later ones fail too, until the directory is opened again.
func (a *Archive) Put(_ context.Context, batches []store.OutboxBatch) error {
	var data []byte
	for _, b := range batches {
		data = appendRecord(data, b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	if a.file == nil || a.size >= a.segment {
		if err := a.rotate(); err != nil {
			return fmt.Errorf("archive: begin a segment: %w", err)
		}
	}
	_, err := a.file.WriteAt(data, a.size)
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		err = fmt.Errorf("archive: %w", err)
		if undo := errors.Join(a.file.Truncate(a.size), a.file.Sync()); undo != nil {
			a.err = fmt.Errorf("archive: %s may end in an incomplete record; start the server again to cut it off: %w", a.file.Name(), errors.Join(err, undo))
		}
		// What the kernel makes of pages that it could not write is not known: go on in another file.
		err = errors.Join(err, a.file.Close())
		a.file = nil
		return err
	}
	a.size += int64(len(data))
	return nil
}

// rotate begins a segment.
func (a *Archive) rotate() error {
	f, err := os.OpenFile(filepath.Join(a.dir, segmentName(a.last+1)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(magic)
	if err = errors.Join(err, f.Sync(), syncDir(a.dir)); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	if a.file != nil {
		if err := a.file.Close(); err != nil { // all of it is durable already
			return errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}
	a.file, a.size, a.last = f, int64(len(magic)), a.last+1
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close ends writing and unlocks the directory.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	if a.file != nil {
		err = a.file.Close()
	}
	a.file, a.err = nil, errors.New("archive: closed")
	return errors.Join(err, a.lock.Close())
}
