package sql

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/usage"
)

func unpackAll(b []byte) (map[int64]*sums, error) {
	by := map[int64]*sums{}
	err := unpack(b, func(dim int64) *sums {
		if by[dim] == nil {
			by[dim] = &sums{}
		}
		return by[dim]
	})
	return by, err
}

func TestPackGivesBackWhatItTook(t *testing.T) {
	number := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-200, 200), rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64}))
	rapid.Check(t, func(t *rapid.T) {
		by := map[int64]*sums{}
		for _, id := range rapid.SliceOfN(rapid.Int64Range(1, 1<<31), 0, 20).Draw(t, "ids") {
			s := &sums{}
			for i := range s.n {
				s.n[i] = number.Draw(t, "n")
			}
			for _, tool := range rapid.SliceOfN(rapid.StringN(0, 200, 200), 0, 3).Draw(t, "tools") {
				if s.tools == nil {
					s.tools = map[string]int64{}
				}
				s.tools[tool] = number.Draw(t, "calls")
			}
			by[id] = s
		}
		b := pack(by)
		got, err := unpackAll(b)
		if err != nil || !reflect.DeepEqual(got, by) {
			t.Fatalf("%v, %v; want %v", maps.Collect(maps.All(got)), err, by)
		}
		// The bytes of each number are those of encoding/binary.
		n := rapid.Uint64().Draw(t, "uvarint")
		if v, at := uvarint(binary.AppendUvarint([]byte{0xff}, n), 1); v != n || at != 1+len(binary.AppendUvarint(nil, n)) {
			t.Fatalf("%d is read as %d, next %d", n, v, at)
		}
		if len(b) > 1 { // what is cut off anywhere is damaged, or sums of fewer dims
			cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
			if part, err := unpackAll(b[:cut]); err == nil && len(part) >= len(by) {
				t.Fatalf("%d of %d bytes are %d dims of %d", cut, len(b), len(part), len(by))
			}
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(map[int64]*sums{1: {n: [usage.Columns]int64{1, -2, 3}, tools: map[string]int64{"web_search": 4}}, 300: {}}))
	f.Add([]byte{packVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		by, err := unpackAll(b)
		if err != nil && !errors.Is(err, errPack) && !errors.Is(err, usage.ErrOverflow) {
			t.Fatal(err)
		}
		for id := range by {
			if id <= 0 {
				t.Fatalf("dim %d", id)
			}
		}
	})
}
