package billing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/chartergate/chartergate/core/bill"
)

// Options say how to read a bill. The zero value finds out.
type Options struct {
	Format      string   // one of Formats; empty: by the columns
	Encoding    string   // of text: UTF8, UTF16 or Windows; empty: UTF8, or UTF16 by its byte order mark
	FeatureTags []string // tags that name the feature, the first that a line has counts; nil: DefaultFeatureTags
}

// Open opens a bill: CSV with a comma, semicolon, tab or |, JSON lines, either compressed with gzip, or Parquet. Errors
// name the file: ErrEmpty, ErrFormat, and what is wrong with its text.
func Open(path string, o Options) (*File, error) {
	f, err := open(path, o.Encoding)
	if err != nil {
		return nil, named(path, err)
	}
	if err := f.bind(o); err != nil {
		return nil, errors.Join(named(path, err), f.Close())
	}
	return f, nil
}

func named(path string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == path || strings.HasPrefix(err.Error(), path+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

func (f *File) bind(o Options) error {
	d, err := detect(f.table, o.Format)
	if err != nil {
		return err
	}
	r := &reader{table: f.table, tags: newTags(o.FeatureTags), ai: newClassifier()}
	if f.parse, err = d.bind(r); err != nil {
		return err
	}
	f.r = r
	f.label, f.Absent = d.label(f.table), r.absent
	return nil
}

// Format is the format and version, such as `FOCUS 1.2`.
func (f *File) Format() string { return f.label }

// Progress is how much of the file was read, and its size, in bytes.
func (f *File) Progress() (read, size int64) { return min(f.read.Load(), f.size), f.size }

// Next reads the next line into l. Errors: io.EOF; *RowError for a record that cannot be used, after which the next can
// be read; any other is of the whole file.
func (f *File) Next(l *bill.Line) error {
	record, err := f.table.next()
	if errors.Is(err, io.EOF) {
		if f.rows == 0 {
			return named(f.name, ErrEmpty)
		}
		return io.EOF
	}
	f.rows++
	if err == nil {
		*l = bill.Line{Row: f.rows}
		f.r.warning = nil
		if err = f.parse(record, l); err == nil {
			err = checkLine(l)
		}
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*RowError](err); ok {
		return err
	}
	if e, ok := errors.AsType[*fault](err); ok {
		return &RowError{Line: f.table.line(), Column: e.column, Reason: e.reason, Detail: e.detail}
	}
	return named(f.name, err)
}

// maxField is the longest value of a line's attribute, in bytes.
const maxField = 16 << 10

// checkLine refuses what databases do not take.
func checkLine(l *bill.Line) error {
	for _, c := range []struct{ name, value string }{
		{"provider", l.Provider}, {"sub-account", l.SubAccount}, {"service", l.Service}, {"SKU", l.SKU}, {"meter", l.Meter}, {"region", l.Region}, {"resource", l.Resource},
		{"resource group", l.ResourceGroup}, {"category", l.Category}, {"unit", l.Unit}, {"feature tag", l.Feature}, {"model", l.Model}, {"billing account", l.Account},
	} {
		if len(c.value) > maxField {
			return &fault{"", "too long", fmt.Sprintf("the %s has %d bytes, at most %d are kept", c.name, len(c.value), maxField)}
		}
		if strings.IndexByte(c.value, 0) >= 0 || !utf8.ValidString(c.value) {
			return &fault{"", "not text", fmt.Sprintf("the %s has a NUL byte or is not UTF-8", c.name)}
		}
	}
	if len(l.Tags) > 4*maxField {
		return &fault{"", "too long", fmt.Sprintf("the tags have %d bytes, at most %d are kept", len(l.Tags), 4*maxField)}
	}
	for _, d := range []*bill.Decimal{&l.Billed, l.List, l.Effective, &l.Credits} {
		if d != nil {
			if _, err := d.Amount(); err != nil {
				return &fault{"", "wrong number", err.Error()}
			}
		}
	}
	if _, _, ok := l.Quantity.Units(); !ok {
		return &fault{"", "wrong number", "the quantity " + quote(l.Quantity.String()) + " is too large"}
	}
	return nil
}
