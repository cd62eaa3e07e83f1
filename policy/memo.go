package policy

import (
	"hash/maphash"
	"sync"

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

func (m *memo) shard(key []byte) *shard {
	return &m.shards[maphash.Bytes(m.seed, key)%memoShards]
}

// get gives the plan of a key; nil if it is not known.
func (m *memo) get(key []byte) *routing.Plan {
	s := m.shard(key)
	s.RLock()
	plan := s.young[string(key)]
	found := plan != nil
	if !found {
		plan = s.old[string(key)]
	}
	s.RUnlock()
	if !found && plan != nil {
		m.put(key, plan)
	}
	return plan
}

func (m *memo) put(key []byte, plan *routing.Plan) {
	s := m.shard(key)
	s.Lock()
	defer s.Unlock()
	if s.young == nil || len(s.young) >= memoPlans/memoShards/2 {
		s.old, s.young = s.young, make(map[string]*routing.Plan)
	}
	s.young[string(key)] = plan
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
