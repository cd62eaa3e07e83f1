package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/store"
)

// requestTimeout bounds each request to etcd, and the wait for the watch to deliver what was written.
const requestTimeout = 10 * time.Second

// Control keeps the control records under `ctl/`. A transaction also rewrites `epoch` and compares its revision, so that
// changes come one after the other; a watch feeds the snapshot.
type Control struct {
	client *clientv3.Client
	log    *slog.Logger
	now    func() time.Time

	cancel  context.CancelFunc
	stopped chan struct{} // closed when the watch has ended
	synced  atomic.Int64  // see LastSync, in Unix nanoseconds

	current   atomic.Pointer[charter.Snapshot]
	mu        sync.Mutex
	changed   chan struct{} // closed at the next publication
	listeners []func(*charter.Snapshot)
}

var _ store.Control = (*Control)(nil)

// OpenControl reads the control records and follows them until Close. ctx bounds the reading. now stamps records.
// Errors: store.ErrUnavailable, wrapped; a record that this version cannot read.
func OpenControl(ctx context.Context, client *clientv3.Client, log *slog.Logger, now func() time.Time) (*Control, error) {
	c := &Control{client: client, log: log, now: now, stopped: make(chan struct{}), changed: make(chan struct{})}
	started := now()
	snapshot, revision, err := c.load(ctx)
	if err != nil {
		return nil, err
	}
	c.current.Store(snapshot)
	c.synced.Store(started.UnixNano())
	follow, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.follow(follow, revision)
	return c, nil
}

// Close ends the watch. The client stays open. Snapshot then gives the last one.
func (c *Control) Close() {
	c.cancel()
	<-c.stopped
}

// LastSync says when the snapshot was last known to be the latest. While etcd is in reach that is at most about a second
// ago.
func (c *Control) LastSync() time.Time { return time.Unix(0, c.synced.Load()) }

// Snapshot implements store.Control.
func (c *Control) Snapshot() *charter.Snapshot { return c.current.Load() }

// OnChange implements store.Control. f must not call Commit, which waits for the goroutine that f is called from.
func (c *Control) OnChange(f func(*charter.Snapshot)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, f)
}

// Commit implements store.Control. A refusal of decide or With counts only where it was told of the latest state: a
// replica that is behind catches up and asks again. Besides, it gives *TooLargeError for more than one transaction can
// hold.
func (c *Control) Commit(ctx context.Context, decide func(*charter.Snapshot) ([]charter.Change, error)) (*charter.Snapshot, error) {
	for {
		s := c.Snapshot()
		changes, refusal := decide(s)
		if refusal == nil && len(changes) > 0 {
			_, refusal = s.With(changes)
		}
		var epoch int64
		var committed bool
		var err error
		if refusal != nil || len(changes) == 0 {
			if epoch, err = c.epoch(ctx); err != nil && refusal != nil {
				return nil, refusal
			}
			if err == nil && epoch <= s.Epoch {
				return unless(refusal, s)
			}
		} else {
			epoch, committed, err = c.write(ctx, s, changes)
		}
		if err != nil {
			return nil, err
		}
		next, err := c.await(ctx, epoch)
		if err != nil || committed {
			return next, err
		}
	}
}

func unless(err error, s *charter.Snapshot) (*charter.Snapshot, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// epoch asks etcd for the epoch; 0 before the first transaction.
func (c *Control) epoch(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.client.Get(ctx, epochKey, clientv3.WithKeysOnly())
	if err != nil {
		return 0, unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return resp.Kvs[0].ModRevision, nil
}

// write makes changes if the epoch is still that of s, for which they were made. It gives the epoch that there is now.
func (c *Control) write(ctx context.Context, s *charter.Snapshot, changes []charter.Change) (int64, bool, error) {
	ops, err := transaction(s, changes, c.now().Round(0).UTC())
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(epochKey), "=", s.Epoch)).
		Then(ops...).
		Else(clientv3.OpGet(epochKey)).
		Commit()
	if err != nil {
		return 0, false, writeError(err, ops)
	}
	if resp.Succeeded {
		return resp.Header.Revision, true, nil
	}
	kvs := resp.Responses[0].GetResponseRange().GetKvs()
	if len(kvs) == 0 || kvs[0].ModRevision < s.Epoch {
		return 0, false, unavailable(errReset)
	}
	return kvs[0].ModRevision, false, nil
}

// await gives the first snapshot that is at least at an epoch.
func (c *Control) await(ctx context.Context, epoch int64) (*charter.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		c.mu.Lock()
		s, changed := c.current.Load(), c.changed
		c.mu.Unlock()
		if s.Epoch >= epoch {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: the watch does not deliver revision %d: %w", store.ErrUnavailable, epoch, ctx.Err())
		case <-c.stopped:
			return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, errClosed)
		}
	}
}

var errClosed = errors.New("the control store is closed")

// publish is called by the watch alone.
func (c *Control) publish(s *charter.Snapshot) {
	c.mu.Lock()
	c.current.Store(s)
	close(c.changed)
	c.changed = make(chan struct{})
	listeners := c.listeners
	c.mu.Unlock()
	for _, f := range listeners {
		f(s)
	}
}
