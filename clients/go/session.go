package chartergate

import (
	"cmp"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxBatch    = 128  // operations in one message
	maxInFlight = 4096 // unanswered operations; the server refuses more
)

// Session makes calls pipelined on one stream: about twice the throughput of unary calls when many goroutines
// share it. Each call blocks until its own answer is there. When the stream breaks, a new one is opened and the calls
// without an answer are sent again under their request ids. Safe for concurrent use. A request must not be changed
// while its call is on its way, nor after its context ended.
type Session struct {
	client *Client
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // there may be something to send
	done   chan struct{} // the session has ended

	mu      sync.Mutex
	nextID  uint64
	pending []*operation // not sent yet, in order
	flight  map[uint64]*operation
	ended   error // set once; no calls from then on
	broken  error // why there is no stream now
}

// operation is one call on its way. It is in Session.pending, in Session.flight, or answered: whoever takes it out
// answers it, once.
type operation struct {
	message   *chartergatev1.SessionOperation
	answer    chan answer // room for one
	timer     *time.Timer
	abandoned bool // its caller has gone; guarded by Session.mu
}

type answer struct {
	result *chartergatev1.SessionResult
	err    error
}

var operations = sync.Pool{New: func() any {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &operation{answer: make(chan answer, 1), timer: t}
}}

// Session opens a stream that lasts until ctx ends or Close. It tries for 30 s, or until ctx ends, while the server is
// not available.
func (c *Client) Session(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{
		client: c, ctx: ctx, cancel: cancel,
		wake: make(chan struct{}, 1), done: make(chan struct{}), flight: map[uint64]*operation{},
	}
	end := time.Now().Add(defaultTimeout)
	for tries := 0; ; tries++ {
		stream, stop, err := s.open()
		if err == nil {
			go s.run(stream, stop)
			return s, nil
		}
		if wait := delay(tries); !again(err) || time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			cancel()
			return nil, err
		}
	}
}

// Close ends the session and waits until it has ended. Calls without an answer fail with CANCELED; repeat them with
// their request_id to learn what became of them.
func (s *Session) Close() error {
	s.cancel()
	<-s.done
	return nil
}

// Check is Client.Check on the stream.
func (s *Session) Check(ctx context.Context, r *chartergatev1.CheckRequest) (*chartergatev1.CheckResponse, error) {
	res, err := s.do(ctx, &chartergatev1.SessionOperation{Operation: &chartergatev1.SessionOperation_Check{Check: r}})
	return res.GetCheck(), err
}

// Reserve is Client.Reserve on the stream.
func (s *Session) Reserve(ctx context.Context, r *chartergatev1.ReserveRequest) (*chartergatev1.ReserveResponse, error) {
	res, err := s.do(ctx, &chartergatev1.SessionOperation{Operation: &chartergatev1.SessionOperation_Reserve{Reserve: identifiedReserve(r)}})
	return res.GetReserve(), err
}

// Settle is Client.Settle on the stream.
func (s *Session) Settle(ctx context.Context, r *chartergatev1.SettleRequest) (*chartergatev1.SettleResponse, error) {
	res, err := s.do(ctx, &chartergatev1.SessionOperation{Operation: &chartergatev1.SessionOperation_Settle{Settle: identifiedSettle(r)}})
	return res.GetSettle(), err
}

// Release is Client.Release on the stream.
func (s *Session) Release(ctx context.Context, r *chartergatev1.ReleaseRequest) (*chartergatev1.ReleaseResponse, error) {
	res, err := s.do(ctx, &chartergatev1.SessionOperation{Operation: &chartergatev1.SessionOperation_Release{Release: identifiedRelease(r)}})
	return res.GetRelease(), err
}

// Extend is Client.Extend on the stream.
func (s *Session) Extend(ctx context.Context, r *chartergatev1.ExtendRequest) (*chartergatev1.ExtendResponse, error) {
	res, err := s.do(ctx, &chartergatev1.SessionOperation{Operation: &chartergatev1.SessionOperation_Extend{Extend: identifiedExtend(r)}})
	return res.GetExtend(), err
}

// do sends an operation until it has an answer that lasts or no time left.
func (s *Session) do(ctx context.Context, m *chartergatev1.SessionOperation) (*chartergatev1.SessionResult, error) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(defaultTimeout)
	}
	for tries := 0; ; tries++ {
		a := s.once(ctx, m, time.Until(end))
		if a.err == nil || s.ctx.Err() != nil || !again(a.err) {
			return a.result, a.err
		}
		wait := delay(tries)
		if time.Now().Add(wait).After(end) || !sleep(ctx, wait) {
			return a.result, a.err
		}
	}
}

func (s *Session) once(ctx context.Context, m *chartergatev1.SessionOperation, patience time.Duration) answer {
	o := operations.Get().(*operation)
	o.message, o.abandoned = m, false
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return answer{err: s.ended}
	}
	s.nextID++
	m.Id = s.nextID
	s.pending = append(s.pending, o)
	s.mu.Unlock()
	s.poke()

	o.timer.Reset(patience)
	defer o.timer.Stop()
	select {
	case a := <-o.answer:
		o.message = nil
		operations.Put(o)
		return a
	case <-ctx.Done():
		return s.abandon(o, status.FromContextError(ctx.Err()).Err())
	case <-o.timer.C:
		return s.abandon(o, status.FromContextError(context.DeadlineExceeded).Err())
	}
}

// abandon takes back an operation that nobody waits for any more. An answer that is on its way already counts.
func (s *Session) abandon(o *operation, err error) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case a := <-o.answer:
		return a
	default:
	}
	o.abandoned = true
	delete(s.flight, o.message.GetId())
	if s.broken != nil {
		err = s.broken
	}
	return answer{err: err}
}

// poke wakes the writer.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

type stream = interface {
	Send(*chartergatev1.SessionRequest) error
	Recv() (*chartergatev1.SessionResponse, error)
}

func (s *Session) open() (stream, context.CancelFunc, error) {
	ctx, stop := context.WithCancel(s.ctx)
	st, err := s.client.Preflight.Session(ctx)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return st, stop, nil
}

// run keeps a stream open until the session ends.
func (s *Session) run(st stream, stop context.CancelFunc) {
	defer close(s.done)
	defer s.cancel()
	tries := 0
	for {
		received, err := s.serve(st, stop)
		if received {
			tries = 0
		}
		s.lost(err)
		for {
			if !sleep(s.ctx, delay(tries)) {
				s.end()
				return
			}
			tries++
			if st, stop, err = s.open(); err == nil {
				break
			}
			if status.Code(err) == codes.Canceled { // the client is closed
				s.end()
				return
			}
			s.lost(err)
		}
		s.mu.Lock()
		s.broken = nil
		s.mu.Unlock()
	}
}

// serve writes and reads one stream until it breaks, and says why and whether it carried an answer.
func (s *Session) serve(st stream, stop context.CancelFunc) (received bool, err error) {
	defer stop()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var found []*operation
		for {
			var r *chartergatev1.SessionResponse
			if r, err = st.Recv(); err != nil {
				return
			}
			received = true
			found = s.deliver(r.GetResults(), found)
		}
	}()
	for {
		batch := s.take(gone)
		if batch == nil {
			<-gone
			return received, err
		}
		if sendErr := st.Send(&chartergatev1.SessionRequest{Operations: batch}); sendErr != nil {
			stop()
			<-gone
			if !errors.Is(sendErr, io.EOF) && s.refuseUnsendable(batch) {
				err = status.Error(codes.Unavailable, "a request could not be encoded")
			}
			return received, err // with EOF the reader knows why
		}
	}
}

// take waits for operations to send and moves them into flight. Nil when the stream has gone.
func (s *Session) take(gone <-chan struct{}) []*chartergatev1.SessionOperation {
	for {
		select {
		case <-s.wake:
		case <-gone:
			return nil
		}
		s.mu.Lock()
		for seen := 0; len(s.pending) > seen && len(s.pending) < maxBatch; {
			seen = len(s.pending)
			s.mu.Unlock()
			runtime.Gosched() // lets callers that are ready join the message
			s.mu.Lock()
		}
		n := min(len(s.pending), maxBatch, maxInFlight-len(s.flight))
		batch := make([]*chartergatev1.SessionOperation, 0, max(n, 0))
		taken := 0
		for _, o := range s.pending {
			if len(batch) == n {
				break
			}
			taken++
			if o.abandoned {
				continue
			}
			s.flight[o.message.GetId()] = o
			batch = append(batch, o.message)
		}
		s.pending = slices.Delete(s.pending, 0, taken)
		if len(s.pending) > 0 && len(s.flight) < maxInFlight {
			s.poke()
		}
		s.mu.Unlock()
		if len(batch) > 0 {
			return batch
		}
	}
}

// deliver answers the operations of results. It returns its scratch space.
func (s *Session) deliver(results []*chartergatev1.SessionResult, found []*operation) []*operation {
	found = found[:0]
	s.mu.Lock()
	for _, r := range results {
		found = append(found, s.flight[r.GetId()])
		delete(s.flight, r.GetId())
	}
	waiting := len(s.pending) > 0
	s.mu.Unlock()
	if waiting {
		s.poke()
	}
	for i, o := range found {
		switch e := results[i].GetError(); {
		case o == nil: // abandoned
		case e != nil:
			o.answer <- answer{err: sessionError(e)}
		default:
			o.answer <- answer{result: results[i]}
		}
	}
	clear(found)
	return found
}

// refuseUnsendable answers the operations that cannot be encoded, so that the others can be sent again without them.
// False when there are none.
func (s *Session) refuseUnsendable(batch []*chartergatev1.SessionOperation) (refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range batch {
		if _, err := proto.Marshal(m); err != nil {
			refused = true
			if o := s.flight[m.GetId()]; o != nil {
				delete(s.flight, m.GetId())
				o.answer <- answer{err: status.Errorf(codes.InvalidArgument, "the request cannot be encoded: %v", err)}
			}
		}
	}
	return refused
}

// lost takes note that a stream broke. Operations in flight go back to the queue when it broke as streams do, and are
// answered with the error when the next stream would give the same.
func (s *Session) lost(err error) {
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the server closed the session")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled:
		back := make([]*operation, 0, len(s.flight)+len(s.pending))
		for _, o := range s.flight {
			back = append(back, o)
		}
		slices.SortFunc(back, func(a, b *operation) int { return cmp.Compare(a.message.GetId(), b.message.GetId()) })
		s.pending = append(back, s.pending...)
		clear(s.flight)
		s.poke()
	default:
		s.failAll(err)
	}
}

// end fails every call, now and from now on.
func (s *Session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = status.Error(codes.Canceled, "the session is closed")
	s.failAll(s.ended)
}

func (s *Session) failAll(err error) {
	for _, o := range s.flight {
		o.answer <- answer{err: err}
	}
	clear(s.flight)
	for _, o := range s.pending {
		if !o.abandoned {
			o.answer <- answer{err: err}
		}
	}
	s.pending = nil
}
