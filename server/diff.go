package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// maxValue is the most characters of a value in a FieldChange; a longer one ends in `…`.
const maxValue = 80

// diff tells every field by which two messages of a resource differ, without those that the server sets. Entries of a
// map and elements of a list of messages are told one by one, the latter by their id where they have one.
func diff(from, to proto.Message) []*chartergatev1.FieldChange {
	var d differ
	d.message("", from.ProtoReflect(), to.ProtoReflect())
	return d.changes
}

type differ struct{ changes []*chartergatev1.FieldChange }

func (d *differ) add(path, from, to string) {
	d.changes = append(d.changes, &chartergatev1.FieldChange{Path: path, OldValue: clip(from), NewValue: clip(to)})
}

func (d *differ) message(path string, from, to protoreflect.Message) {
	fields := to.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if path == "" && serverSet[f.Name()] || !from.Has(f) && !to.Has(f) {
			continue
		}
		at := string(f.Name())
		if path != "" {
			at = path + "." + at
		}
		a, b := from.Get(f), to.Get(f)
		switch {
		case from.Has(f) && to.Has(f) && a.Equal(b):
		case f.IsMap():
			d.entries(at, f, a.Map(), b.Map())
		case f.IsList() && f.Message() != nil:
			d.elements(at, a.List(), b.List())
		case f.IsList():
			d.add(at, jsonList(f, a.List()), jsonList(f, b.List()))
		case f.Message() != nil && from.Has(f) && to.Has(f) && !wellKnown(f.Message()):
			d.message(at, a.Message(), b.Message())
		default:
			d.add(at, jsonField(f, from), jsonField(f, to))
		}
	}
}

func (d *differ) entries(path string, f protoreflect.FieldDescriptor, from, to protoreflect.Map) {
	keys := map[string]protoreflect.MapKey{}
	collect := func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys[k.String()] = k; return true }
	from.Range(collect)
	to.Range(collect)
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		k := keys[name]
		if from.Has(k) && to.Has(k) && from.Get(k).Equal(to.Get(k)) {
			continue
		}
		value := func(m protoreflect.Map) string {
			if !m.Has(k) {
				return ""
			}
			return jsonValue(f.MapValue(), m.Get(k))
		}
		d.add(fmt.Sprintf("%s[%q]", path, name), value(from), value(to))
	}
}

func (d *differ) elements(path string, from, to protoreflect.List) {
	a, aOrder := keyed(from)
	b, bOrder := keyed(to)
	for _, key := range bOrder {
		at := path + "[" + key + "]"
		if old, ok := a[key]; ok {
			d.message(at, old, b[key])
		} else {
			d.add(at, "", jsonMessage(b[key]))
		}
	}
	kept := func(of map[string]protoreflect.Message) func(string) bool {
		return func(key string) bool { _, ok := of[key]; return !ok }
	}
	for _, key := range aOrder {
		if _, ok := b[key]; !ok {
			d.add(path+"["+key+"]", jsonMessage(a[key]), "")
		}
	}
	before, after := slices.DeleteFunc(aOrder, kept(b)), slices.DeleteFunc(bOrder, kept(a))
	if !slices.Equal(before, after) { // the order says which tier is cheaper, and which model is preferred
		d.add(path, "["+strings.Join(before, ",")+"]", "["+strings.Join(after, ",")+"]")
	}
}

// keyed gives the elements of a list by what identifies them: an id, a model and a time, or the place in the list.
func keyed(l protoreflect.List) (map[string]protoreflect.Message, []string) {
	byKey, order := make(map[string]protoreflect.Message, l.Len()), make([]string, l.Len())
	for i := range l.Len() {
		m := l.Get(i).Message()
		fields := m.Descriptor().Fields()
		key := strconv.Itoa(i)
		if id := fields.ByName("id"); id != nil {
			key = strconv.Quote(m.Get(id).String())
		} else if model, from := fields.ByName("model"), fields.ByName("effective_time"); model != nil && from != nil {
			key = strconv.Quote(m.Get(model).String() + " " + strings.Trim(jsonField(from, m), `"`))
		}
		if _, twice := byKey[key]; twice {
			key += "#" + strconv.Itoa(i)
		}
		byKey[key], order[i] = m, key
	}
	return byKey, order
}

func wellKnown(m protoreflect.MessageDescriptor) bool {
	return m.ParentFile().Package() == "google.protobuf"
}

func jsonField(f protoreflect.FieldDescriptor, m protoreflect.Message) string {
	if !m.Has(f) {
		return ""
	}
	return jsonValue(f, m.Get(f))
}

func jsonList(f protoreflect.FieldDescriptor, l protoreflect.List) string {
	if l.Len() == 0 {
		return ""
	}
	parts := make([]string, l.Len())
	for i := range parts {
		parts[i] = jsonValue(f, l.Get(i))
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// jsonValue writes numbers as numbers: they are for people to read.
func jsonValue(f protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return jsonMessage(v.Message())
	case protoreflect.StringKind:
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v.String()); err != nil {
			return strconv.Quote(v.String())
		}
		return strings.TrimSuffix(out.String(), "\n")
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return strconv.Quote(string(e.Name()))
		}
		return strconv.Itoa(int(v.Enum()))
	}
	return v.String()
}

func jsonMessage(m protoreflect.Message) string {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Interface())
	if err != nil {
		return ""
	}
	var out bytes.Buffer
	if json.Compact(&out, b) != nil { // protojson varies its spaces
		return string(b)
	}
	return out.String()
}

func clip(s string) string {
	if utf8.RuneCountInString(s) <= maxValue {
		return s
	}
	return string([]rune(s)[:maxValue-1]) + "…"
}
