package policy

import (
	"encoding/binary"
	"sync"

	"github.com/chartergate/chartergate/core/routing"
)

// internedPlans is about how many different plans of one policy are kept.
const internedPlans = 16_384

// interned gives equal plans the same pointer. It is bounded: what was not asked for lately is dropped, and then an
// equal plan is another one.
type interned struct {
	mu         sync.RWMutex
	young, old map[string]*routing.Plan
}

func newInterned() *interned { return &interned{young: map[string]*routing.Plan{}} }

// intern gives the plan that is kept for this one's content.
func (t *interned) intern(plan *routing.Plan) *routing.Plan {
	var room [1024]byte
	key := appendPlan(room[:0], plan)
	t.mu.RLock()
	kept := t.young[string(key)]
	t.mu.RUnlock()
	if kept != nil {
		return kept
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if kept := t.young[string(key)]; kept != nil {
		return kept
	}
	if kept := t.old[string(key)]; kept != nil {
		plan = kept
	}
	if len(t.young) >= internedPlans/2 {
		t.old, t.young = t.young, map[string]*routing.Plan{}
	}
	t.young[string(key)] = plan
	return plan
}

// appendPlan appends all of a plan but its revision.
func appendPlan(dst []byte, p *routing.Plan) []byte {
	dst = append(dst, byte(p.Effect), byte(p.PromptCache))
	for _, n := range [...]int64{p.MaxInputTokens, p.MaxOutputTokens, p.TrimContextToTokens} {
		dst = binary.AppendVarint(dst, n)
	}
	for _, list := range [...][]string{p.Models, p.Tiers, p.Reasons} {
		dst = appendBool(dst, list == nil)
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, text := range list {
			dst = appendString(dst, text)
		}
	}
	return dst
}
