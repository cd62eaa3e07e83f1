package manifest

import (
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// unit says how a number is written.
type unit int

const (
	plain    unit = iota
	currency      // whole units of the currency, for nanos
	permille      // per cent, for per mille
	ppm           // per cent, for parts per million
)

// units are the endings of field names that a manifest may leave out by writing the value in another unit.
var units = []struct {
	suffix string
	unit   unit
}{{"_nanos", currency}, {"_permille", permille}, {"_ppm", ppm}}

// field is a field as a key names it.
type field struct {
	protoreflect.FieldDescriptor
	unit unit
}

// shortened is a field's name without its unit's ending, and the unit to write it in then.
func shortened(f protoreflect.FieldDescriptor) (string, unit) {
	number := f
	if f.IsMap() {
		number = f.MapValue()
	}
	if k := number.Kind(); k != protoreflect.Int64Kind && k != protoreflect.Int32Kind {
		return string(f.Name()), plain
	}
	for _, u := range units {
		if short, ok := strings.CutSuffix(string(f.Name()), u.suffix); ok {
			return short, u.unit
		}
	}
	return string(f.Name()), plain
}

// fieldsOf gives the fields of a message by every key that a manifest may use.
func (d *decoder) fieldsOf(m protoreflect.MessageDescriptor) map[string]field {
	if known, ok := d.fields[m.FullName()]; ok {
		return known
	}
	fields := map[string]field{}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		short, u := shortened(f)
		fields[short], fields[camel(short)] = field{f, u}, field{f, u}
		fields[string(f.Name())], fields[f.JSONName()] = field{f, plain}, field{f, plain}
	}
	if d.fields == nil {
		d.fields = map[protoreflect.FullName]map[string]field{}
	}
	d.fields[m.FullName()] = fields
	return fields
}

func camel(snake string) string {
	var b strings.Builder
	upper := false
	for _, r := range snake {
		switch {
		case r == '_':
			upper = true
		case upper:
			b.WriteRune(unicode.ToUpper(r))
			upper = false
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// didYouMean suggests the known word that is nearest to one that is not known, if one is near.
func didYouMean(word string, known []string) string {
	slices.Sort(known)
	best, at := "", min(len(word)/2, 4)+1
	for _, k := range known {
		if n := distance(strings.ToLower(word), strings.ToLower(k)); n < at {
			best, at = k, n
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of characters to insert, delete or replace to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// list joins words as a sentence does.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
