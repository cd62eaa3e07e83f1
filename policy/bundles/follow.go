package bundles

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Follower keeps the policy of a source in use.
type Follower struct {
	Source *Source
	Key    *Key
	// Use vets a bundle and lets it decide. Error: it does not; the one before goes on deciding.
	Use func(context.Context, *Bundle) error
	// Kept is a file in which the last good bundle is kept, for a start without the source. Empty: none.
	Kept string
	Log  *slog.Logger

	loaded, failed atomic.Int64
	problem        string
}

// Counts says how many bundles were taken, and how often one was refused or could not be had.
func (f *Follower) Counts() (loaded, failed int64) { return f.loaded.Load(), f.failed.Load() }

// Start takes the first bundle: of the source, or else the one that was kept. Error: neither is there.
func (f *Follower) Start(ctx context.Context) error {
	err := f.once(ctx)
	if err == nil || f.Kept == "" {
		return err
	}
	raw, keptErr := os.ReadFile(f.Kept)
	if keptErr != nil {
		return err // the source's says more
	}
	if keptErr = f.take(ctx, raw); keptErr != nil {
		return fmt.Errorf("%w; and the one that was kept in %s: %w", err, f.Kept, keptErr)
	}
	f.Log.Warn("the policy bundle cannot be had: the one of before decides", "source", f.Source.location, "error", err)
	return nil
}

// Run looks for another bundle each time that tick fires, until ctx ends. A bundle that is refused is told of once.
func (f *Follower) Run(ctx context.Context, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		err := f.once(ctx)
		switch {
		case ctx.Err() != nil:
		case err == nil:
			f.problem = ""
		case err.Error() != f.problem:
			f.problem = err.Error()
			f.Log.Error("the policy bundle is not taken: the one before goes on deciding", "source", f.Source.location, "error", err)
		}
	}
}

func (f *Follower) once(ctx context.Context) error {
	raw, err := f.Source.Fetch(ctx)
	if err == nil && raw != nil {
		err = f.take(ctx, raw)
	}
	if err != nil {
		f.failed.Add(1)
		f.Source.last, f.Source.etag = nil, "" // it may do the next time
		return err
	}
	if raw != nil && f.Kept != "" {
		if err := replace(f.Kept, raw); err != nil {
			f.Log.Warn("the policy bundle could not be kept", "file", f.Kept, "error", err)
		}
	}
	return nil
}

func (f *Follower) take(ctx context.Context, raw []byte) error {
	b, err := f.Key.Read(raw)
	if err != nil {
		return err
	}
	if err := f.Use(ctx, b); err != nil {
		return err
	}
	f.loaded.Add(1)
	f.Log.Info("a policy bundle decides", "source", f.Source.location, "bundle_revision", b.Revision)
	return nil
}

// replace writes a file whole or not at all.
func replace(file string, content []byte) error {
	t, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name())
	_, err = t.Write(content)
	if closeErr := t.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(t.Name(), file)
}
