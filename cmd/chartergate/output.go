package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

var outputs = []string{"table", "json", "yaml"}

// print writes a message as JSON or YAML, or calls table.
func (c *clientFlags) print(w io.Writer, m proto.Message, table func(io.Writer)) error {
	switch c.output {
	case "json":
		return writeJSON(w, m)
	case "yaml":
		return writeYAML(w, m)
	}
	table(w)
	return nil
}

// writeJSON writes a message with the field names of the API.
func writeJSON(w io.Writer, m proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = b.WriteTo(w)
	return err
}

// writeYAML writes a message as writeJSON does, in YAML.
func writeYAML(w io.Writer, m proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	return writeAsYAML(w, data)
}

// writeAsYAML writes JSON in YAML.
func writeAsYAML(w io.Writer, data []byte) error {
	var n yaml.Node
	if err := yaml.Unmarshal(data, &n); err != nil {
		return err
	}
	unquote(&n)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	return e.Close()
}

// unquote takes the braces and quotes of JSON off; the encoder quotes what needs it.
func unquote(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, c := range n.Content {
		unquote(c)
	}
}

// writeManifests writes resources so that apply reads them again.
func writeManifests(w io.Writer, resources []*pb.Resource) error {
	for i, r := range resources {
		data, err := manifest.Format(r)
		if err != nil {
			return err
		}
		if i > 0 {
			data = append([]byte("---\n"), data...)
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// facts is a list of names and values, one a line; empty values are left out.
type facts [][2]string

func (f *facts) add(name, value string) {
	if value != "" {
		*f = append(*f, [2]string{name, value})
	}
}

func (f facts) write(w io.Writer) {
	width := 0
	for _, x := range f {
		width = max(width, utf8.RuneCountInString(x[0]))
	}
	for _, x := range f {
		fmt.Fprintf(w, "%-*s  %s\n", width, x[0], visible(x[1]))
	}
}

// visible escapes what would act on a terminal or mislead its reader: control characters, line separators, marks that
// turn the direction of text, and bytes that are not UTF-8.
func visible(s string) string {
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsControl(r), unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// exact writes an amount to the nano with its currency.
func exact(nanos int64, currency string) string {
	return money.Nanos(nanos).String() + " " + currency
}

// short is the name of an enum value for people: EFFECT_ALLOW is `allow`. Empty when it is not set.
func short(value fmt.Stringer, prefix string) string {
	s := strings.ToLower(strings.TrimPrefix(value.String(), prefix))
	if s == "unspecified" {
		return ""
	}
	return strings.ReplaceAll(s, "_", " ")
}

func bareID(name string) string { return name[strings.IndexByte(name, '/')+1:] }

// timeText writes a time to the second, in UTC.
func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04:05Z")
}

func date(t *timestamppb.Timestamp) string {
	return t.AsTime().UTC().Format(time.DateOnly)
}

func ownerText(o *pb.Owner) string {
	if o.GetEmail() == "" {
		return o.GetName()
	}
	return o.GetName() + " <" + o.GetEmail() + ">"
}
