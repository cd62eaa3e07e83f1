package sim

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// sched owns virtual time and chance. It runs one coroutine at a time; nothing else decides anything.
type sched struct {
	now    time.Duration // since the start of the run
	rng    *rand.Rand
	events []event // a heap
	seq    uint64
	ready  []*coro
	cur    *coro
	sum    uint64 // of all that happened: equal for equal runs
	steps  int
	since  time.Duration // together with at: to find a coroutine that never waits
	at     int
	trace  *strings.Builder // nil: none is kept
	ended  bool
	pool   *pool
	// panicked is told of a panic in an activity.
	panicked func(name string, reason any, stack []byte)
}

type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func newSched(seed uint64, coros *pool) *sched {
	return &sched{pool: coros, rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), sum: 14695981039346656037}
}

// mix adds something that happened to the sum.
func (s *sched) mix(x uint64) { s.sum = (s.sum ^ x) * 1099511628211 }

func (s *sched) mixBytes(b []byte) {
	for len(b) >= 8 {
		s.mix(uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 | uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56)
		b = b[8:]
	}
	for _, c := range b {
		s.mix(uint64(c))
	}
}

// logf writes a line of the trace. Callers check s.trace first where the arguments cost something.
func (s *sched) logf(format string, args ...any) {
	if s.trace != nil {
		fmt.Fprintf(s.trace, "%10.3fs  %s\n", s.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// after calls do in d.
func (s *sched) after(d time.Duration, do func()) {
	s.seq++
	s.events = append(s.events, event{s.now + max(0, d), s.seq, do})
	for i := len(s.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.events[i].before(&s.events[up]) {
			break
		}
		s.events[i], s.events[up] = s.events[up], s.events[i]
		i = up
	}
}

func (e *event) before(f *event) bool { return e.at < f.at || e.at == f.at && e.seq < f.seq }

func (s *sched) pop() event {
	h := s.events
	top, n := h[0], len(h)-1
	h[0], h[n] = h[n], event{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	s.events = h
	return top
}

// run goes on until nothing is left to happen, the time is over, or the run is ended.
func (s *sched) run(until time.Duration) {
	for !s.ended {
		if len(s.ready) > 0 {
			if s.ended {
				return
			}
			i := s.rng.IntN(len(s.ready))
			c := s.ready[i]
			s.ready[i] = s.ready[len(s.ready)-1]
			s.ready = s.ready[:len(s.ready)-1]
			s.step(c)
			continue
		}
		if len(s.events) == 0 || s.events[0].at > until {
			s.now = max(s.now, until)
			return
		}
		e := s.pop()
		s.now = e.at
		e.do()
	}
}

// chance is true once in n times.
func (s *sched) chance(n int) bool { return s.rng.IntN(n) == 0 }

// between gives a duration, evenly.
func (s *sched) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.rng.Int64N(int64(most-least)+1))
}

// process is one program on one machine: it can pause, crash, and its clocks are its own.
type process struct {
	*sched
	name    string
	dead    bool
	gone    bool // dead, and its activities are being unwound
	broken  bool // an activity has panicked, and may have left locks behind
	paused  bool
	until   time.Duration // of the pause
	first   *coro         // paused in the middle of a step: it goes on before any other, as it may hold locks
	coros   []*coro
	waiting []*coro // on channels
	held    []*coro // ready, but paused
	rate    float64
	offset  time.Duration // of the wall clock
	booted  time.Duration
	// pauses is how many calls of the clock there are to one pause; 0: none.
	pauses int
	kv     *client
}

// coro is an activity of a process.
type coro struct {
	p    *process
	name string
	run  func()
	next func() (struct{}, bool)
	hand func(struct{}) bool
	gen  uint64 // counts waits
	ctx  context.Context
	ch   <-chan struct{}
	err  error // what the wait gives
	over bool
}

// stopped unwinds the activities of a process that crashes.
type stopped struct{}

// spawn starts an activity. Its first step runs when the scheduler picks it.
func (p *process) spawn(name string, run func()) {
	if p.dead {
		return
	}
	c := p.pool.take()
	c.p, c.name, c.run = p, name, run
	p.coros = append(p.coros, c)
	p.wake(c)
}

// pool keeps coroutines that have ended for the next activity, of this run or another: their stacks have grown.
type pool struct{ idle []*coro }

func (l *pool) take() *coro {
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		c.over = false
		return c
	}
	c := &coro{}
	c.next, _ = iter.Pull(func(yield func(struct{}) bool) {
		c.hand = yield
		for {
			c.do()
			c.over = true
			if !yield(struct{}{}) {
				return
			}
		}
	})
	return c
}

// give takes back a coroutine that has ended. It must not keep its run in memory, nor hear of its old waits.
func (l *pool) give(c *coro) {
	c.gen++
	c.p, c.run, c.ctx, c.ch, c.err = nil, nil, nil, nil, nil
	l.idle = append(l.idle, c)
}

// do runs one activity to its end.
func (c *coro) do() {
	p := c.p
	if p.dead {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(stopped); !ok {
				p.broken = true
				p.panicked(c.name, r, debug.Stack())
			}
		}
	}()
	c.run()
}

// step runs a coroutine until it waits.
func (s *sched) step(c *coro) {
	p := c.p
	switch {
	case c.over || p.dead:
		return
	case p.paused:
		p.held = append(p.held, c)
		return
	}
	s.steps++
	if s.now-s.since > 100*time.Millisecond {
		s.since, s.at = s.now, s.steps
	} else if s.steps-s.at > 20_000 {
		s.panicked(c.p.name+" "+c.name, "it goes round and round without waiting", nil)
	}
	s.mix(uint64(s.now))
	s.mix(uint64(len(s.ready))<<32 | uint64(len(c.name)))
	outer := s.cur
	s.cur = c
	c.next()
	s.cur = outer
	if c.over {
		p.forget(c)
		s.pool.give(c)
	}
	if !p.paused {
		p.poll()
	}
}

func (p *process) forget(c *coro) {
	for i, o := range p.coros {
		if o == c {
			p.coros = append(p.coros[:i], p.coros[i+1:]...)
			return
		}
	}
}

func (p *process) wake(c *coro) { p.ready = append(p.ready, c) }

// park lets others run until somebody wakes the current coroutine.
func (p *process) park() {
	if p.dead || !p.cur.hand(struct{}{}) || p.gone {
		panic(stopped{})
	}
}

// begin starts a wait of the current coroutine; end ends it, unless it has ended before.
func (p *process) begin() (c *coro, gen uint64) {
	if p.dead || p.cur == nil || p.cur.p != p {
		panic(stopped{})
	}
	c = p.cur
	c.gen++
	c.err = nil
	return c, c.gen
}

func (c *coro) end(gen uint64, err error) bool {
	if c.over || c.p.dead || c.gen != gen {
		return false
	}
	c.gen++
	c.err = err
	if c.ctx != nil || c.ch != nil {
		c.ctx, c.ch = nil, nil
		for i, o := range c.p.waiting {
			if o == c {
				c.p.waiting = append(c.p.waiting[:i], c.p.waiting[i+1:]...)
				break
			}
		}
	}
	c.p.wake(c)
	return true
}

// watch makes the wait end with ctx and ch too.
func (c *coro) watch(ctx context.Context, ch <-chan struct{}) {
	c.ctx, c.ch = ctx, ch
	c.p.waiting = append(c.p.waiting, c)
}

// poll ends the waits whose channel is ready.
func (p *process) poll() {
	for i := 0; i < len(p.waiting); {
		c := p.waiting[i]
		var done <-chan struct{}
		if c.ctx != nil {
			done = c.ctx.Done()
		}
		var err error
		select {
		case <-c.ch:
		default:
			select {
			case <-done:
				err = c.ctx.Err()
			default:
				i++
				continue
			}
		}
		c.end(c.gen, err) // removes it from waiting
	}
}

// pause stops the whole process for a while. In the middle of a step the step goes on first.
func (p *process) pause(d time.Duration) {
	if p.dead {
		return
	}
	p.paused = true
	p.until = max(p.until, p.now+d)
	p.after(d, p.resume)
}

func (p *process) resume() {
	if p.dead || !p.paused || p.now < p.until {
		return
	}
	p.paused = false
	if c := p.first; c != nil {
		p.first = nil
		p.step(c)
	}
	if !p.paused && !p.dead {
		p.ready = append(p.ready, p.held...)
		p.held = nil
		p.poll()
	}
}

// crash ends a process at once: nothing of it runs again, its memory is gone.
func (p *process) crash() {
	if p.dead {
		return
	}
	p.dead = true
	if p.broken { // its activities cannot be unwound
		p.kv.close()
		return
	}
	coros, first, outer := p.coros, p.first, p.cur
	p.coros, p.waiting, p.held, p.first = nil, nil, nil, nil
	if first != nil { // it may hold locks: it goes on up to its next wait, of which nobody hears
		p.cur = first
		first.next()
	}
	p.gone = true
	p.ready = slices.DeleteFunc(p.ready, func(c *coro) bool { return c.p == p })
	for _, c := range coros {
		if c == outer || c.over {
			continue // unwinds at its next wait
		}
		p.cur = nil
		if c.next(); c.over { // unwound
			p.pool.give(c)
		}
	}
	p.cur = outer
	p.kv.close()
}
