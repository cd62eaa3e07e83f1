package usage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// maxDepth is how deep objects and arrays of a payload nest at most.
const maxDepth = 64

// node is a value of a payload. Of an array it keeps the objects only: no vendor counts in bare numbers.
type node struct {
	key  string
	raw  []byte // as it stands
	kids []node
	read bool
}

func (n *node) is(kind byte) bool { return n != nil && n.raw[0] == kind }

// find gives a field, nil where it is absent or null. Of a repeated field, the last counts, as in encoding/json.
func (n *node) find(key string) *node {
	if !n.is('{') {
		return nil
	}
	for i := len(n.kids) - 1; i >= 0; i-- {
		if k := &n.kids[i]; k.key == key {
			if k.is('n') {
				return nil
			}
			return k
		}
	}
	return nil
}

func (n *node) at(path ...string) *node {
	for _, key := range path {
		n = n.find(key)
	}
	return n
}

func (n *node) text() string {
	if !n.is('"') {
		return ""
	}
	return unquote(n.raw)
}

func (n *node) keys() []string {
	keys := make([]string, 0, len(n.kids))
	for i := range n.kids {
		keys = append(keys, n.kids[i].key)
	}
	return keys
}

func unquote(raw []byte) string {
	if !bytes.ContainsRune(raw, '\\') {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s) // the payload is valid JSON
	return s
}

// parse reads one JSON object.
func parse(raw []byte) (*node, error) {
	if !json.Valid(raw) {
		var any json.RawMessage
		return nil, invalid("", "is not JSON: %v", json.Unmarshal(raw, &any))
	}
	p := parser{rest: raw}
	n := p.value(0)
	if p.deep {
		return nil, invalid("", "nests more than %d deep", maxDepth)
	}
	if !n.is('{') {
		return nil, invalid("", "is %s, not an object", kindName(&n))
	}
	return &n, nil
}

// parser reads valid JSON.
type parser struct {
	rest []byte
	deep bool
}

func (p *parser) space() {
	for len(p.rest) > 0 && (p.rest[0] == ' ' || p.rest[0] == '\n' || p.rest[0] == '\t' || p.rest[0] == '\r') {
		p.rest = p.rest[1:]
	}
}

func (p *parser) value(depth int) (n node) {
	p.space()
	start := p.rest
	switch start[0] {
	case '{', '[':
		p.deep = p.deep || depth == maxDepth
		if p.deep {
			p.rest = nil
			return node{raw: start}
		}
		n.kids = p.children(start[0], depth)
	case '"':
		p.str()
	default:
		end := bytes.IndexAny(start, ",]} \n\t\r")
		if end < 0 {
			end = len(start)
		}
		p.rest = start[end:]
	}
	n.raw = start[:len(start)-len(p.rest)]
	return n
}

func (p *parser) children(kind byte, depth int) (kids []node) {
	p.rest = p.rest[1:]
	for {
		p.space()
		if p.deep || p.rest[0] == '}' || p.rest[0] == ']' {
			break
		}
		if p.rest[0] == ',' {
			p.rest = p.rest[1:]
			continue
		}
		key := ""
		if kind == '{' {
			key = unquote(p.str())
			p.space()
			p.rest = p.rest[1:] // the colon
		}
		kid := p.value(depth + 1)
		if kid.key = key; kind == '{' || kid.is('{') {
			if kids == nil {
				kids = make([]node, 0, 8)
			}
			kids = append(kids, kid)
		}
	}
	if len(p.rest) > 0 {
		p.rest = p.rest[1:]
	}
	return kids
}

func (p *parser) str() []byte {
	for i := 1; ; i++ {
		switch p.rest[i] {
		case '\\':
			i++
		case '"':
			s := p.rest[:i+1]
			p.rest = p.rest[i+1:]
			return s
		}
	}
}

func kindName(n *node) string {
	switch n.raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// object reads fields of a payload, marks them as read, and keeps the first error.
type object struct {
	*node
	path string
	err  *error
}

func (o object) fail(field, problem string, args ...any) {
	if *o.err == nil {
		*o.err = invalid(join(o.path, field), problem, args...)
	}
}

func join(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	return path + "." + field
}

func (o object) has(key string) bool { return o.find(key) != nil }

func (o object) take(key string) *node {
	n := o.find(key)
	if n != nil {
		n.read = true
	}
	return n
}

// object gives an object inside; one that is absent has no fields.
func (o object) object(keys ...string) object {
	in := object{err: o.err}
	for _, key := range keys {
		n := o.take(key)
		if n == nil || in.node != nil {
			continue
		}
		if !n.is('{') {
			o.fail(key, "is %s, not an object", kindName(n))
			continue
		}
		in.node, in.path = n, join(o.path, key)
	}
	return in
}

// list gives the objects in a list.
func (o object) list(keys ...string) (list []object) {
	for _, key := range keys {
		n := o.take(key)
		if n == nil || list != nil {
			continue
		}
		if !n.is('[') {
			o.fail(key, "is %s, not a list", kindName(n))
			continue
		}
		for i := range n.kids {
			list = append(list, object{&n.kids[i], fmt.Sprintf("%s[%d]", join(o.path, key), i), o.err})
		}
	}
	return list
}

// count gives the first of some fields that is there: 0 where none is.
func (o object) count(keys ...string) int64 {
	var count int64
	found := false
	for _, key := range keys {
		n := o.take(key)
		if n == nil {
			continue
		}
		if c := o.number(key, n); !found {
			count, found = c, true
		}
	}
	return count
}

func (o object) number(key string, n *node) int64 {
	text := string(n.raw)
	switch n.raw[0] {
	case '"', '{', '[', 't', 'f':
		o.fail(key, "is %s, not a count", kindName(n))
		return 0
	}
	count, err := strconv.ParseInt(text, 10, 64)
	if err != nil { // some write 12.0 for 12
		if whole, fraction, _ := strings.Cut(text, "."); strings.Trim(fraction, "0") == "" {
			count, err = strconv.ParseInt(whole, 10, 64)
		}
	}
	switch {
	case err == nil && count >= 0 && count <= MaxTokens:
		return count
	case text[0] == '-':
		o.fail(key, "is %.40s, a count is not negative", text)
	case err != nil && strings.ContainsAny(text, ".eE"):
		o.fail(key, "is %.40s, a count is a whole number", text)
	default:
		o.fail(key, "is %.40s, more than the %d that are believed", text, int64(MaxTokens))
	}
	return 0
}

func (o object) str(key string) string { return o.take(key).text() }

// unread lists the fields below a node that were not read.
func (n *node) unread(path string, list []string) []string {
	for i := range n.kids {
		k := &n.kids[i]
		name := join(path, k.key)
		if n.is('[') {
			name = fmt.Sprintf("%s[%d]", path, i)
		}
		switch {
		case n.is('{') && !k.read:
			list = append(list, name)
		case len(k.kids) > 0:
			list = k.unread(name, list)
		}
	}
	return list
}
