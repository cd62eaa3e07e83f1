package policy

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/chartergate/chartergate/core/routing"
)

// memoPlans is about how many plans a memo keeps.
const memoPlans = 65_536

const memoShards = 64

// memo remembers plans by key. Each shard keeps two generations: when the young one is full it becomes the old one, and
// what was in the old one and not asked for since is dropped.
type memo struct {
	seed   maphash.Seed
	shards [memoShards]shard
}

type shard struct {
	sync.RWMutex
	young, old map[string]*routing.Plan
	_          [24]byte // a cache line for each lock
}

func newMemo() *memo { return &memo{seed: maphash.MakeSeed()} }

// shard gives the shard of a key, and whether it is one of the keys that are counted.
func (m *memo) shard(key []byte) (s *shard, sampled bool) {
	hash := maphash.Bytes(m.seed, key)
	return &m.shards[hash%memoShards], hash/memoShards%sampleShare == 0
}

// get gives the plan of a key; nil if it is not known.
func (m *memo) get(key []byte) (plan *routing.Plan, sampled bool) {
	s, sampled := m.shard(key)
	s.RLock()
	plan = s.young[string(key)]
	found := plan != nil
	if !found {
		plan = s.old[string(key)]
	}
	s.RUnlock()
	if !found && plan != nil {
		m.put(key, plan)
	}
	return plan, sampled
}

func (m *memo) put(key []byte, plan *routing.Plan) {
	s, _ := m.shard(key)
	s.Lock()
	defer s.Unlock()
	if s.young == nil || len(s.young) >= memoPlans/memoShards/2 {
		s.old, s.young = s.young, make(map[string]*routing.Plan)
	}
	s.young[string(key)] = plan
}

func (m *memo) clear() {
	for i := range m.shards {
		s := &m.shards[i]
		s.Lock()
		s.young, s.old = nil, nil
		s.Unlock()
	}
}

// size counts plans; one that is in both generations counts twice.
func (m *memo) size() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.RLock()
		n += len(s.young) + len(s.old)
		s.RUnlock()
	}
	return n
}

// What says whether a memo is of use, where an evaluation costs not much more than looking it up.
const (
	sampleShare  = 16      // one of so many keys is counted
	sampleWindow = 1024    // counted look-ups to judge by
	usefulAbove  = 40      // percent of them that are hits, to look again
	uselessBelow = 25      // percent, to look no more
	restDecision = 1 << 18 // decisions without, before it is tried again
)

// usefulness measures the hit rate of a memo.
type usefulness struct {
	resting atomic.Int64 // decisions to go without
	window  atomic.Int64 // look-ups counted
	hits    atomic.Int64
	rested  atomic.Bool // the memo was of no use when it was last judged
}

// less says to decide without the memo.
func (u *usefulness) less() bool { return u.resting.Load() > 0 && u.resting.Add(-1) >= 0 }

// count counts a look-up and says whether the memo has proved to be of no use.
func (u *usefulness) count(hit bool) bool {
	if hit {
		u.hits.Add(1)
	}
	if u.window.Add(1) != sampleWindow {
		return false
	}
	percent := u.hits.Swap(0) * 100 / sampleWindow
	u.window.Store(0)
	bound := int64(uselessBelow)
	if u.rested.Load() {
		bound = usefulAbove
	}
	u.rested.Store(percent < bound)
	if percent < bound {
		u.resting.Store(restDecision)
	}
	return percent < bound
}
