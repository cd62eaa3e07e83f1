package chartergate

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// How often a client looks after its slices.
const (
	keepEvery   = 100 * time.Millisecond // ages and expiries; what is urgent does not wait for it
	reportEvery = time.Second
	closeWithin = 10 * time.Second // in which Close settles what is left
	// The server's limits.
	maxWishes  = 64
	maxReports = 1024
)

// leases looks after the leases of a client: one stream, and two goroutines once there is a lease.
type leases struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	kick   chan struct{}
	prefix string // of the tokens of its holds
	index  atomic.Pointer[map[leaseKey][]*Lease]

	settling sync.WaitGroup
	pending  atomic.Int64 // slices that are being settled
	reported time.Time    // last; keep's own

	mu     sync.Mutex
	begun  bool
	closed bool
	idle   chan struct{} // closed when, after close, nothing is left to settle
	all    []*Lease      // with those that are closed and still drain
	wishes map[uint64]*wish
	lastID uint64
	stream *leaseStream // nil: none
	lost   error        // slices that could not be settled

	known  sync.RWMutex
	slices map[uint64]*slice
}

// leaseKey is what most calls differ by.
type leaseKey struct{ feature, user, cohort, agent, run, pattern, task string }

func keyOf(c *chartergatev1.Call) leaseKey {
	return leaseKey{c.GetFeature(), c.GetUser(), c.GetCohort(), c.GetAgent(), c.GetRun(), c.GetPromptPattern(), c.GetTask()}
}

type leaseStream struct {
	chartergatev1.LeaseService_LeaseClient
	returning  bool // the server wants its slices back; guarded by leases.mu
	halfClosed bool // guarded by leases.mu
}

func newLeases(c *Client) *leases {
	m := &leases{
		client: c, kick: make(chan struct{}, 1), prefix: "lease." + rand.Text()[:10] + ".", wishes: map[uint64]*wish{}, slices: map[uint64]*slice{},
		idle: make(chan struct{}),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.index.Store(&map[leaseKey][]*Lease{})
	return m
}

// find gives the leases of calls like one.
func (m *leases) find(c *chartergatev1.Call) *Lease {
	byKey := *m.index.Load()
	if len(byKey) == 0 {
		return nil
	}
	for _, l := range byKey[keyOf(c)] {
		if l.like(c) {
			return l
		}
	}
	return nil
}

func (m *leases) add(l *Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return status.Error(codes.Canceled, "the client is closed")
	}
	m.all = append(m.all, l)
	m.reindex()
	if !m.begun {
		m.begun = true
		go m.keep()
		go m.connect()
	}
	return nil
}

// reindex is called with the lock.
func (m *leases) reindex() {
	byKey := map[leaseKey][]*Lease{}
	for _, l := range m.all {
		if !l.isClosed() {
			k := keyOf(l.call)
			byKey[k] = append(byKey[k], l)
		}
	}
	m.index.Store(&byKey)
}

func (m *leases) remove(l *Lease) {
	l.returnAll(true)
	m.mu.Lock()
	m.reindex()
	m.mu.Unlock()
	m.poke()
}

func (m *leases) poke() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// keep asks, reports and settles until the client is closed.
func (m *leases) keep() {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		case <-m.kick:
		}
		now := time.Now()
		m.settleDone(now)
		m.send(m.message(now))
	}
}

// settleDone settles the slices that are over; once the client is closed all are.
func (m *leases) settleDone(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	if m.closed {
		now = now.Add(24 * time.Hour)
	}
	m.all = slices.DeleteFunc(m.all, func(l *Lease) bool {
		if m.closed && m.stream == nil {
			l.giveUpWish()
		}
		done, over := l.keep(now)
		for _, s := range done {
			m.settle(s)
		}
		return over
	})
	settled := m.pending.Load() == 0
	if st := m.stream; st != nil && st.returning && !st.halfClosed && settled {
		st.halfClosed = true
		_ = st.CloseSend() // the reader learns of a broken stream
	}
	if m.closed && len(m.all) == 0 && settled {
		close(m.idle)
		m.cancel()
	}
}

// message gathers what is to be sent, if there is a stream.
func (m *leases) message(now time.Time) (*leaseStream, *chartergatev1.LeaseRequest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.stream
	if st == nil || st.returning {
		return nil, nil
	}
	r := &chartergatev1.LeaseRequest{}
	for _, l := range m.all {
		if w := l.wish(now); w != nil {
			m.lastID++
			w.request = l.ask(m.lastID, rand.Text())
			m.wishes[m.lastID] = w
		}
	}
	unanswered := 0
	for _, w := range m.wishes {
		if w.on == st {
			unanswered++
		}
	}
	for _, w := range m.wishes {
		if w.on != st && unanswered < maxWishes {
			unanswered++
			w.on = st
			if w.sent.IsZero() {
				w.sent = time.Now()
			}
			r.Slices = append(r.Slices, w.request)
		}
	}
	if now.Sub(m.reported) >= reportEvery {
		m.reported = now
		for _, s := range m.everySlice() {
			if report := s.report(); report != nil && len(r.Reports) < maxReports {
				r.Reports = append(r.Reports, report)
			}
		}
	}
	if len(r.Slices)+len(r.Reports) == 0 {
		return nil, nil
	}
	return st, r
}

func (m *leases) everySlice() []*slice {
	m.known.RLock()
	defer m.known.RUnlock()
	all := make([]*slice, 0, len(m.slices))
	for _, s := range m.slices {
		all = append(all, s)
	}
	return all
}

func (m *leases) send(st *leaseStream, r *chartergatev1.LeaseRequest) {
	if st != nil {
		_ = st.Send(r) // the reader learns why it failed; wishes are sent again on the next stream
	}
}

// connect keeps a stream open until the client is closed.
func (m *leases) connect() {
	ctx := m.client.conn.tries(m.ctx) // the same replica may have the answer to an open wish
	for tries := 0; ; tries++ {
		if st, err := m.client.Leasing.Lease(ctx); err == nil {
			on := &leaseStream{LeaseService_LeaseClient: st}
			if m.receive(on) {
				tries = 0
			}
			if on.returning {
				ctx = m.client.conn.tries(m.ctx)
			}
		}
		if !sleep(m.ctx, delay(tries)) {
			return
		}
	}
}

// receive reads one stream until it breaks, and says whether it carried an answer.
func (m *leases) receive(st *leaseStream) (answered bool) {
	m.mu.Lock()
	m.stream = st
	m.mu.Unlock()
	for _, s := range m.everySlice() {
		s.forget() // this server may know nothing yet
	}
	m.poke()
	defer func() {
		m.mu.Lock()
		m.stream = nil
		m.mu.Unlock()
	}()
	for {
		r, err := st.Recv()
		if err != nil {
			return answered
		}
		for _, a := range r.GetSlices() {
			answered = true
			m.answered(a)
		}
		m.mu.Lock()
		if st.returning = st.returning || r.GetReturnSlices(); st.returning {
			answered = false // do not hurry back
			for _, l := range m.all {
				l.returnAll(false)
			}
			m.poke()
		}
		m.mu.Unlock()
	}
}

func (m *leases) answered(a *chartergatev1.SliceAnswer) {
	m.mu.Lock()
	w := m.wishes[a.GetId()]
	delete(m.wishes, a.GetId())
	m.mu.Unlock()
	if w == nil {
		return
	}
	if s := w.lease.answered(w, a); s != nil {
		m.known.Lock()
		m.slices[s.id] = s
		m.known.Unlock()
	}
}

// slice finds a slice that is remembered.
func (m *leases) slice(id uint64) *slice {
	m.known.RLock()
	defer m.known.RUnlock()
	return m.slices[id]
}

func (m *leases) forget(s *slice) {
	m.known.Lock()
	defer m.known.Unlock()
	delete(m.slices, s.id)
}

// settle ends a slice with the server, however long that takes. Called with the lock.
func (m *leases) settle(s *slice) {
	token, use := s.close()
	m.pending.Add(1)
	m.settling.Go(func() {
		defer m.poke()
		defer m.pending.Add(-1)
		for {
			_, err := retry(m.ctx, m.client, &chartergatev1.SettleSliceRequest{Slice: token, Use: use}, m.client.Leasing.SettleSlice)
			if m.ctx.Err() == nil && (again(err) || status.Code(err) == codes.DeadlineExceeded) {
				continue
			}
			if chargedUnused := use.Calls == 0 && Reason(err) == "HOLD_SETTLED"; err != nil && !chargedUnused {
				m.mu.Lock()
				m.lost = errors.Join(m.lost, err)
				m.mu.Unlock()
			}
			if old := s.lease.remember(s); old != nil {
				m.forget(old)
			}
			return
		}
	})
}

// close settles everything: calls in flight expire.
func (m *leases) close() error {
	m.mu.Lock()
	m.closed = true
	begun := m.begun
	for _, l := range m.all {
		l.returnAll(true)
	}
	m.reindex()
	m.mu.Unlock()
	if begun {
		m.poke()
		late := time.NewTimer(closeWithin)
		defer late.Stop()
		select {
		case <-m.idle:
		case <-m.ctx.Done():
		case <-late.C:
		}
	}
	m.cancel()
	m.settling.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lost
}
