package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// bagSize is how many elements a bag may have.
const bagSize = 8

// bag is a small object or set in the making, with texts as keys. Anything else is one of OPA's.
type bag struct {
	set  bool
	keys []value
	vals []value  // of an object
	few  [6]value // room for a small one
}

func newBag(set bool) value {
	b := &bag{set: set}
	if b.keys = b.few[:0:3]; set {
		b.keys = b.few[:0]
	} else {
		b.vals = b.few[3:3]
	}
	return value{kind: isBag, ref: b}
}

// copy is a bag of its own.
func (b *bag) copy() *bag {
	return &bag{set: b.set, keys: slices.Clone(b.keys), vals: slices.Clone(b.vals)}
}

// find gives the place of a key; -1 if it is not there.
func (b *bag) find(key string) int {
	for i := range b.keys {
		if b.keys[i].text() == key {
			return i
		}
	}
	return -1
}

// put is false where there is no room, or the key is no text.
func (b *bag) put(key, v *value) bool {
	if key.kind != isString {
		return false
	}
	i := b.find(key.text())
	switch {
	case i >= 0 && v != nil:
		b.vals[i] = *v
	case i >= 0:
	case len(b.keys) == bagSize:
		return false
	default:
		if b.keys = append(b.keys, *key); v != nil {
			b.vals = append(b.vals, *v)
		}
	}
	return true
}

func (b *bag) get(key string) value {
	i := b.find(key)
	switch {
	case i < 0:
		return value{}
	case b.set:
		return b.keys[i]
	}
	return b.vals[i]
}

// unpack makes one of OPA's of a bag.
func (m *machine) unpack(b *bag) ast.Value {
	if !m.grow(len(b.keys)) {
		return ast.NewObject()
	}
	if b.set {
		set := ast.NewSet()
		for i := range b.keys {
			set.Add(m.term(&b.keys[i]))
		}
		return set
	}
	object := ast.NewObject()
	for i := range b.keys {
		object.Insert(m.term(&b.keys[i]), m.term(&b.vals[i]))
	}
	return object
}
