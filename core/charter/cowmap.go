package charter

import (
	"hash/maphash"
	"iter"
	"maps"
)

// cowMap is an immutable map: a change copies one shard of it, so that a snapshot of 100,000 charters costs little to
// succeed. The zero value is empty.
type cowMap[V any] struct {
	shards *[shardCount]map[string]V
	size   int
}

const shardCount = 512

var seed = maphash.MakeSeed()

func shardOf(key string) int { return int(maphash.String(seed, key) % shardCount) }

func (m cowMap[V]) get(key string) (v V, ok bool) {
	if m.shards == nil {
		return v, false
	}
	v, ok = m.shards[shardOf(key)][key]
	return v, ok
}

func (m cowMap[V]) all() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if m.shards == nil {
			return
		}
		for _, s := range m.shards {
			for k, v := range s {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// edit is a cowMap that is being changed: it copies each shard once.
type edit[V any] struct {
	m     cowMap[V]
	owned [shardCount]bool
	root  bool
}

func (e *edit[V]) shard(key string) *map[string]V {
	if !e.root {
		fresh := new([shardCount]map[string]V)
		if e.m.shards != nil {
			*fresh = *e.m.shards
		}
		e.m.shards, e.root = fresh, true
	}
	i := shardOf(key)
	if !e.owned[i] {
		e.owned[i] = true
		if e.m.shards[i] == nil {
			e.m.shards[i] = make(map[string]V)
		} else {
			e.m.shards[i] = maps.Clone(e.m.shards[i])
		}
	}
	return &e.m.shards[i]
}

func (e *edit[V]) set(key string, v V) {
	s := *e.shard(key)
	if _, ok := s[key]; !ok {
		e.m.size++
	}
	s[key] = v
}

func (e *edit[V]) delete(key string) {
	if _, ok := e.m.get(key); ok {
		delete(*e.shard(key), key)
		e.m.size--
	}
}
