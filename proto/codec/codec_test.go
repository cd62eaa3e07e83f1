package codec

import (
	"strings"
	"testing"

	"google.golang.org/grpc/encoding"
	standard "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
	"pgregory.net/rapid"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// every is a message of each kind that preflight RPCs carry, and one that the codec leaves alone.
func every() []proto.Message {
	all := []proto.Message{&chartergatev1.SessionOperation{}, &chartergatev1.SessionResult{}, &chartergatev1.Owner{}, &emptypb.Empty{}}
	methods := chartergatev1.File_chartergate_v1_preflight_proto.Services().Get(0).Methods()
	for i := range methods.Len() {
		for _, d := range []protoreflect.MessageDescriptor{methods.Get(i).Input(), methods.Get(i).Output()} {
			all = append(all, messageOf(d))
		}
	}
	return all
}

func messageOf(d protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err)
	}
	return kind.New().Interface()
}

// fill gives fields of m random values, or none.
func fill(t *rapid.T, m protoreflect.Message, text *rapid.Generator[string]) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rapid.IntRange(0, 3).Draw(t, "skip") == 0 {
			continue
		}
		switch {
		case f.IsMap():
			for range rapid.IntRange(0, 3).Draw(t, "pairs") {
				m.Mutable(f).Map().Set(scalar(t, f.MapKey(), text).MapKey(), scalar(t, f.MapValue(), text))
			}
		case f.IsList():
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				if f.Message() == nil {
					m.Mutable(f).List().Append(scalar(t, f, text))
					continue
				}
				fill(t, m.Mutable(f).List().AppendMutable().Message(), text)
			}
		case f.Message() != nil:
			fill(t, m.Mutable(f).Message(), text)
		default:
			m.Set(f, scalar(t, f, text))
		}
	}
	if rapid.IntRange(0, 5).Draw(t, "unknown") == 0 {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
	}
}

func scalar(t *rapid.T, f protoreflect.FieldDescriptor, text *rapid.Generator[string]) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(text.Draw(t, "text"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(rapid.Uint64().Draw(t, "uint64"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32().Draw(t, "enum")))
	}
	t.Fatalf("%v is of a kind that the messages did not have: add it here", f.FullName())
	return protoreflect.Value{}
}

var anyText = rapid.OneOf(rapid.String(), rapid.Just(""), rapid.Map(rapid.IntRange(4000, 5000), func(n int) string { return strings.Repeat("x", n) }))

func TestSameAsTheStandardCodec(t *testing.T) {
	ours, theirs := New(), encoding.GetCodecV2(standard.Name)
	for _, kind := range every() {
		name := kind.ProtoReflect().Descriptor().Name()
		t.Run(string(name), rapid.MakeCheck(func(t *rapid.T) {
			m := kind.ProtoReflect().New()
			text := anyText
			if rapid.IntRange(0, 3).Draw(t, "bad text") == 0 {
				text = rapid.OneOf(anyText, rapid.Just("a\xffb"), rapid.Just("\xed\xa0\x80"))
			}
			fill(t, m, text)
			a, errA := ours.Marshal(m.Interface())
			b, errB := theirs.Marshal(m.Interface())
			sameError(t, "encoding", errA, errB)
			if errA == nil {
				for _, wire := range []mem.BufferSlice{a, b} {
					sameDecoding(t, kind, wire.Materialize())
				}
				appended, err := Append([]byte("before"), m.Interface())
				if err != nil || len(appended) != len("before")+a.Len() || string(appended[:6]) != "before" {
					t.Fatalf("Append gives %d bytes, %v", len(appended), err)
				}
				sameDecoding(t, kind, appended[6:])
			}
			// What no encoder of ours made: bad text, repeated, changed, cut off.
			wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m.Interface())
			if err != nil {
				wire = a.Materialize()
			}
			sameDecoding(t, kind, append(wire[:len(wire):len(wire)], wire...))
			if len(wire) > 0 {
				wire[rapid.IntRange(0, len(wire)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
				safeDecoding(t, kind, wire[:rapid.IntRange(0, len(wire)).Draw(t, "cut")])
			}
			safeDecoding(t, kind, rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "noise"))
		}))
	}
}

// sameDecoding is for what encoders send.
func sameDecoding(t *rapid.T, kind proto.Message, wire []byte) {
	a, errA, b, errB := decodings(kind, wire)
	sameError(t, "decoding", errA, errB)
	if errA == nil && !proto.Equal(a, b) {
		t.Fatalf("%.100x decodes to\n%.400v, the standard codec has\n%.400v", wire, a, b)
	}
}

// safeDecoding is for what no encoder sends: of that more may be accepted, but nothing that is no message.
func safeDecoding(t *rapid.T, kind proto.Message, wire []byte) {
	a, errA, b, errB := decodings(kind, wire)
	switch {
	case errA != nil:
		sameError(t, "decoding", errA, errB)
	case errB == nil:
		for _, m := range []proto.Message{a, b} {
			discardUnknown(m.ProtoReflect(), false)
		}
		if !proto.Equal(a, b) {
			t.Fatalf("%.100x decodes to\n%.400v, the standard codec has\n%.400v", wire, a, b)
		}
	}
	if errA == nil {
		if _, err := proto.Marshal(a); err != nil {
			t.Fatalf("%.100x decodes to what cannot be encoded: %v", wire, err)
		}
	}
}

func decodings(kind proto.Message, wire []byte) (ours proto.Message, errA error, theirs proto.Message, errB error) {
	a, b := kind.ProtoReflect().New().Interface(), kind.ProtoReflect().New().Interface()
	sent := append([]byte(nil), wire...)
	errA = New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(sent)}, a)
	clear(sent) // gRPC uses its buffers again
	errB = encoding.GetCodecV2(standard.Name).Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, b)
	discardUnknown(a.ProtoReflect(), true)
	discardUnknown(b.ProtoReflect(), true)
	return a, errA, b, errB
}

// discardUnknown forgets the unknown fields, or only those of durations and timestamps, which will never have more.
func discardUnknown(m protoreflect.Message, wellKnown bool) {
	if !wellKnown || m.Descriptor().ParentFile().Package() == "google.protobuf" && m.Descriptor().Name() != "Empty" {
		m.SetUnknown(nil)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				discardUnknown(v.List().Get(i).Message(), wellKnown)
			}
		default:
			discardUnknown(v.Message(), wellKnown)
		}
		return true
	})
}

func sameError(t *rapid.T, doing string, ours, theirs error) {
	if (ours == nil) != (theirs == nil) || ours != nil && ours.Error() != theirs.Error() {
		t.Fatalf("%s: error is %v, the standard codec's is %v", doing, ours, theirs)
	}
}

// Every string is checked, wherever it stands.
func TestEveryStringIsChecked(t *testing.T) {
	ours := New()
	for _, kind := range every() {
		paths := 0
		eachString(kind.ProtoReflect().Type(), func(where string, m proto.Message) {
			paths++
			if _, err := ours.Marshal(m); err == nil {
				t.Errorf("%s: bad text is encoded", where)
			}
			if h, ok := m.(hot); ok {
				size := h.SizeVT()
				wire := make([]byte, size)
				if _, err := h.MarshalToSizedBufferVT(wire); err != nil {
					t.Fatal(err)
				}
				if err := ours.Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, kind.ProtoReflect().New().Interface()); err == nil {
					t.Errorf("%s: bad text is decoded", where)
				}
			}
		})
		t.Logf("%s: %d strings", kind.ProtoReflect().Descriptor().Name(), paths)
	}
}

// eachString calls f with a message for each place of a string in it, which alone is set, to bad text.
func eachString(kind protoreflect.MessageType, f func(where string, m proto.Message)) {
	const bad = "\xff"
	var walk func(d protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor)
	walk = func(d protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor) {
		for i := range d.Fields().Len() {
			field := d.Fields().Get(i)
			at := append(path[:len(path):len(path)], field)
			set := func(how func(m protoreflect.Message)) {
				root := kind.New()
				m, where := root, string(d.Name())
				for _, step := range path {
					if where += "." + string(step.Name()); step.IsList() {
						m = m.Mutable(step).List().AppendMutable().Message()
					} else {
						m = m.Mutable(step).Message()
					}
				}
				how(m)
				f(where+"."+string(field.Name()), root.Interface())
			}
			switch {
			case field.IsMap():
				value := protoreflect.ValueOfInt64(1)
				if field.MapValue().Kind() == protoreflect.StringKind {
					value = protoreflect.ValueOfString("v")
					set(func(m protoreflect.Message) {
						m.Mutable(field).Map().Set(protoreflect.ValueOfString("k").MapKey(), protoreflect.ValueOfString(bad))
					})
				}
				set(func(m protoreflect.Message) {
					m.Mutable(field).Map().Set(protoreflect.ValueOfString(bad).MapKey(), value)
				})
			case field.Message() != nil:
				walk(field.Message(), at)
			case field.Kind() != protoreflect.StringKind:
			case field.IsList():
				set(func(m protoreflect.Message) { m.Mutable(field).List().Append(protoreflect.ValueOfString(bad)) })
			default:
				set(func(m protoreflect.Message) { m.Set(field, protoreflect.ValueOfString(bad)) })
			}
		}
	}
	walk(kind.Descriptor(), nil)
}

func TestCanonicalEncodingsOfEqualMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, kind := range []proto.Message{
			&chartergatev1.ReserveRequest{}, &chartergatev1.SettleRequest{}, &chartergatev1.ReleaseRequest{}, &chartergatev1.ExtendRequest{},
		} {
			m := kind.ProtoReflect().New()
			fill(t, m, rapid.String())
			first, err := AppendCanonical(nil, m.Interface())
			if err != nil {
				t.Fatal(err)
			}
			for range 8 { // maps come in another order each time
				again, err := AppendCanonical(nil, proto.Clone(m.Interface()))
				if err != nil || string(again) != string(first) {
					t.Fatalf("%x, then %x (%v)", first, again, err)
				}
			}
		}
	})
}

func TestResultsAreASessionResponse(t *testing.T) {
	want := &chartergatev1.SessionResponse{Results: []*chartergatev1.SessionResult{
		{Id: 0, Result: &chartergatev1.SessionResult_Release{Release: &chartergatev1.ReleaseResponse{ReleasedNanos: 7}}},
		{Id: 1 << 40, Result: &chartergatev1.SessionResult_Reserve{Reserve: &chartergatev1.ReserveResponse{Hold: &chartergatev1.Hold{Token: strings.Repeat("t", 300)}}}},
		{Id: 3, Result: &chartergatev1.SessionResult_Error{Error: &chartergatev1.SessionError{}}},
	}}
	var wire []byte
	for _, r := range want.Results {
		var inner proto.Message
		var field protowire.Number
		r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if f.Message() != nil {
				inner, field = v.Message().Interface(), f.Number()
			}
			return true
		})
		answer, err := Append(nil, inner)
		if err != nil {
			t.Fatal(err)
		}
		wire = AppendResult(wire, r.Id, field, answer)
	}
	for name, message := range map[string]any{"Encoded": Encoded(wire), "Frame": Frame{mem.SliceBuffer(wire[:5]), mem.SliceBuffer(wire[5:])}} {
		sent, err := New().Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		got := new(chartergatev1.SessionResponse)
		if err := New().Unmarshal(sent, got); err != nil || !proto.Equal(got, want) {
			t.Errorf("%s arrives as %v (%v), want %v", name, got, err, want)
		}
	}
}

func BenchmarkReserve(b *testing.B) {
	for name, c := range map[string]encoding.CodecV2{"generated": New(), "standard": encoding.GetCodecV2(standard.Name)} {
		request := &chartergatev1.ReserveRequest{RequestId: "r-123456789", Call: &chartergatev1.Call{
			Feature: "support-copilot", TaskClass: "chat", User: "u-4711", Cohort: "beta", PromptPattern: "answer-v3",
			Estimate: &chartergatev1.Estimate{InputTokens: 1200, CachedInputTokens: 800, MaxOutputTokens: 400},
		}}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				wire, err := c.Marshal(request)
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Unmarshal(wire, new(chartergatev1.ReserveRequest)); err != nil {
					b.Fatal(err)
				}
				wire.Free()
			}
		})
	}
}
