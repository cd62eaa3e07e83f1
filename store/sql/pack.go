package sql

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/bits"
	"slices"

	"github.com/chartergate/chartergate/core/usage"
)

// A pack is sums of many dims, ascending by id: packVersion, then for each dim the uvarint of its id less the one before,
// the uvarint of a mask with a bit for each sum that is not 0, and those sums as varints. toolsBit says that tools follow:
// their number, then for each the length of its name, the name and its sum.
const (
	packVersion = 1
	toolsBit    = 63
)

var errPack = errors.New("a row of the usage database is damaged: restore it from a backup")

// sums are usage.Totals by the number of their column.
type sums struct {
	n     [usage.Columns]int64
	tools map[string]int64
}

func (s *sums) totals() (t usage.Totals) {
	for i, p := range t.Columns() {
		*p = s.n[i]
	}
	t.Usage.ToolCalls = s.tools
	return t
}

// add adds totals. Error: usage.ErrOverflow; then the sums are of no use.
func (s *sums) add(t *usage.Totals) error {
	for i, p := range t.Columns() {
		sum, ok := usage.Plus(s.n[i], *p)
		if !ok {
			return usage.ErrOverflow
		}
		s.n[i] = sum
	}
	for tool, n := range t.Usage.ToolCalls {
		if err := s.addTool(tool, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *sums) addTool(tool string, n int64) error {
	if _, known := s.tools[tool]; !known && len(s.tools) >= usage.MaxTotalTools {
		tool = usage.OtherKey
	}
	if s.tools == nil {
		s.tools = map[string]int64{}
	}
	sum, ok := usage.Plus(s.tools[tool], n)
	if !ok {
		return usage.ErrOverflow
	}
	s.tools[tool] = sum
	return nil
}

func (s *sums) addSums(o *sums) error {
	for i, n := range o.n {
		sum, ok := usage.Plus(s.n[i], n)
		if !ok {
			return usage.ErrOverflow
		}
		s.n[i] = sum
	}
	for tool, n := range o.tools {
		if err := s.addTool(tool, n); err != nil {
			return err
		}
	}
	return nil
}

// pack writes the sums of dims.
func pack(by map[int64]*sums) []byte {
	b := make([]byte, 1, 64*len(by)+1)
	b[0] = packVersion
	before := int64(0)
	for _, id := range slices.Sorted(maps.Keys(by)) {
		s := by[id]
		mask := uint64(0)
		for i, n := range s.n {
			if n != 0 {
				mask |= 1 << i
			}
		}
		if len(s.tools) > 0 {
			mask |= 1 << toolsBit
		}
		b = binary.AppendUvarint(b, uint64(id-before))
		b = binary.AppendUvarint(b, mask)
		before = id
		for m := mask &^ (1 << toolsBit); m != 0; m &= m - 1 {
			b = binary.AppendVarint(b, s.n[bits.TrailingZeros64(m)])
		}
		if len(s.tools) > 0 {
			b = binary.AppendUvarint(b, uint64(len(s.tools)))
			for _, tool := range slices.Sorted(maps.Keys(s.tools)) {
				b = binary.AppendUvarint(b, uint64(len(tool)))
				b = append(b, tool...)
				b = binary.AppendVarint(b, s.tools[tool])
			}
		}
	}
	return b
}

// unpack adds each dim's sums to those that into gives for it; to none for nil. Errors: usage.ErrOverflow, errPack.
func unpack(b []byte, into func(dim int64) *sums) error {
	r := packReader{b: b}
	if r.byte() != packVersion {
		return errPack
	}
	for id := int64(0); len(r.b) > 0; {
		id += int64(r.uvarint())
		mask := r.uvarint()
		if mask&^(1<<toolsBit)>>usage.Columns != 0 || r.bad {
			return errPack
		}
		s := into(id)
		for m := mask &^ (1 << toolsBit); m != 0; m &= m - 1 {
			n := r.varint()
			if s == nil {
				continue
			}
			i := bits.TrailingZeros64(m)
			sum, ok := usage.Plus(s.n[i], n)
			if !ok {
				return usage.ErrOverflow
			}
			s.n[i] = sum
		}
		if mask>>toolsBit != 0 {
			for left := r.uvarint(); left > 0 && !r.bad; left-- {
				tool := r.take(r.uvarint())
				n := r.varint()
				if s == nil {
					continue
				}
				if err := s.addTool(string(tool), n); err != nil {
					return err
				}
			}
		}
		if r.bad {
			return errPack
		}
	}
	return nil
}

// packReader reads a pack; bad once it ends too soon.
type packReader struct {
	b   []byte
	bad bool
}

func (r *packReader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *packReader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 { // most are
		v := uint64(r.b[0])
		r.b = r.b[1:]
		return v
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *packReader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *packReader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}
