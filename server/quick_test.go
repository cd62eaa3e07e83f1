package server

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var hot = []proto.Message{
	&chartergatev1.CheckRequest{}, &chartergatev1.ReserveRequest{}, &chartergatev1.SettleRequest{},
	&chartergatev1.ReleaseRequest{}, &chartergatev1.ExtendRequest{}, &chartergatev1.RecordUsageRequest{},
}

// What surelyValid accepts, protovalidate accepts: tried on every field at and around every bound, in messages that are
// valid otherwise.
func TestSurelyValidKeepsTheRules(t *testing.T) {
	v := validator(t)
	for _, m := range append(hot, &chartergatev1.SettleRequest{RawUsage: &chartergatev1.RawUsage{}}, &chartergatev1.RecordUsageRequest{RawUsage: &chartergatev1.RawUsage{}}) {
		t.Run(string(m.ProtoReflect().Descriptor().Name()), func(t *testing.T) {
			accepted, refused := 0, 0
			usage, raw := m.ProtoReflect().Descriptor().Fields().ByName("usage"), m.ProtoReflect().Descriptor().Fields().ByName("raw_usage")
			other := raw // only one of the two is set
			if raw != nil && m.ProtoReflect().Has(raw) {
				other = usage
			}
			m := m.ProtoReflect().New()
			fillMessage(m)
			vary(m, "", func(what string) {
				if other != nil && !strings.HasPrefix(what, string(other.Name())) && !strings.HasPrefix(what, "no "+string(other.Name())) {
					m.Clear(other)
				}
				err := v.rules.Validate(m.Interface())
				switch quick := surelyValid(m.Interface()); {
				case quick && err != nil:
					t.Errorf("with %s it is accepted, but %v", what, err)
				case quick:
					accepted++
				case err != nil:
					refused++
				}
			})
			if accepted == 0 || refused == 0 {
				t.Errorf("%d accepted and %d refused: the messages are too much alike to tell", accepted, refused)
			}
		})
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
	numbers = []int64{-1 << 63, -1, 0, 1, 100, 101, 86_400, 86_401, 65_536, 65_537, 1e6, 1e6 + 1, 1e9, 1e9 + 1, 1e12, 1e12 + 1, 1e15, 1e15 + 1, 1<<63 - 1}
	sizes   = []int{0, 16, 17, 32, 33, 512, 513}
	lengths = []int{0, 1, 63, 64, 65, 128, 129, 4096, 4097, 65_536, 65_537}
)

// oddValues are the values of a field that could break its rules.
func oddValues(f protoreflect.FieldDescriptor) (list []protoreflect.Value) {
	switch f.Kind() {
	case protoreflect.StringKind:
		for _, n := range lengths {
			list = append(list, protoreflect.ValueOfString(strings.Repeat("a", n)), protoreflect.ValueOfString(strings.Repeat("é", n)))
		}
	case protoreflect.EnumKind:
		for _, n := range []protoreflect.EnumNumber{-1, 0, 2, 3, 99} {
			list = append(list, protoreflect.ValueOfEnum(n))
		}
	case protoreflect.Int32Kind:
		for _, n := range numbers {
			list = append(list, protoreflect.ValueOfInt32(int32(n)))
		}
	case protoreflect.Fixed64Kind:
		for _, n := range numbers {
			list = append(list, protoreflect.ValueOfUint64(uint64(n)))
		}
	default:
		for _, n := range numbers {
			list = append(list, protoreflect.ValueOfInt64(n))
		}
	}
	return list
}

func commonValue(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("abc")
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(30)
	case protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(30)
	}
	return protoreflect.ValueOfInt64(30)
}

// fillMessage sets every field to a common value.
func fillMessage(m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		fillField(m, m.Descriptor().Fields().Get(i))
	}
}

func fillField(m protoreflect.Message, f protoreflect.FieldDescriptor) {
	m.Clear(f)
	switch {
	case f.IsMap():
		m.Mutable(f).Map().Set(protoreflect.ValueOfString("key").MapKey(), commonValue(f.MapValue()))
	case f.IsList():
		m.Mutable(f).List().Append(commonValue(f))
	case f.Message() != nil:
		fillMessage(m.Mutable(f).Message())
	default:
		m.Set(f, commonValue(f))
	}
}

// vary makes one field after the other odd, calls try, and puts the field back.
func vary(m protoreflect.Message, path string, try func(what string)) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		at := path + string(f.Name())
		set := func(v protoreflect.Value, what any) {
			m.Set(f, v)
			try(fmt.Sprintf("%s %.20v", at, what))
		}
		switch {
		case f.IsMap():
			entries := func(n int, key string, value protoreflect.Value) {
				v := m.NewField(f)
				for j := range n {
					v.Map().Set(protoreflect.ValueOfString(key+strings.Repeat("k", j)).MapKey(), value)
				}
				set(v, fmt.Sprintf("%d entries, %s: %v", n, key, value))
			}
			for _, n := range sizes {
				entries(n, "k", commonValue(f.MapValue()))
			}
			for _, n := range lengths {
				entries(1, strings.Repeat("k", n), commonValue(f.MapValue()))
			}
			for _, value := range oddValues(f.MapValue()) {
				entries(1, "k", value)
			}
		case f.IsList():
			elements := func(n int, value protoreflect.Value) {
				v := m.NewField(f)
				for range n {
					v.List().Append(value)
				}
				set(v, fmt.Sprintf("%d elements, %v", n, value))
			}
			for _, n := range sizes {
				elements(n, commonValue(f))
			}
			for _, value := range oddValues(f) {
				elements(1, value)
			}
		case f.Message() != nil:
			vary(m.Mutable(f).Message(), at+".", try)
			m.Clear(f)
			try("no " + at)
		default:
			for _, value := range oddValues(f) {
				set(value, value)
			}
		}
		fillField(m, f)
	}
}
