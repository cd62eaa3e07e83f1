// Package codec encodes the messages that every AI call sends with generated code, in place of reflection. On the wire
// it is gRPC's own protobuf codec, which does every other message and whatever the generated code refuses. Two differences:
// unknown fields of a Duration or Timestamp are dropped, and of malformed bytes that no encoder makes some are accepted.
package codec

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	standard "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// maxShared bounds what one string of a decoded message keeps in memory: the strings of an operation share one copy of
// it when it is at most this long, in bytes.
const maxShared = 4096

// Encoded is a message that is encoded already. Who has sent it does not change it any more.
type Encoded []byte

// Frame is a message that is encoded already, in pieces. Sending it frees it.
type Frame = mem.BufferSlice

// New is a codec for grpc.ForceCodecV2 and grpc.ForceServerCodecV2. It also sends Encoded and Frame.
func New() encoding.CodecV2 { return codec{encoding.GetCodecV2(standard.Name)} }

type codec struct{ standard encoding.CodecV2 }

// hot is what the generator makes for the messages of preflight.proto and common.proto.
type hot interface {
	proto.Message
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVTUnsafe([]byte) error
}

// Name implements encoding.CodecV2.
func (codec) Name() string { return standard.Name }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case Encoded:
		return mem.BufferSlice{mem.SliceBuffer(m)}, nil
	case Frame:
		return m, nil
	case hot:
		if !validText(m) {
			break // the standard codec says what is wrong, or knows the message better
		}
		size := m.SizeVT()
		if mem.IsBelowBufferPoolingThreshold(size) {
			b := make([]byte, size)
			_, err := m.MarshalToSizedBufferVT(b)
			return mem.BufferSlice{mem.SliceBuffer(b)}, err
		}
		pool := mem.DefaultBufferPool()
		b := pool.Get(size)
		if _, err := m.MarshalToSizedBufferVT(*b); err != nil {
			pool.Put(b)
			return nil, err
		}
		return mem.BufferSlice{mem.NewBuffer(b, pool)}, nil
	}
	return c.standard.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(hot)
	if !ok {
		return c.standard.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if decode(buf.ReadOnlyData(), m) {
		return nil
	}
	return proto.Unmarshal(buf.ReadOnlyData(), m) // which resets it, and says what is wrong
}

func decode(b []byte, m hot) bool {
	proto.Reset(m)
	switch m := m.(type) {
	case *chartergatev1.SessionRequest:
		return elements(b, func(b []byte) bool {
			op := new(chartergatev1.SessionOperation)
			m.Operations = append(m.Operations, op)
			return decodeShared(b, op)
		})
	case *chartergatev1.SessionResponse:
		return elements(b, func(b []byte) bool {
			r := new(chartergatev1.SessionResult)
			m.Results = append(m.Results, r)
			return decodeShared(b, r)
		})
	}
	return decodeShared(b, m)
}

// elements gives f each element of a message that has one field, a repeated message with number 1. False when the
// message has anything else, or f refuses.
func elements(b []byte, f func([]byte) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num != 1 || typ != protowire.BytesType {
			return false
		}
		element, used := protowire.ConsumeBytes(b[n:])
		if used < 0 || !f(element) {
			return false
		}
		b = b[n+used:]
	}
	return true
}

// decodeShared decodes a message whose strings share one copy of it. False for what the standard codec has to judge.
func decodeShared(b []byte, m hot) bool {
	if len(b) > maxShared {
		return proto.Unmarshal(b, m) == nil
	}
	shared := make([]byte, len(b))
	copy(shared, b)
	return m.UnmarshalVTUnsafe(shared) == nil && validText(m)
}

// Append appends the encoding of a message to dst.
func Append(dst []byte, m proto.Message) ([]byte, error) {
	h, ok := m.(hot)
	if !ok || !validText(h) {
		return proto.MarshalOptions{}.MarshalAppend(dst, m)
	}
	size := h.SizeVT()
	if cap(dst)-len(dst) < size {
		dst = append(make([]byte, 0, len(dst)+size), dst...)
	}
	end := len(dst) + size
	n, err := h.MarshalToSizedBufferVT(dst[len(dst):end])
	if err == nil && n != size {
		err = fmt.Errorf("%T changed while it was encoded", m)
	}
	return dst[:end], err
}

// AppendCanonical appends an encoding that equal messages of this process have in common.
func AppendCanonical(dst []byte, m proto.Message) ([]byte, error) {
	if ordered(m) {
		return Append(dst, m)
	}
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, m)
}

// ordered says that the generated code has no choice of order: maps are what it writes as they come.
func ordered(m proto.Message) bool {
	switch m := m.(type) {
	case *chartergatev1.ReserveRequest:
		return len(m.GetCall().GetLabels()) <= 1 && len(m.GetCall().GetEstimate().GetToolCalls()) <= 1
	case *chartergatev1.SettleRequest:
		return len(m.GetUsage().GetToolCalls()) <= 1
	case *chartergatev1.ReleaseRequest, *chartergatev1.ExtendRequest:
		return true
	}
	return false
}

// AppendResult appends a SessionResult to an encoded SessionResponse: its id and its answer, already encoded, in field
// number field of the oneof.
func AppendResult(dst []byte, id uint64, field protowire.Number, answer []byte) []byte {
	size := protowire.SizeTag(field) + protowire.SizeBytes(len(answer))
	if id != 0 {
		size += protowire.SizeTag(1) + protowire.SizeVarint(id)
	}
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	if id != 0 {
		dst = protowire.AppendTag(dst, 1, protowire.VarintType)
		dst = protowire.AppendVarint(dst, id)
	}
	dst = protowire.AppendTag(dst, field, protowire.BytesType)
	return protowire.AppendBytes(dst, answer)
}
