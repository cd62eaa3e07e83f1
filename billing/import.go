package billing

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/chartergate/chartergate/core/bill"
	"github.com/chartergate/chartergate/store"
)

// Importer keeps bills. Files that are imported together are one delivery.
type Importer struct {
	Bills   store.Bills
	Options Options
	Strict  bool // refuse a file with rows that cannot be read, instead of skipping them
	Replace bool // the delivery is all there is of its accounts and months
	Again   bool // import files again that were imported before, as with other feature tags
	Now     func() time.Time
	Name    string // of the file in reports, where its path says nothing
	// Progress is called about a hundred times a second at most; it may be nil.
	Progress func(file string, read, size int64)
}

// States of Report.State.
const (
	StateImported = "imported"
	StateBefore   = "already imported"
	StateDryRun   = "dry run"
)

const linesAtOnce = 5000 // in one transaction

// Import reads files and keeps their lines, which count once all files are in. What is wrong with a file leaves nothing
// of the delivery behind. Where the database or the caller stops it, a later Import of the same files goes on.
func (m *Importer) Import(ctx context.Context, paths []string) ([]*Report, error) {
	reports := make([]*Report, 0, len(paths))
	byID := make(map[int64]*Report)
	var ids, open []int64
	for _, path := range paths {
		id, report, err := m.file(ctx, path, ids)
		if id != 0 && !slices.Contains(ids, id) {
			ids = append(ids, id)
			if report == nil || report.State != StateBefore {
				open = append(open, id)
			}
		}
		if err != nil {
			if _, ok := errors.AsType[*ContentError](err); ok {
				for _, id := range open {
					err = errors.Join(err, m.Bills.DropBill(ctx, id))
				}
			}
			return nil, err
		}
		reports = append(reports, report)
		if byID[id] == nil {
			byID[id] = report
		}
	}
	err := m.Bills.FinishBills(ctx, ids, m.Replace, m.Now(), func(id int64, c store.BillChanges) []byte {
		r := byID[id]
		r.Restated, r.Removed, r.Kept = c.Restated, c.Removed, c.Kept
		b, _ := json.Marshal(r) // it has strings and numbers only
		return b
	})
	return reports, err
}

// ContentError is wrong with a file, and will be again.
type ContentError struct{ err error }

func (e *ContentError) Error() string { return e.err.Error() }

// Unwrap gives what is wrong.
func (e *ContentError) Unwrap() error { return e.err }

// file keeps the lines of one file, behind those that are there. Already counted files of the command are in before.
func (m *Importer) file(ctx context.Context, path string, before []int64) (int64, *Report, error) {
	f, err := Open(path, m.Options)
	if err != nil {
		return 0, nil, &ContentError{err}
	}
	defer f.Close()
	f.name = cmp.Or(m.Name, path)
	hash, err := hashOf(path)
	if err != nil {
		return 0, nil, err
	}
	begin := func() (store.BillImport, error) {
		return m.Bills.BeginBill(ctx, store.BillFile{Hash: hash, Name: f.name, Format: f.Format()})
	}
	b, err := begin()
	if err == nil && b.Done && m.Again && !slices.Contains(before, b.ID) {
		if err = m.Bills.DropBill(ctx, b.ID); err == nil {
			b, err = begin()
		}
	}
	if err != nil {
		return 0, nil, err
	}
	if b.Done || slices.Contains(before, b.ID) {
		r := &Report{}
		if b.Done {
			if err := json.Unmarshal(b.Report, r); err != nil {
				return b.ID, nil, fmt.Errorf("the report of the import of %s: %w", b.Name, err)
			}
		}
		r.File, r.State = f.name, StateBefore
		return b.ID, r, nil
	}
	report, err := m.append(ctx, f, b)
	if report != nil {
		report.Hash, report.State = hash, StateImported
	}
	return b.ID, report, err
}

// chunk is lines up to a row.
type chunk struct {
	to    int64
	lines []bill.Line
}

// append reads in one goroutine and writes in another.
func (m *Importer) append(ctx context.Context, f *File, b store.BillImport) (*Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	full, empty := make(chan chunk, 1), make(chan []bill.Line, 3)
	for range cap(empty) {
		empty <- make([]bill.Line, 0, linesAtOnce)
	}
	wrote := make(chan error, 1)
	go func() {
		var err error
		for c := range full {
			if err == nil {
				if err = m.Bills.AppendBill(ctx, b.ID, b.Position, c.to, c.lines); err != nil {
					cancel()
				}
				b.Position = c.to
			}
			clear(c.lines)
			empty <- c.lines[:0]
		}
		wrote <- err
	}()
	skipTo := b.Position
	lines := <-empty
	shown := time.Time{}
	send := func() {
		full <- chunk{f.rows, lines}
		lines = <-empty
	}
	report, err := f.scan(m.Strict, func(l *bill.Line) error {
		if l.Row <= skipTo {
			return nil
		}
		if lines = append(lines, *l); len(lines) < linesAtOnce {
			return nil
		}
		send()
		if now := time.Now(); m.Progress != nil && now.Sub(shown) > 10*time.Millisecond {
			shown = now
			read, size := f.Progress()
			m.Progress(f.name, read, size)
		}
		return ctx.Err()
	})
	if err == nil && (len(lines) > 0 || f.rows > skipTo) {
		send()
	}
	close(full)
	written := <-wrote
	switch {
	case errors.Is(written, store.ErrConflict):
		return report, fmt.Errorf("%s: another import of this file is under way: wait for it", f.name)
	case written != nil:
		return report, fmt.Errorf("%s, after row %d: %w", f.name, b.Position, written)
	case err != nil && ctx.Err() != nil:
		return report, fmt.Errorf("%s: stopped after row %d; import it again to go on: %w", f.name, b.Position, ctx.Err())
	case err != nil:
		return report, &ContentError{err}
	}
	return report, nil
}

func hashOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// DryRun reads files and keeps nothing.
func DryRun(paths []string, o Options, strict bool, progress func(file string, read, size int64)) ([]*Report, error) {
	var reports []*Report
	for _, path := range paths {
		f, err := Open(path, o)
		if err != nil {
			return nil, err
		}
		shown := time.Time{}
		r, err := f.scan(strict, func(l *bill.Line) error {
			if l.Row%1000 == 0 && progress != nil && time.Since(shown) > 10*time.Millisecond {
				shown = time.Now()
				read, size := f.Progress()
				progress(path, read, size)
			}
			return nil
		})
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		r.State = StateDryRun
		reports = append(reports, r)
	}
	return reports, nil
}
