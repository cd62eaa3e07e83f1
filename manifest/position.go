package manifest

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// position is the line and column, from 1, of an offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return bytes.Count(before, []byte{'\n'}) + 1, utf8.RuneCount(before[start:]) + 1
}

// invalidUTF8 is the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	for at := 0; at < len(data); {
		r, size := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && size == 1 {
			return at
		}
		at += size
	}
	return -1
}

// place is where the YAML library says that a mistake is. It means the block around the mistake as often as the mistake.
var place = regexp.MustCompile(`^yaml: (line \d+: )?`)

func withoutPlace(err error) string { return place.ReplaceAllString(err.Error(), "") }

// malformedWork bounds how many bytes are parsed to find a mistake.
const malformedWork = 32 << 20

// malformed finds where YAML that does not parse goes wrong: on the line after the longest run of lines that parses,
// which is where a quote or bracket that is never closed was opened.
func malformed(data []byte) (line, column int) {
	r := &byteReader{data: data}
	for d := yaml.NewDecoder(r); d.Decode(&yaml.Node{}) == nil; {
	}
	begin := bytes.LastIndexByte(data[:r.read], '\n') + 1
	for work := 0; begin > 0 && work < malformedWork; work += begin {
		if parses(data[:begin]) {
			break
		}
		begin = bytes.LastIndexByte(data[:begin-1], '\n') + 1
	}
	for begin < len(data) && (data[begin] == ' ' || data[begin] == '\t') {
		begin++
	}
	return position(data, begin)
}

func parses(data []byte) bool {
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		if err := d.Decode(&yaml.Node{}); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

// byteReader gives a byte at a time, so that it knows how far its reader came.
type byteReader struct {
	data []byte
	read int
}

func (r *byteReader) Read(p []byte) (int, error) {
	if r.read == len(r.data) {
		return 0, io.EOF
	}
	p[0] = r.data[r.read]
	r.read++
	return 1, nil
}
