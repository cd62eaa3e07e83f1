package billing

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"unicode"

	"golang.org/x/text/encoding/charmap"
	textunicode "golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"

	"github.com/chartergate/chartergate/core/bill"
)

// table is a file of records with named columns, whatever its form.
type table interface {
	// names are the columns as the file has them. JSON: those of the first record.
	names() []string
	// column gives the index in a record of the first of some columns that the file has, by the names that fold makes;
	// -1 if it has none. JSON: of the last, as a record may have any.
	column(folded ...string) int
	// place gives the index in a record of a column by its place in names.
	place(i int) int
	// next gives the next record, which is valid until the call after, or io.EOF. A *RowError is of one record only.
	next() ([]string, error)
	// line is where the last record began: a line of the text, or a row of Parquet, from 1.
	line() int64
}

// fold makes a column's name comparable: `lineItem/UnblendedCost` and `line_item_unblended_cost` are the same.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// header is the columns of a table with a fixed header.
type header struct {
	raw   []string
	index map[string]int
}

func newHeader(raw []string) (header, error) {
	h := header{raw: raw, index: make(map[string]int, len(raw))}
	var twice error
	for i, name := range raw {
		f := fold(name)
		if f == "" {
			continue
		}
		if before, ok := h.index[f]; ok && raw[before] == name {
			twice = fmt.Errorf("column %s is there twice, as columns %d and %d: export it once", quote(name), before+1, i+1)
		} else if !ok {
			h.index[f] = i
		}
	}
	return h, twice
}

func (h *header) names() []string { return h.raw }

func (h *header) place(i int) int { return i }

func (h *header) column(folded ...string) int {
	for _, f := range folded {
		if i, ok := h.index[f]; ok {
			return i
		}
	}
	return -1
}

// RowError is what is wrong with one record. The others can be read.
type RowError struct {
	Line   int64
	Column string // empty: the record as a whole
	Reason string // the kind of fault, the same for all records that have it
	Detail string
}

func (e *RowError) Error() string {
	at := fmt.Sprintf("line %d", e.Line)
	if e.Column != "" {
		at += ", column " + e.Column
	}
	return at + ": " + e.Detail
}

// File is an open bill.
type File struct {
	f     *os.File
	name  string
	size  int64
	read  atomic.Int64
	table table
	parse func([]string, *bill.Line) error
	label string
	rows  int64
	r     *reader

	// Absent are columns that the file should have and does not: what they say is not known.
	Absent []string
}

// Encodings of Options.
const (
	UTF8    = "utf-8"
	UTF16   = "utf-16"
	Windows = "windows-1252"
)

// ErrEmpty says that a file has no records.
var ErrEmpty = errors.New("the file is empty: there is nothing to import")

func open(path, encoding string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	file := &File{f: f, name: path}
	if err := file.start(encoding); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

func (f *File) start(encoding string) error {
	info, err := f.f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("is a directory: name its files")
	}
	if f.size = info.Size(); f.size == 0 {
		return ErrEmpty
	}
	head := make([]byte, 4)
	if n, err := f.f.ReadAt(head, 0); n < len(head) && !errors.Is(err, io.EOF) {
		return err
	}
	if string(head) == "PAR1" {
		f.table, err = newParquet(f.f, f.size, &f.read)
		return err
	}
	var r io.Reader = &counted{f.f, &f.read}
	if head[0] == 0x1f && head[1] == 0x8b {
		if r, err = gzip.NewReader(bufio.NewReaderSize(r, 1<<18)); err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
	} else if string(head) == "PK\x03\x04" {
		return errors.New("is a zip file: unpack it first")
	}
	b := bufio.NewReaderSize(r, 1<<18)
	text, err := decode(b, encoding)
	if err != nil {
		return err
	}
	first, err := firstByte(text)
	if err != nil {
		return err
	}
	switch first {
	case '{':
		f.table, err = newJSONLines(text)
	case '[':
		err = errors.New("is a JSON array: export JSON lines, one object a line")
	default:
		f.table, err = newCSV(text)
	}
	return err
}

// Close closes the file.
func (f *File) Close() error {
	if c, ok := f.table.(io.Closer); ok {
		return errors.Join(c.Close(), f.f.Close())
	}
	return f.f.Close()
}

type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// decode turns the text into UTF-8, without a byte order mark.
func decode(b *bufio.Reader, encoding string) (*bufio.Reader, error) {
	head, err := b.Peek(4096)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")), encoding == UTF16:
		d := textunicode.UTF16(textunicode.LittleEndian, textunicode.UseBOM).NewDecoder()
		return bufio.NewReaderSize(transform.NewReader(b, d), 1<<18), nil
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, err := b.Discard(3)
		return b, err
	case encoding == Windows:
		return bufio.NewReaderSize(transform.NewReader(b, charmap.Windows1252.NewDecoder()), 1<<18), nil
	case encoding != "" && encoding != UTF8:
		return nil, fmt.Errorf("encoding %q is not known: use %s, %s or %s", encoding, UTF8, UTF16, Windows)
	}
	if i := bytes.IndexByte(head, 0); i >= 0 {
		if nuls := bytes.Count(head, []byte{0}); nuls*3 > len(head) {
			return nil, errors.New("looks like UTF-16 without a byte order mark: convert it to UTF-8, or say --encoding utf-16 if it is little endian")
		}
		return nil, fmt.Errorf("has a NUL byte at offset %d: it is neither text nor Parquet nor gzip", i)
	}
	return b, nil
}

func firstByte(b *bufio.Reader) (byte, error) {
	for n := 1; n <= 1<<16; n++ {
		head, err := b.Peek(n)
		if len(head) < n {
			if errors.Is(err, io.EOF) {
				return 0, ErrEmpty
			}
			return 0, err
		}
		if c := head[n-1]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, nil
		}
	}
	return 0, errors.New("begins with 64 KiB of white space")
}
