// Package mem keeps everything in memory: the reference that the other stores must agree with.
package mem

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/store"
)

// Control is a store.Control in memory.
type Control struct {
	now     func() time.Time
	current atomic.Pointer[charter.Snapshot]

	mu        sync.Mutex // held by Commit
	listening sync.Mutex
	listeners []func(*charter.Snapshot)
}

var _ store.Control = (*Control)(nil)

// NewControl gives an empty store. now stamps records.
func NewControl(now func() time.Time) *Control {
	c := &Control{now: now}
	c.current.Store(new(charter.Snapshot))
	return c
}

// Snapshot implements store.Control.
func (c *Control) Snapshot() *charter.Snapshot { return c.current.Load() }

// OnChange implements store.Control. f is called before Commit returns, and must not call it.
func (c *Control) OnChange(f func(*charter.Snapshot)) {
	c.listening.Lock()
	defer c.listening.Unlock()
	c.listeners = append(c.listeners, f)
}

// Commit implements store.Control.
func (c *Control) Commit(ctx context.Context, decide func(*charter.Snapshot) ([]charter.Change, error)) (*charter.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	s := c.Snapshot()
	changes, err := decide(s)
	if err != nil {
		return nil, err
	}
	if len(changes) == 0 {
		return s, nil
	}
	if _, err := s.With(changes); err != nil {
		return nil, err
	}
	now := c.now().Round(0).UTC()
	stored := make([]charter.Change, len(changes))
	for i, ch := range changes {
		if ch.Record != nil {
			m := charter.NewMeta(s.Record(ch.Name), now)
			m.Revision = s.Epoch + 1
			ch.Record = charter.WithMeta(ch.Record, m)
		}
		stored[i] = ch
	}
	next, err := s.Replace(s.Epoch+1, stored)
	if err != nil {
		return nil, err
	}
	c.current.Store(next)
	c.listening.Lock()
	listeners := c.listeners
	c.listening.Unlock()
	for _, f := range listeners {
		f(next)
	}
	return next, nil
}
