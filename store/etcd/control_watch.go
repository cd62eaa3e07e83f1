package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/charter"
)

const (
	pageSize = 1000
	// Where the watch breaks it is tried again after minBackoff, then twice that, up to maxBackoff.
	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second
	// checkInterval is how often the epoch is compared with etcd's, and patience how long it may be behind before the
	// watch is given up.
	checkInterval = time.Second
	patience      = 5 * time.Second
	// watchEnd makes one watch of the records and the epoch, so that a transaction comes as one. `dead/` lies between
	// them and is passed over.
	watchEnd = epochKey + "\x00"
)

// load reads all records at one revision, which it gives too.
func (c *Control) load(ctx context.Context) (*charter.Snapshot, int64, error) {
	for {
		s, revision, err := c.loadOnce(ctx)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return s, revision, err
		}
	}
}

func (c *Control) loadOnce(ctx context.Context) (*charter.Snapshot, int64, error) {
	get := func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		resp, err := c.client.Get(ctx, key, opts...)
		if err != nil {
			return nil, unavailable(err)
		}
		return resp, nil
	}
	first, err := get(epochKey)
	if err != nil {
		return nil, 0, err
	}
	revision, epoch := first.Header.Revision, int64(0)
	if len(first.Kvs) > 0 {
		epoch = first.Kvs[0].ModRevision
	}
	var changes []charter.Change
	end := clientv3.GetPrefixRangeEnd(controlPrefix)
	for from := controlPrefix; ; {
		page, err := get(from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
		if err != nil {
			return nil, 0, err
		}
		for _, kv := range page.Kvs {
			ch, err := change(kv)
			if err != nil {
				return nil, 0, err
			}
			changes = append(changes, ch)
		}
		if !page.More {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	s, err := new(charter.Snapshot).Replace(epoch, changes)
	if err != nil {
		return nil, 0, fmt.Errorf("the control records do not fit together: %w", err)
	}
	return s, revision, nil
}

// follow watches from after a revision until ctx ends, over broken watches and compactions.
func (c *Control) follow(ctx context.Context, revision int64) {
	defer close(c.stopped)
	backoff := minBackoff
	for {
		last, err := c.watch(ctx, revision)
		if ctx.Err() != nil {
			return
		}
		if last > revision {
			revision, backoff = last, minBackoff
		}
		if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, errReset) {
			s, at, loadErr := c.load(ctx)
			if loadErr == nil {
				c.log.Info("control records listed again", "reason", err.Error(), "revision", at)
				c.publish(s)
				revision, backoff = at, minBackoff
				continue
			}
			err = loadErr
		}
		c.log.Warn("the watch of the control records broke", "error", err, "retry_in", backoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

var errReset = errors.New("the control records were deleted in etcd, or restored to an earlier state")

// watch publishes what comes after a revision until the watch breaks. It gives the last revision that it has seen.
func (c *Control) watch(ctx context.Context, revision int64) (int64, error) {
	ctx, cancel := context.WithCancelCause(clientv3.WithRequireLeader(ctx))
	defer cancel(nil)
	events := c.client.Watch(ctx, controlPrefix, clientv3.WithRange(watchEnd), clientv3.WithRev(revision+1),
		clientv3.WithProgressNotify(), clientv3.WithFragment())
	go c.check(ctx, cancel)
	for resp := range events {
		if err := resp.Err(); err != nil {
			return revision, err
		}
		// A response holds whole revisions: the client puts fragments together again.
		for i := 0; i < len(resp.Events); {
			j := i + 1
			for j < len(resp.Events) && resp.Events[j].Kv.ModRevision == resp.Events[i].Kv.ModRevision {
				j++
			}
			if err := c.apply(resp.Events[i:j]); err != nil {
				return revision, err
			}
			revision = resp.Events[i].Kv.ModRevision
			i = j
		}
		// Only then has the watch delivered all that there is up to the revision of the response.
		if resp.IsProgressNotify() {
			revision = max(revision, resp.Header.Revision)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return revision, err
	}
	return revision, errors.New("the watch was closed")
}

// check compares the snapshot with etcd's epoch now and then, and ends a watch that does not deliver.
func (c *Control) check(ctx context.Context, giveUp context.CancelCauseFunc) {
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for behindSince := (time.Time{}); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asked, before := c.now(), c.Snapshot().Epoch
		epoch, err := c.epoch(ctx)
		switch {
		case err != nil:
		case epoch < before:
			giveUp(errReset)
		case c.Snapshot().Epoch >= epoch:
			c.synced.Store(asked.UnixNano())
			behindSince = time.Time{}
		case behindSince.IsZero():
			behindSince = asked
		case asked.Sub(behindSince) > patience:
			giveUp(fmt.Errorf("nothing of epoch %d came within %s", epoch, patience))
		}
	}
}

// apply publishes the events of one revision. What cannot be read stays as it was.
func (c *Control) apply(events []*clientv3.Event) error {
	s := c.Snapshot()
	epoch := s.Epoch
	var changes []charter.Change
	for _, e := range events {
		key := string(e.Kv.Key)
		switch {
		case key == epochKey && e.Type == clientv3.EventTypeDelete:
			return errReset
		case key == epochKey:
			epoch = e.Kv.ModRevision
		case !strings.HasPrefix(key, controlPrefix):
		case e.Type == clientv3.EventTypeDelete:
			changes = append(changes, charter.Change{Name: strings.TrimPrefix(key, controlPrefix)})
		default:
			ch, err := change(e.Kv)
			if err != nil {
				c.log.Error("a control record is left as it was", "error", err)
				continue
			}
			changes = append(changes, ch)
		}
	}
	if len(changes) == 0 && epoch == s.Epoch {
		return nil
	}
	next, err := s.Replace(epoch, changes)
	if err != nil {
		c.log.Error("a control change is passed over", "error", err)
		if next, err = s.Replace(epoch, nil); err != nil {
			return err
		}
	}
	c.publish(next)
	return nil
}
