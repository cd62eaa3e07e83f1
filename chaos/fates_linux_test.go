package chaos

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chartergate/chartergate/chaos/oracle"
)

// grace is how long after its expiry a hold still counts.
const grace = 5 * time.Second

// call makes one AI call: it reserves, and then does one of the things that clients do.
func (c *caller) call(id string, r *rand.Rand) {
	h := c.reserve(id, r)
	if h == nil {
		return
	}
	anyone := func() int { return r.IntN(len(c.clients)) }
	soon := func(most time.Duration) { <-time.After(time.Duration(r.Int64N(int64(most)))) }
	used, more := part(h.estimate, r), part(h.estimate, r)
	more.Output += h.estimate.Output + 1
	switch n := r.IntN(100); {
	case n < 50: // most calls end well, and cost less than was held
		soon(400 * time.Millisecond)
		c.settle(h, h.Replica, used)
	case n < 58: // more than was held
		soon(400 * time.Millisecond)
		c.settle(h, anyone(), more)
	case n < 64: // late, when the money is free again
		<-time.After(time.Duration(h.expires-now()) + grace + time.Second + time.Duration(r.Int64N(int64(time.Second))))
		c.settle(h, anyone(), used)
	case n < 72:
		soon(300 * time.Millisecond)
		c.release(h, anyone())
	case n < 79:
		soon(time.Duration(max(1, h.expires-now())))
		c.extend(h, anyone())
		soon(time.Duration(max(1, h.expires-now())))
		c.settle(h, anyone(), used)
	case n < 84: // the client crashed: nobody ever ends the hold
	case n < 88: // two replicas at once, with two amounts
		first := anyone()
		together(func() { c.settle(h, first, used) }, func() { c.settle(h, first+1, more) })
	case n < 92:
		first := anyone()
		together(func() { c.settle(h, first, used) }, func() { c.release(h, first+1) })
	default: // again and again, also much later
		soon(400 * time.Millisecond)
		c.settle(h, anyone(), used)
		c.settle(h, anyone(), used)
		c.settle(h, anyone(), more)
		c.release(h, anyone())
		soon(20 * time.Second)
		c.settle(h, anyone(), used)
	}
}

// part is a usage that costs less than the estimate.
func part(e oracle.Tokens, r *rand.Rand) oracle.Tokens {
	t := oracle.Tokens{Input: 1 + r.Int64N(e.Input), Output: r.Int64N(e.Output + 1)}
	t.Cached = r.Int64N(t.Input)
	return t
}

func together(calls ...func()) {
	var all sync.WaitGroup
	for _, call := range calls {
		all.Go(call)
	}
	all.Wait()
}
