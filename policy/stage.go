package policy

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/chartergate/chartergate/core/routing"
)

// stage keeps what calls of one charter at one epoch have in common that are alike in all but volatile leaves: values of
// rules that read no volatile leaf, and terms of the input. It is filled by whoever needs a value first.
type stage struct {
	values           []atomic.Pointer[value]
	charter, catalog atomic.Pointer[ast.Term]
	able             atomic.Pointer[ast.Term]
}

// volatile are the leaves that differ from call to call.
func (f *field) volatile() bool {
	switch f.leaf {
	case inputTokens, cachedInputTokens, maxOutputTokens, topUtilization, pathUtilization:
		return f.cuts == nil
	case user, run, toolCalls:
		return true
	case labels:
		return f.name == ""
	}
	return false
}

// plan says which rules are staged, and by what.
func (p *program) plan() {
	reads := make([][]read, len(p.functions)) // all of a function and of those that it calls, which come before it
	with := make([]bool, len(p.functions))
	var all []read
	for i, f := range p.functions {
		reads[i], with[i] = slices.Clone(f.reads), f.with
		for _, c := range f.calls {
			reads[i], with[i] = append(reads[i], reads[c]...), with[i] || with[c]
		}
		reads[i] = compactReads(reads[i])
		all = append(all, reads[i]...)
	}
	a := analysis{reads: compactReads(all)}
	p.fields = a.fields()
	for _, f := range p.fields {
		if !f.volatile() {
			p.key = append(p.key, f)
		}
	}
	p.able = slices.ContainsFunc(p.key, func(f field) bool { return f.leaf == ableModels })
	for i, f := range p.functions {
		f.stage = -1
		a := analysis{reads: reads[i]}
		if f.rule && !slices.ContainsFunc(a.fields(), func(f field) bool { return f.volatile() || !p.covers(f) }) {
			f.stage = p.staged
			p.staged++
		}
	}
}

// covers says whether the stage's key has all that a field has.
func (p *program) covers(f field) bool {
	for _, k := range p.key {
		if k.leaf == f.leaf && (k.name == "" || k.name == f.name) {
			if k.cuts == nil || f.cuts != nil && !slices.ContainsFunc(f.cuts, func(n int64) bool { return !slices.Contains(k.cuts, n) }) {
				return true
			}
		}
	}
	return false
}

func compactReads(reads []read) []read {
	slices.SortFunc(reads, compareReads)
	return slices.CompactFunc(reads, func(a, b read) bool { return compareReads(a, b) == 0 })
}

// maxStages bounds the stages that are kept.
const maxStages = 4096

// stageMemo remembers stages by key, in two generations like the memo.
type stageMemo struct {
	seed   maphash.Seed
	shards [16]struct {
		sync.RWMutex
		young, old map[string]*stage
	}
}

func newStageMemo() *stageMemo { return &stageMemo{seed: maphash.MakeSeed()} }

func (s *stageMemo) get(p *program, in *routing.Input) *stage {
	var room [512]byte
	key := appendFields(room[:0], in, p.key)
	shard := &s.shards[maphash.Bytes(s.seed, key)%uint64(len(s.shards))]
	shard.RLock()
	found := shard.young[string(key)]
	shard.RUnlock()
	if found != nil {
		return found
	}
	shard.Lock()
	defer shard.Unlock()
	if found = shard.young[string(key)]; found != nil {
		return found
	}
	if found = shard.old[string(key)]; found == nil {
		found = &stage{values: make([]atomic.Pointer[value], p.staged)}
	}
	if shard.young == nil || len(shard.young) >= maxStages/len(s.shards)/2 {
		shard.old, shard.young = shard.young, map[string]*stage{}
	}
	shard.young[string(key)] = found
	return found
}

func (s *stageMemo) size() (n int) {
	for i := range s.shards {
		shard := &s.shards[i]
		shard.RLock()
		n += len(shard.young) + len(shard.old)
		shard.RUnlock()
	}
	return n
}

// fixed gives a term that all calls of a stage share.
func (m *machine) fixed(kept *atomic.Pointer[ast.Term], build func() *ast.Term) value {
	t := kept.Load()
	if t == nil {
		t = build()
		kept.Store(t)
	}
	return valueOf(t.Value)
}

func (m *machine) charterTerm() *ast.Term {
	charter, _ := m.inputs.fixed(m.in)
	return charter
}

func (m *machine) catalogTerm() *ast.Term {
	_, catalog := m.inputs.fixed(m.in)
	return catalog
}

// able is in the key of the stage whenever the policy reads it.
func (m *machine) able() value {
	if m.program.able {
		return m.fixed(&m.stage.able, func() *ast.Term { return ableTerm(m.in) })
	}
	return m.once(ableModels, func() ast.Value { return ableTerm(m.in).Value })
}
