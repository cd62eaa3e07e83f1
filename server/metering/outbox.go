package metering

import (
	"context"
	"errors"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/store"
)

// Put implements store.Outbox: batches are archived, and counted. While the store does not answer they stay in etcd, until
// KeepInEtcd; then they go to the archive alone.
func (m *Meter) Put(ctx context.Context, list []store.OutboxBatch) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	if err := m.archive(ctx, list); err != nil {
		return err
	}
	batches, err := m.decode(list)
	if err != nil {
		return err
	}
	if err := m.applyKnown(ctx, batches); err != nil {
		if !errors.Is(err, store.ErrUnavailable) || m.Archive == nil || m.Backlog == nil || m.Backlog() <= KeepInEtcd {
			return err
		}
		if !m.behind.Swap(true) {
			m.Log.Warn("the usage store does not answer and etcd holds as much as may wait: settlements go to the archive and are counted later")
		}
		return nil
	}
	for _, b := range list { // it does not come again, or rarely
		delete(m.counted, store.BatchID{Owner: b.Owner, N: b.N})
	}
	return nil
}

// archive puts what this process has not archived before: a batch comes again after an error.
func (m *Meter) archive(ctx context.Context, list []store.OutboxBatch) error {
	if m.Archive == nil {
		return nil
	}
	var fresh []store.OutboxBatch
	for _, b := range list {
		if b.N >= m.archived[b.Owner] {
			fresh = append(fresh, b)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	if err := m.Archive.Put(ctx, fresh); err != nil {
		return err
	}
	for _, b := range fresh {
		m.archived[b.Owner] = max(m.archived[b.Owner], b.N+1)
	}
	return nil
}

func (m *Meter) decode(list []store.OutboxBatch) ([]*ledger.Batch, error) {
	batches := make([]*ledger.Batch, 0, len(list))
	for _, b := range list {
		if _, known := m.counted[store.BatchID{Owner: b.Owner, N: b.N}]; known {
			continue
		}
		batch, err := m.Decode(b)
		if err != nil {
			return nil, err
		}
		batches = append(batches, batch)
	}
	return batches, nil
}

// applyKnown counts batches of which some may be counted already.
func (m *Meter) applyKnown(ctx context.Context, batches []*ledger.Batch) error {
	if len(batches) == 0 {
		return nil
	}
	ids := make([]store.BatchID, len(batches))
	for i, b := range batches {
		ids[i] = store.BatchID{Owner: b.Owner, N: b.N}
	}
	known, err := m.Store.Applied(ctx, ids)
	if err != nil {
		return err
	}
	m.note(known)
	_, err = m.apply(ctx, batches)
	return err
}

// scanAtOnce is how many batches of the archive are looked up as one.
const scanAtOnce = 500

// CatchUp counts what the archive holds and the store does not, where something may be missing: after a start, and after
// the store did not answer for long. Where nothing is, it only keeps how far the archive is counted.
func (m *Meter) CatchUp(ctx context.Context) error {
	if m.Archive == nil {
		return nil
	}
	m.applying.Lock() // what was archived is counted, or behind says so
	at, behind := m.Archive.Segment(), m.behind.Swap(false)
	m.applying.Unlock()
	if !behind && at == m.position {
		return nil
	}
	if err := m.catchUp(ctx, behind, at); err != nil {
		m.behind.Store(m.behind.Load() || behind)
		return err
	}
	m.position = at
	return nil
}

func (m *Meter) catchUp(ctx context.Context, behind bool, at uint64) error {
	name, err := m.Archive.Name()
	if err != nil || name == "" {
		return err
	}
	name = "archive/" + name
	if behind {
		from, err := m.Store.Position(ctx, name)
		if err != nil {
			return err
		}
		if err := m.scan(ctx, from); err != nil {
			return err
		}
	}
	return m.Store.SetPosition(ctx, name, at)
}

// scan counts what is missing of the archive from one segment on.
func (m *Meter) scan(ctx context.Context, from uint64) error {
	var part []store.OutboxBatch
	counted := int64(0)
	flush := func() error {
		m.applying.Lock()
		defer m.applying.Unlock()
		ids := make([]store.BatchID, len(part))
		for i, b := range part {
			ids[i] = store.BatchID{Owner: b.Owner, N: b.N}
		}
		known, err := m.Store.Applied(ctx, ids)
		if err != nil {
			return err
		}
		var batches []*ledger.Batch
		for i, b := range part {
			if known[ids[i]] {
				continue
			}
			batch, err := m.Decode(b)
			if err != nil {
				m.tell(func(s *Stats) { s.UnreadableBatches++ })
				m.Log.Error("a batch of the archive cannot be read and is not counted", "error", err)
				continue
			}
			batches = append(batches, batch)
		}
		counted += int64(len(batches))
		part = part[:0]
		_, err = m.apply(ctx, batches)
		return err
	}
	for b, err := range m.Archive.Batches(from) {
		if err != nil {
			return err
		}
		if part = append(part, b); len(part) >= scanAtOnce {
			if err := flush(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if counted > 0 {
		m.Log.Info("settlements were counted from the archive", "batches", counted)
	}
	return nil
}
