package replay

import (
	"sync"
	"time"

	"github.com/chartergate/chartergate/core/usage"
)

// promptCaches simulates the prompt cache of each model: a call reads the longest prefix of its blocks that the model was
// sent within the TTL, in trace time, and writes the rest. A prompt or a prefix shorter than the provider caches at least
// is not cached. Calls come in the order of their rows, so that the same decisions give the same tokens however
// many are in flight.
type promptCaches struct {
	ttl    time.Duration
	writes func(model string) bool

	mu      sync.Mutex
	moved   *sync.Cond
	next    int64 // the row whose turn it is
	byModel map[string]*prefixCache
}

func newPromptCaches(o *Options) *promptCaches {
	c := &promptCaches{ttl: o.CacheTTL, writes: o.CacheWrites, next: 1, byModel: map[string]*prefixCache{}}
	c.moved = sync.NewCond(&c.mu)
	return c
}

// turn waits until every earlier row had its turn. Of a call that is made it fills in what the model's cache does; model
// is empty for one that is not.
func (c *promptCaches) turn(number int64, r *Row, provider, model string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.next != number {
		c.moved.Wait()
	}
	defer func() { c.next++; c.moved.Broadcast() }()
	r.CachedTokens = 0
	least := usage.MinCacheable(provider, model)
	if model == "" || len(r.Prefix) == 0 || r.InputTokens < least {
		return
	}
	cache := c.byModel[model]
	if cache == nil {
		cache = &prefixCache{ttl: c.ttl, used: map[uint64]time.Duration{}}
		c.byModel[model] = cache
	}
	blocks := cache.use(r.Prefix, r.At)
	if read := min(blocks*r.PrefixBlock, r.InputTokens); read >= least {
		r.CachedTokens = read
	}
	if c.writes != nil && c.writes(model) {
		r.WrittenTokens, r.WrittenLong = r.InputTokens-r.CachedTokens, c.ttl > usage.ShortCache
	}
}

// prefixCache knows when each prompt block was last used.
type prefixCache struct {
	ttl   time.Duration
	used  map[uint64]time.Duration
	sweep int // the size at which to drop what has expired
}

// use counts the leading blocks that are in the cache, and puts all of them there.
func (c *prefixCache) use(blocks []uint64, now time.Duration) (cached int64) {
	leading := true
	for _, b := range blocks {
		last, ok := c.used[b]
		if leading = leading && ok && now-last <= c.ttl; leading {
			cached++
		}
	}
	for _, b := range blocks {
		c.used[b] = now
	}
	if len(c.used) > c.sweep {
		for b, last := range c.used {
			if now-last > c.ttl {
				delete(c.used, b)
			}
		}
		c.sweep = 2*len(c.used) + 1024
	}
	return cached
}
