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
	if len(b) == 0 || b[0] != packVersion {
		return errPack
	}
	at := 1 // and not b = b[1:], which the garbage collector would be told of each time; negative after the end
	for id := int64(0); at < len(b); {
		var v, mask uint64
		v, at = uvarint(b, at)
		id += int64(v)
		mask, at = uvarint(b, at)
		if mask&^(1<<toolsBit)>>usage.Columns != 0 || at < 0 || id <= 0 {
			return errPack
		}
		s := into(id)
		for m := mask &^ (1 << toolsBit); m != 0; m &= m - 1 {
			v, at = uvarint(b, at)
			if s == nil {
				continue
			}
			i := bits.TrailingZeros64(m)
			sum, ok := usage.Plus(s.n[i], int64(v>>1)^-int64(v&1))
			if !ok {
				return usage.ErrOverflow
			}
			s.n[i] = sum
		}
		if mask>>toolsBit != 0 {
			var err error
			if at, err = unpackTools(b, at, s); err != nil {
				return err
			}
		}
		if at < 0 {
			return errPack
		}
	}
	return nil
}

func unpackTools(b []byte, at int, s *sums) (int, error) {
	left, at := uvarint(b, at)
	for ; left > 0; left-- {
		var length, v uint64
		if length, at = uvarint(b, at); at < 0 || length > uint64(len(b)-at) {
			return -1, errPack
		}
		tool := b[at : at+int(length)]
		if v, at = uvarint(b, at+int(length)); at < 0 {
			return -1, errPack
		}
		if s == nil {
			continue
		}
		if err := s.addTool(string(tool), int64(v>>1)^-int64(v&1)); err != nil {
			return -1, err
		}
	}
	return at, nil
}

// uvarint reads at a place and gives the next, -1 where none is there.
func uvarint(b []byte, at int) (uint64, int) {
	if uint(at) < uint(len(b)) && b[at] < 0x80 {
		return uint64(b[at]), at + 1
	}
	return longUvarint(b, at)
}

func longUvarint(b []byte, at int) (v uint64, next int) {
	if at < 0 {
		return 0, -1
	}
	for shift := uint(0); at < len(b) && shift < 70; shift += 7 {
		c := b[at]
		at++
		v |= uint64(c&0x7f) << (shift & 63)
		if c < 0x80 {
			if shift == 63 && c > 1 {
				break // more than 64 bits
			}
			return v, at
		}
	}
	return 0, -1
}
