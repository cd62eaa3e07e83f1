// Package metering counts what the ledger has committed into the usage store: each batch of each journal once.
//
// A batch comes here twice, right after its commit, so that reports lag by seconds, and as it leaves etcd, so that none is
// lost in a crash. The store knows which batches it holds. Where it does not answer, batches stay in etcd, up to a bound;
// beyond, they leave for the archive alone and are counted from there later.
package metering

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
)

// Defaults and limits.
const (
	// FlushEvery is how long a settlement waits to be counted with others.
	FlushEvery = time.Second
	// KeepInEtcd is how many bytes of the own journal wait in etcd for a usage store that does not answer.
	KeepInEtcd = 256 << 20
	// HoursFor and DaysFor are how long sums are kept by the hour, and at all.
	HoursFor = 14 * 24 * time.Hour
	DaysFor  = 2 * 365 * 24 * time.Hour
	// DecisionsFor is how long decisions are kept.
	DecisionsFor = 30 * 24 * time.Hour
	// OutcomesFor is how long after a call its outcome is taken.
	OutcomesFor = 31 * 24 * time.Hour

	maxQueued   = 200_000 // entries; beyond, a batch is counted as it leaves etcd
	maxAtOnce   = 20_000  // entries in one transaction
	compactEach = 30 * time.Second
	pruneEach   = 6 * time.Hour
)

// Archive is where batches go that leave etcd, and come from when they were not counted in time.
type Archive interface {
	store.Outbox
	// Name tells it from others; empty while it holds nothing.
	Name() (string, error)
	// Segment is the number of the part that is being written.
	Segment() uint64
	// Batches gives what parts from one number on hold.
	Batches(from uint64) iter.Seq2[store.OutboxBatch, error]
}

// Config is what a Meter works with. Store, Control, Decode and Log are required.
type Config struct {
	Store   store.Usage
	Control store.Control
	Archive Archive // nil: batches leave etcd once they are counted
	// Decode reads the record of a batch.
	Decode func(store.OutboxBatch) (*ledger.Batch, error)
	// Backlog is how many bytes of the own journal are in etcd. nil: 0.
	Backlog func() int64
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
	// Kept is told of decisions that were kept. It must not wait. nil: nobody is.
	Kept func(list []usage.Decision)
	// SamplePPM is the share of decisions to keep beside refusals and downgrades.
	SamplePPM int64
	// How long to keep what. 0: the defaults.
	HoursFor, DaysFor, DecisionsFor time.Duration
}

// Meter implements preflight.Meter and store.Outbox.
type Meter struct {
	Config
	decisions decisions

	mu      sync.Mutex
	queue   []*ledger.Batch
	queued  int // entries in it
	refused map[refusal]int64
	stats   Stats
	wake    chan struct{}

	applying sync.Mutex // held by who writes to the store
	counted  map[store.BatchID]struct{}
	archived map[string]uint64 // by owner: the batch after the last that this process has archived
	behind   atomic.Bool       // the archive holds batches that are not counted
	position uint64            // up to which segment the archive is known to be counted; of Run alone
}

// Stats say how a Meter does.
type Stats struct {
	Batches, Entries   int64     // counted by this process
	Failures           int64     // writes that the store did not take
	Behind             bool      // the archive holds what is not counted
	Flushed            time.Time // the last write that was taken
	DecisionsKept      int64
	DecisionsDropped   int64 // for want of room
	QueuedEntries      int64
	LeftForCollection  int64 // entries that are counted only as they leave etcd, for want of room
	UnreadableBatches  int64
	UncountableEntries int64
}

// New makes a Meter. Call Run.
func New(c Config) *Meter {
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		to *time.Duration
		by time.Duration
	}{{&c.HoursFor, HoursFor}, {&c.DaysFor, DaysFor}, {&c.DecisionsFor, DecisionsFor}} {
		if *d.to == 0 {
			*d.to = d.by
		}
	}
	m := &Meter{
		Config: c, refused: map[refusal]int64{}, wake: make(chan struct{}, 1), counted: map[store.BatchID]struct{}{},
		archived: map[string]uint64{},
	}
	m.decisions.init()
	return m
}

// Committed implements preflight.Meter.
func (m *Meter) Committed(b *ledger.Batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.queued+len(b.Entries) > maxQueued {
		m.stats.LeftForCollection += int64(len(b.Entries))
		return
	}
	m.queue, m.queued = append(m.queue, b), m.queued+len(b.Entries)
	if m.queued >= maxAtOnce {
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// Left implements preflight.Meter.
func (m *Meter) Left(b store.OutboxBatch) {
	batch, err := m.Decode(b)
	if err != nil {
		m.Log.Error("a batch of a journal cannot be read and is not counted", "error", err)
		m.tell(func(s *Stats) { s.UnreadableBatches++ })
		return
	}
	m.Committed(batch)
}

// Run counts, about once a second, and tidies up the store, until ctx ends; then it counts what is left.
func (m *Meter) Run(ctx context.Context) {
	m.behind.Store(m.Archive != nil) // what a crash has left
	tick := time.NewTicker(FlushEvery)
	defer tick.Stop()
	tidy := make(chan struct{})
	go func() { m.tidy(ctx); close(tidy) }()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			<-tidy
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := m.Flush(last); err != nil {
				m.Log.Warn("the last settlements are counted at the next start", "error", err)
			}
			return
		case <-tick.C:
		case <-m.wake:
		}
		err := m.Flush(ctx)
		if err == nil {
			err = m.CatchUp(ctx)
		}
		if failed := err != nil && ctx.Err() == nil; failed != failing {
			if failing = failed; failed {
				m.Log.Warn("the usage store does not take settlements; they wait, and reports lag", "error", err)
			} else {
				m.Log.Info("the usage store takes settlements again")
			}
		}
	}
}

// Flush counts what is queued.
func (m *Meter) Flush(ctx context.Context) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	m.mu.Lock()
	queue, refused := m.queue, m.refused
	m.queue, m.queued, m.refused = nil, 0, map[refusal]int64{}
	m.mu.Unlock()
	left, err := m.apply(ctx, queue)
	if err == nil {
		err = m.countRefused(ctx, refused)
		refused = nil
	}
	if err == nil {
		err = m.keepDecisions(ctx)
	}
	if err == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Failures++
	for _, b := range left { // first what came first
		m.queued += len(b.Entries)
	}
	m.queue = append(left, m.queue...)
	for m.queued > maxQueued {
		n := len(m.queue[0].Entries)
		m.queue, m.queued, m.stats.LeftForCollection = m.queue[1:], m.queued-n, m.stats.LeftForCollection+int64(n)
	}
	for r, n := range refused {
		m.refused[r] += n
	}
	return err
}

// apply counts batches that are not counted yet, and gives those that are left after an error. Called with applying.
func (m *Meter) apply(ctx context.Context, batches []*ledger.Batch) (left []*ledger.Batch, err error) {
	for len(batches) > 0 {
		n, entries := 0, 0
		for n < len(batches) && (n == 0 || entries+len(batches[n].Entries) <= maxAtOnce) {
			entries += len(batches[n].Entries)
			n++
		}
		if err := m.applySome(ctx, batches[:n]); err != nil {
			return batches, err
		}
		batches = batches[n:]
	}
	return nil, nil
}

func (m *Meter) applySome(ctx context.Context, batches []*ledger.Batch) error {
	for conflicted := false; ; conflicted = true {
		fresh := make([]*ledger.Batch, 0, len(batches))
		ids := make([]store.BatchID, 0, len(batches))
		chosen := map[store.BatchID]bool{}
		for _, b := range batches {
			id := store.BatchID{Owner: b.Owner, N: b.N}
			if _, known := m.counted[id]; !known && !chosen[id] {
				chosen[id] = true
				fresh, ids = append(fresh, b), append(ids, id)
			}
		}
		if len(ids) == 0 {
			return nil
		}
		if conflicted {
			known, err := m.Store.Applied(ctx, ids)
			if err != nil {
				return err
			}
			m.note(known)
			if len(known) > 0 {
				continue
			}
		}
		rollups, entries := m.rollups(fresh)
		err := m.Store.Apply(ctx, ids, rollups)
		switch {
		case errors.Is(err, store.ErrConflict):
			continue
		case errors.Is(err, usage.ErrOverflow) && len(fresh) > 1: // the batch that does not fit must not keep the others out
			for _, b := range fresh {
				if err := m.applySome(ctx, []*ledger.Batch{b}); err != nil {
					return err
				}
			}
			return nil
		case errors.Is(err, usage.ErrOverflow):
			m.Log.Error("a batch cannot be counted: a sum of its hour would not fit 64 bits", "owner", ids[0].Owner, "batch", ids[0].N)
			m.tell(func(s *Stats) { s.UncountableEntries += int64(entries) })
		case err != nil:
			return err
		}
		for _, id := range ids {
			m.counted[id] = struct{}{}
		}
		m.tell(func(s *Stats) {
			s.Batches, s.Entries, s.Flushed = s.Batches+int64(len(ids)), s.Entries+int64(entries), m.Now()
		})
		return nil
	}
}

// maxCounted bounds what is remembered of the store.
const maxCounted = 1 << 20

func (m *Meter) note(known map[store.BatchID]bool) {
	if len(m.counted) > maxCounted {
		clear(m.counted)
	}
	for id := range known {
		m.counted[id] = struct{}{}
	}
}

// tidy compacts and prunes the store, on one server at a time.
func (m *Meter) tidy(ctx context.Context) {
	tick := time.NewTicker(compactEach)
	defer tick.Stop()
	var pruned time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := m.Now()
		leads, err := m.Store.Lead(ctx, now, compactEach*9/10)
		if err == nil && leads {
			err = m.Store.Compact(ctx, day(now.Add(-m.HoursFor)))
			if err == nil && now.Sub(pruned) >= pruneEach {
				pruned = now
				err = m.Store.Prune(ctx, store.Prune{Days: now.Add(-m.DaysFor), Decisions: now.Add(-m.DecisionsFor), Outcomes: now.Add(-OutcomesFor)})
			}
		}
		if err != nil && ctx.Err() == nil {
			m.Log.Warn("the usage store is not tidied up; trying again", "error", err)
		}
	}
}

func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

func (m *Meter) tell(change func(*Stats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.stats)
}

// Stats says how the meter does. It does not wait for the store.
func (m *Meter) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Behind, s.QueuedEntries = m.behind.Load(), int64(m.queued)
	s.DecisionsKept, s.DecisionsDropped = m.decisions.kept.Load(), m.decisions.dropped.Load()
	return s
}
