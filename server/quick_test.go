package server

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var hot = []proto.Message{
	&chartergatev1.CheckRequest{}, &chartergatev1.ReserveRequest{}, &chartergatev1.SettleRequest{},
	&chartergatev1.ReleaseRequest{}, &chartergatev1.ExtendRequest{}, &chartergatev1.RecordUsageRequest{},
}

// What surelyValid accepts, protovalidate accepts: tried on messages with few odd fields, at and around every bound.
func TestSurelyValidKeepsTheRules(t *testing.T) {
	v := validator(t)
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(hot).Draw(t, "type").ProtoReflect().New()
		fillMessage(t, m, rapid.IntRange(0, 3).Draw(t, "oddness"))
		err := v.rules.Validate(m.Interface())
		switch quick := surelyValid(m.Interface()); {
		case quick && err != nil:
			t.Fatalf("accepted %v, but %v", m.Interface(), err)
		case quick:
			accepted++
		case err != nil:
			refused++
		}
	})
	if accepted == 0 || refused == 0 {
		t.Errorf("%d accepted and %d refused: the messages are too much alike to tell", accepted, refused)
	}
}

func TestSurelyValidAcceptsCommonCalls(t *testing.T) {
	for _, m := range []proto.Message{
		aReserve("r-1"),
		&chartergatev1.CheckRequest{Call: aReserve("").Call},
		&chartergatev1.SettleRequest{Hold: "token", Usage: &chartergatev1.Usage{OutputTokens: 5}, RequestId: "s-1"},
		&chartergatev1.ReleaseRequest{Hold: "token"},
		&chartergatev1.ExtendRequest{Hold: "token", Ttl: aReserve("").Ttl},
		&chartergatev1.RecordUsageRequest{Feature: "chat", Model: "small", Usage: &chartergatev1.Usage{}, RequestId: "u-1"},
	} {
		if !surelyValid(m) {
			t.Errorf("left to protovalidate: %v", m)
		}
	}
}

var (
	numbers = []int64{-1 << 63, -1, 101, 1e6 + 1, 1e9 + 1, 1e12 + 1, 1e15 + 1, 1<<63 - 1, 86_400, 86_401}
	common  = []int64{0, 1, 30, 100}
	lengths = []int{0, 63, 64, 65, 128, 129, 4096, 4097}
)

// fillMessage sets every field; one in ten of them to an odd value, as long as odd ones are left.
func fillMessage(t *rapid.T, m protoreflect.Message, odd int) {
	isOdd := func() bool {
		if odd == 0 || rapid.IntRange(0, 9).Draw(t, "odd") > 0 {
			return false
		}
		odd--
		return true
	}
	scalar := func(f protoreflect.FieldDescriptor) protoreflect.Value {
		switch f.Kind() {
		case protoreflect.StringKind:
			if isOdd() {
				return protoreflect.ValueOfString(strings.Repeat(rapid.SampledFrom([]string{"a", "é"}).Draw(t, "letter"), rapid.SampledFrom(lengths).Draw(t, "length")))
			}
			return protoreflect.ValueOfString("abc")
		case protoreflect.EnumKind:
			if isOdd() {
				return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.SampledFrom([]int32{-1, 2, 3, 99}).Draw(t, "enum")))
			}
			return protoreflect.ValueOfEnum(1)
		}
		n := rapid.SampledFrom(common).Draw(t, "common")
		if isOdd() {
			n = rapid.SampledFrom(numbers).Draw(t, "number")
		}
		if f.Kind() == protoreflect.Int32Kind {
			return protoreflect.ValueOfInt32(int32(n))
		}
		return protoreflect.ValueOfInt64(n)
	}
	size := func() int {
		if isOdd() {
			return rapid.SampledFrom([]int{0, 16, 17, 32, 33}).Draw(t, "size")
		}
		return 1
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			for j := range size() {
				key := strings.Repeat("k", j+1)
				if isOdd() {
					key = strings.Repeat("k", rapid.SampledFrom(lengths).Draw(t, "key"))
				}
				entries.Set(protoreflect.ValueOfString(key).MapKey(), scalar(f.MapValue()))
			}
		case f.IsList():
			list := m.Mutable(f).List()
			for range size() {
				list.Append(scalar(f))
			}
		case f.Message() != nil:
			if !isOdd() {
				inner := rapid.IntRange(0, odd).Draw(t, "inside")
				fillMessage(t, m.Mutable(f).Message(), inner)
			}
		default:
			m.Set(f, scalar(f))
		}
	}
}
