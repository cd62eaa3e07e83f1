package policy

import (
	"hash/maphash"
	"sync"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/routing"
)

const (
	combinationShards = 32
	// mostCombinations is how many combined plans a set remembers; then it starts anew, a part at a time.
	mostCombinations = 65_536
)

// combination is the plans of the levels that decide a call, in order, and that of the shipped policy where they leave the
// choice; those at the end may be nil.
type combination [maxLevels + 1]*routing.Plan

// combinations remembers what plans of several levels say together under one catalog.
type combinations struct {
	catalog *charter.Catalog
	seed    maphash.Seed
	shards  [combinationShards]struct {
		sync.RWMutex
		plans map[combination]*routing.Plan
		_     [32]byte // a cache line for each lock
	}
}

// combine gives the combined plan of the levels. Equal plans of one catalog give the same pointer.
func (s *set) combine(catalog *charter.Catalog, key combination) *routing.Plan {
	if key[1] == nil {
		return key[0]
	}
	known := s.combined.Load()
	if known == nil || known.catalog != catalog {
		known = &combinations{catalog: catalog, seed: maphash.MakeSeed()}
		s.combined.Store(known)
	}
	shard := &known.shards[maphash.Comparable(known.seed, key)%combinationShards]
	shard.RLock()
	plan := shard.plans[key]
	shard.RUnlock()
	if plan != nil {
		return plan
	}
	shard.Lock()
	defer shard.Unlock()
	if plan = shard.plans[key]; plan != nil {
		return plan
	}
	if shard.plans == nil || len(shard.plans) >= mostCombinations/combinationShards {
		shard.plans = map[combination]*routing.Plan{}
	}
	n := len(key)
	for key[n-1] == nil {
		n--
	}
	plan = routing.Combine(catalog, key[:n]...)
	shard.plans[key] = plan
	return plan
}
