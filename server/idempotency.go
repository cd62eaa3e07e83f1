package server

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/proto/codec"
)

// Limits of Idempotency.
const (
	answersKeptFor       = time.Minute
	answersPerGeneration = 131_072
	idempotencyShards    = 64
)

// Requester is a request that carries an id which makes a retry safe.
type Requester interface {
	proto.Message
	GetRequestId() string
}

// Idempotency remembers the answers to requests by method and request id. An answer is kept in memory for one to two
// minutes, in two generations of at most 131,072 each; more ids than that in a minute push the oldest out early.
type Idempotency struct {
	now    func() time.Time
	seed   maphash.Seed
	shards [idempotencyShards]answers
}

// answer is what is known of a method and request id: the hash of the body, and the reply once there is one. The reply
// is kept as it is sent: hundreds of thousands of messages would be work for each garbage collection.
type answer struct {
	body  uint64
	reply codec.Encoded // nil while it is being made
	over  chan struct{} // made by the first who waits, closed when the call is over
}

// generation is by the hash of method and request id. Among the ids that are kept two never meet in practice: 64 bits,
// keyed by a secret of the process.
type generation map[uint64]*answer

type answers struct {
	mu        sync.Mutex
	rotated   time.Time
	running   int
	cur, prev generation
	_         [64]byte // shards do not share a cache line
}

// NewIdempotency makes an empty memory. now gives the time.
func NewIdempotency(now func() time.Time) *Idempotency {
	c := &Idempotency{now: now, seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].rotated = now()
		c.shards[i].cur, c.shards[i].prev = make(generation), make(generation)
	}
	return c
}

// Do calls call once for all requests of a method with one id and body, and gives each the first answer, encoded, also
// those that come while it is being made. Only answers are kept: after an error the next request calls again. method is the
// full gRPC name, so that a retry through a session finds the answer of a unary call. An empty id just calls; so does
// validate_only. Errors: call's; REQUEST_ID_CONFLICT for another body; ctx's while waiting.
func (c *Idempotency) Do(ctx context.Context, method string, req Requester, call func() (proto.Message, error)) (codec.Encoded, error) {
	id := req.GetRequestId()
	if id == "" || validateOnly(req) {
		return encoded(call())
	}
	body, err := c.hash(req)
	if err != nil {
		return nil, err
	}
	key := maphash.Comparable(c.seed, [2]string{method, id})
	shard := &c.shards[key%idempotencyShards]
	for {
		found, mine := shard.claim(key, body, c.now())
		switch {
		case mine != nil:
			return shard.run(key, mine, call)
		case found.body != body:
			return nil, requestIDConflict(id)
		case found.reply != nil:
			return found.reply, nil
		}
		select {
		case <-found.over: // then it has an answer, or it is this caller's turn
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func validateOnly(m proto.Message) bool {
	v, ok := m.(interface{ GetValidateOnly() bool })
	return ok && v.GetValidateOnly()
}

var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

// hash is keyed by a secret of the process, so that nobody can make two bodies that collide.
func (c *Idempotency) hash(m proto.Message) (uint64, error) {
	buf := bodies.Get().(*[]byte)
	defer bodies.Put(buf)
	b, err := codec.AppendCanonical((*buf)[:0], m)
	if err != nil {
		return 0, err
	}
	*buf = b
	return maphash.Bytes(c.seed, b), nil
}

// claim gives what is known of a key as it stands or, if nothing is, an entry for the caller to run.
func (s *answers) claim(key, body uint64, now time.Time) (found answer, mine *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.rotated); age >= answersKeptFor || len(s.cur) >= answersPerGeneration/idempotencyShards {
		s.rotate(now, age >= 2*answersKeptFor)
	}
	a := s.cur[key]
	if a == nil {
		a = s.prev[key]
	}
	if a == nil {
		a = &answer{body: body}
		s.cur[key] = a
		s.running++
		return answer{}, a
	}
	if a.reply == nil && a.over == nil {
		a.over = make(chan struct{})
	}
	return *a, nil
}

// rotate begins a generation. Calls that still run stay.
func (s *answers) rotate(now time.Time, stale bool) {
	s.cur, s.prev, s.rotated = s.prev, s.cur, now
	s.empty(s.cur)
	if stale {
		s.empty(s.prev)
	}
}

func (s *answers) empty(g generation) {
	if s.running == 0 {
		clear(g)
		return
	}
	for key, a := range g {
		if a.reply != nil {
			delete(g, key)
		}
	}
}

// run makes the answer and keeps it. After an error or a panic the key is free again.
func (s *answers) run(key uint64, a *answer, call func() (proto.Message, error)) (reply codec.Encoded, err error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		if a.reply = reply; reply == nil {
			delete(s.cur, key) // it is in one of them, and nobody else's
			delete(s.prev, key)
		}
		if a.over != nil {
			close(a.over)
		}
	}()
	return encoded(call())
}

// encoded gives a reply as it is sent, not nil, or the error. The reply itself is used up.
func encoded(reply proto.Message, err error) (codec.Encoded, error) {
	if err != nil {
		return nil, err
	}
	e, err := codec.Append([]byte{}, reply)
	recycleReply(reply)
	return e, err
}
