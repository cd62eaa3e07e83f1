package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// Format writes a resource as a manifest that Parse reads again: bare names, money in units of the currency, short
// enums, without etag and other fields that the server sets.
func Format(r *chartergatev1.Resource) ([]byte, error) {
	m := r.ProtoReflect()
	f := m.WhichOneof(m.Descriptor().Oneofs().ByName("resource"))
	if f == nil {
		return nil, errors.New("the resource is empty")
	}
	i := slices.IndexFunc(kinds, func(k struct{ kind, field, prefix string }) bool { return k.field == string(f.Name()) })
	top, err := node(m.Get(f).Message())
	if err != nil {
		return nil, err
	}
	top.Content = append([]*yaml.Node{text("kind"), text(kinds[i].kind)}, top.Content...)
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(top); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// limit is written also when it is 0: a manifest must have it.
const limit = protoreflect.FullName("chartergate.v1.Budget.limit_nanos")

func node(m protoreflect.Message) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if !m.Has(f) && f.FullName() != limit || f.Name() == "etag" || slices.Contains(readOnly, f.FullName()) {
			continue
		}
		short, u := shortened(f)
		v, err := fieldNode(m.Get(f), f, u)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		n.Content = append(n.Content, text(short), v)
	}
	return n, nil
}

func fieldNode(v protoreflect.Value, f protoreflect.FieldDescriptor, u unit) (*yaml.Node, error) {
	switch {
	case f.IsMap():
		n := &yaml.Node{Kind: yaml.MappingNode}
		var keys []string
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
			keys = append(keys, k.String())
			return true
		})
		slices.Sort(keys)
		for _, k := range keys {
			item, err := valueNode(v.Map().Get(protoreflect.ValueOfString(k).MapKey()), f.MapValue(), u)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, text(k), item)
		}
		return n, nil
	case f.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if f.Kind() != protoreflect.MessageKind {
			n.Style = yaml.FlowStyle
		}
		for i := range v.List().Len() {
			item, err := valueNode(v.List().Get(i), f, u)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	}
	return valueNode(v, f, u)
}

func valueNode(v protoreflect.Value, f protoreflect.FieldDescriptor, u unit) (*yaml.Node, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return text(bareName(v.String(), f)), nil
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v.Bool())}, nil
	case protoreflect.Int64Kind, protoreflect.Int32Kind:
		switch u {
		case currency:
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: money.Nanos(v.Int()).String()}, nil
		case permille:
			return text(percentage(v.Int(), 10)), nil
		case ppm:
			return text(percentage(v.Int(), 10_000)), nil
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.FormatInt(v.Int(), 10)}, nil
	case protoreflect.EnumKind:
		e := f.Enum().Values().ByNumber(v.Enum())
		if e == nil {
			return nil, fmt.Errorf("unknown value %d of %s", v.Enum(), f.Enum().Name())
		}
		return text(shortEnum(e)), nil
	case protoreflect.MessageKind:
		switch m := v.Message().Interface().(type) {
		case *durationpb.Duration:
			return text(shortDuration(m.AsDuration())), nil
		case *timestamppb.Timestamp:
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!timestamp", Value: shortTime(m.AsTime())}, nil
		}
		return node(v.Message())
	}
	return nil, fmt.Errorf("fields of type %v cannot be written in a manifest", f.Kind())
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// percentage writes a share of which one per cent is `one`, such as `12.5%`.
func percentage(n, one int64) string {
	s := money.Nanos(n * (int64(money.Unit) / one)).String()
	return strings.TrimRight(strings.TrimRight(s, "0"), ".") + "%"
}

// bareName takes the prefix off a resource's name or reference.
func bareName(s string, f protoreflect.FieldDescriptor) string {
	if _, bare, ok := strings.Cut(s, "/"); ok {
		if full, err := resourceName(bare, f); err == nil && full == s {
			return bare
		}
	}
	return s
}

func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func shortTime(t time.Time) string {
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.UTC().Format(time.DateOnly)
	}
	return t.UTC().Format(time.RFC3339Nano)
}
