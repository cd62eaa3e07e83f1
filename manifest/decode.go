package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	chartergatev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

const (
	maxProblems = 20
	maxNodes    = 250_000 // with what anchors expand to
	maxMerges   = 8       // merge keys within merge keys
)

// kinds says what may stand in a manifest: the field of Resource and the prefix of names.
var kinds = []struct{ kind, field, prefix string }{
	{"Charter", "charter", "charters/"},
	{"Budget", "budget", "budgets/"},
	{"Catalog", "catalog", ""},
	{"PriceBook", "price_book", "priceBooks/"},
	{"Policy", "policy", "policies/"},
}

// references are the fields that name a budget.
var references = []protoreflect.FullName{"chartergate.v1.Charter.budget", "chartergate.v1.Budget.parent"}

// readOnly are the fields that the server sets and a manifest cannot.
var readOnly = []protoreflect.FullName{
	"chartergate.v1.Charter.create_time", "chartergate.v1.Charter.update_time",
	"chartergate.v1.Budget.create_time", "chartergate.v1.Budget.update_time",
	"chartergate.v1.Catalog.update_time",
	"chartergate.v1.PriceBook.create_time", "chartergate.v1.PriceBook.update_time",
	"chartergate.v1.Price.price_book", "chartergate.v1.Price.currency", "chartergate.v1.Price.revision",
	"chartergate.v1.Price.token_factor", "chartergate.v1.Price.factor", "chartergate.v1.PriceVariant.token_factor",
	"chartergate.v1.Policy.update_time", "chartergate.v1.Policy.earlier_revisions",
	"chartergate.v1.Policy.shadow_revision", "chartergate.v1.Policy.shadow_ppm",
}

// patterns says in words what the patterns of the API ask for.
var patterns = map[string]string{
	"^[A-Z]{3}$":                            "a three-letter ISO 4217 code, such as USD",
	"^[a-z][a-z0-9-]{0,62}$":                "an id: 1 to 63 of a-z, 0-9 and -, starting with a letter",
	"^charters/[a-z][a-z0-9-]{0,62}$":       "the name of a charter: charters/ID, or the ID alone",
	"^budgets/[a-z][a-z0-9-]{0,62}$":        "the name of a budget: budgets/ID, or the ID alone",
	"^priceBooks/[a-z][a-z0-9-]{0,62}$":     "the name of a price book: priceBooks/ID, or the ID alone",
	"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$": "a model: 1 to 128 of letters, digits and . _ : / @ -, starting with a letter or digit",
}

// decoder turns the nodes of one file into messages and collects what is wrong.
type decoder struct {
	file     string
	problems []error
	nodes    int
	// Of the resource at hand: where each field was written, by its path in the message.
	written map[string]written
	fields  map[protoreflect.FullName]map[string]field
}

type written struct {
	node *yaml.Node
	path string // as written
}

// path is a place in a resource: as the message has it, and as the manifest has it.
type path struct{ proto, written string }

func (p path) field(proto, written string) path {
	if p.proto != "" {
		proto, written = p.proto+"."+proto, p.written+"."+written
	}
	return path{proto, written}
}

func (p path) index(i any) path {
	s := fmt.Sprintf("[%v]", i)
	if k, ok := i.(string); ok {
		s = fmt.Sprintf("[%q]", k)
	}
	return path{p.proto + s, p.written + s}
}

func (d *decoder) errorf(n *yaml.Node, format string, args ...any) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, &Error{d.file, n.Line, n.Column, fmt.Sprintf(format, args...)})
	}
}

// visit follows an alias and counts the node. False when there are too many.
func (d *decoder) visit(n *yaml.Node) (*yaml.Node, bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes++
	if d.nodes == maxNodes+1 {
		d.errorf(n, "the file is too large once its anchors are expanded")
	}
	return n, d.nodes <= maxNodes
}

// resource decodes a document. Nil when there is a mistake in it.
func (d *decoder) resource(doc *yaml.Node) *chartergatev1.Resource {
	before := len(d.problems)
	doc, ok := d.visit(doc)
	if !ok {
		return nil
	}
	if doc.Kind != yaml.MappingNode {
		d.errorf(doc, "a resource is a mapping that starts with `kind: `, not %s", describe(doc))
		return nil
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.kind
	}
	var at *yaml.Node
	for i := 0; i+1 < len(doc.Content); i += 2 {
		if doc.Content[i].Value == "kind" {
			at = doc.Content[i+1]
		}
	}
	if at == nil {
		d.errorf(doc, "kind is missing: write `kind: ` with %s", list(names))
		return nil
	}
	i := slices.Index(names, at.Value)
	if i < 0 {
		d.errorf(at, "unknown kind %q: write %s%s", at.Value, list(names), didYouMean(at.Value, names))
		return nil
	}
	r := &chartergatev1.Resource{}
	m := r.ProtoReflect()
	inner := m.Mutable(m.Descriptor().Fields().ByName(protoreflect.Name(kinds[i].field))).Message()
	d.written = map[string]written{"": {node: doc}}
	d.message(doc, inner, path{})
	if kinds[i].kind == "Catalog" && !inner.Has(inner.Descriptor().Fields().ByName("name")) {
		inner.Set(inner.Descriptor().Fields().ByName("name"), protoreflect.ValueOfString("catalog"))
	}
	if len(d.problems) == before {
		if _, ok := d.written["limit_nanos"]; kinds[i].kind == "Budget" && !ok {
			d.errorf(doc, "limit is missing: write 0 to stop all spend")
		}
		d.validate(inner.Interface())
	}
	if len(d.problems) > before {
		return nil
	}
	return r
}

// validate checks the rules of the API and tells where a field that breaks one was written.
func (d *decoder) validate(m proto.Message) {
	err := protovalidate.Validate(m)
	if err == nil {
		return
	}
	invalid, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		d.errorf(d.written[""].node, "%v", err)
		return
	}
	for _, v := range invalid.Violations {
		at := protovalidate.FieldPathString(v.Proto.GetField())
		name := at
		w, ok := d.written[at]
		for ; !ok; w, ok = d.written[at] {
			at = at[:max(strings.LastIndexAny(at, ".["), 0)]
		}
		if w.path != "" && d.written[name].node != nil {
			name = w.path
		}
		problem := strings.TrimPrefix(v.Proto.GetMessage(), "value ")
		if v.Proto.GetRuleId() == "string.pattern" {
			problem = "is not " + patterns[v.RuleValue.String()]
			if patterns[v.RuleValue.String()] == "" {
				problem = "must match " + v.RuleValue.String()
			}
		}
		d.errorf(w.node, "%s %s", name, problem)
	}
}

// message sets the fields of m from a mapping.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, at path) {
	fields := d.fieldsOf(m.Descriptor())
	first := map[protoreflect.FullName]string{}
	for _, p := range d.pairs(n, 0) {
		key := p.key.Value
		if at.proto == "" && key == "kind" {
			continue
		}
		if key == "files" && m.Descriptor().FullName() == "chartergate.v1.Policy" {
			d.files(p.value, m)
			continue
		}
		f, ok := fields[key]
		if !ok {
			known := make([]string, 0, len(fields))
			for k := range fields {
				known = append(known, k)
			}
			d.errorf(p.key, "unknown field %q%s", key, didYouMean(key, known))
			continue
		}
		name := f.FullName()
		if other := first[name]; other != "" {
			d.errorf(p.key, "%s and %s are the same field: write one of them", other, key)
			continue
		}
		first[name] = key
		if slices.Contains(readOnly, name) {
			d.errorf(p.key, "%s is set by the server: leave it out", key)
			continue
		}
		d.field(p.value, m, f.FieldDescriptor, f.unit, at.field(string(f.Name()), key))
	}
}

// field sets one field of m.
func (d *decoder) field(n *yaml.Node, m protoreflect.Message, f protoreflect.FieldDescriptor, u unit, at path) {
	n, ok := d.visit(n)
	if !ok {
		return
	}
	d.written[at.proto] = written{n, at.written}
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.errorf(n, "%s has no value: write one, or leave the field out", at.written)
	case f.IsMap():
		if n.Kind != yaml.MappingNode {
			d.errorf(n, "%s is a mapping of names to values, not %s", at.written, describe(n))
			return
		}
		for _, p := range d.pairs(n, 0) {
			if v, ok := d.value(p.value, f.MapValue(), u, nil, at.index(p.key.Value)); ok {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(p.key.Value).MapKey(), v)
			}
		}
	case f.IsList():
		if n.Kind != yaml.SequenceNode {
			d.errorf(n, "%s is a list, not %s", at.written, describe(n))
			return
		}
		for i, item := range n.Content {
			if v, ok := d.value(item, f, u, m.Mutable(f).List().NewElement, at.index(i)); ok {
				m.Mutable(f).List().Append(v)
			}
		}
	default:
		if v, ok := d.value(n, f, u, func() protoreflect.Value { return m.NewField(f) }, at); ok {
			m.Set(f, v)
		}
	}
}

// value decodes one value; empty makes the message to decode into.
func (d *decoder) value(n *yaml.Node, f protoreflect.FieldDescriptor, u unit, empty func() protoreflect.Value, at path) (protoreflect.Value, bool) {
	n, ok := d.visit(n)
	if !ok {
		return protoreflect.Value{}, false
	}
	d.written[at.proto] = written{n, at.written}
	if f.Kind() == protoreflect.MessageKind && !isScalar(f.Message()) {
		if n.Kind != yaml.MappingNode {
			d.errorf(n, "%s is a mapping of fields, not %s", at.written, describe(n))
			return protoreflect.Value{}, false
		}
		v := empty()
		d.message(n, v.Message(), at)
		return v, true
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.errorf(n, "%s is one value, not %s", at.written, describe(n))
		return protoreflect.Value{}, false
	}
	v, err := scalar(n.Value, f, u)
	if err != nil {
		d.errorf(n, "%s: %v", at.written, err)
	}
	return v, err == nil
}

type pair struct{ key, value *yaml.Node }

// pairs gives the entries of a mapping, with those of its merge keys (`<<`) that it does not have itself. It refuses
// duplicate keys.
func (d *decoder) pairs(n *yaml.Node, depth int) []pair {
	var own, merged []pair
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, ok := d.visit(n.Content[i])
		if !ok {
			return nil
		}
		value := n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			d.errorf(key, "a key is a name, not %s", describe(key))
		case key.Tag == "!!merge":
			if depth == maxMerges {
				d.errorf(key, "merge keys are nested more than %d deep", maxMerges)
				continue
			}
			sources := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				sources = value.Content
			}
			for _, s := range sources {
				if s, ok := d.visit(s); ok && s.Kind == yaml.MappingNode {
					merged = append(merged, d.pairs(s, depth+1)...)
				} else if ok {
					d.errorf(key, "<< merges mappings, not %s", describe(s))
				}
			}
		case first[key.Value] != nil:
			d.errorf(key, "%q is there twice: first on line %d", key.Value, first[key.Value].Line)
		default:
			first[key.Value] = key
			own = append(own, pair{key, value})
		}
	}
	for _, p := range merged {
		if first[p.key.Value] == nil {
			first[p.key.Value] = p.key
			own = append(own, p)
		}
	}
	return own
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "empty"
	}
	return fmt.Sprintf("%q", n.Value)
}
