package billing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/deprecated"
	"github.com/parquet-go/parquet-go/format"
)

// parquetTable reads rows of Parquet as text: numbers with all their decimals, times in RFC 3339, maps as JSON objects
// and lists as JSON lists. Structures are columns of their own, `service.id`.
type parquetTable struct {
	header
	groups []parquet.RowGroup
	rows   parquet.Rows
	batch  []parquet.Row
	filled int // rows in batch
	used   int // of them
	at     int64
	total  int64
	size   int64
	read   *atomic.Int64

	leaves   []leaf // by column index
	record   []string
	nested   []*nested // by field of record; nil for plain values
	wanted   []bool    // by field: asked for with column
	elements []int     // by column index: values in this row so far
}

// leaf is a column of values.
type leaf struct {
	field int
	name  string // inside of a list or map
	text  func(parquet.Value) string
	deep  bool // below a repeated node
}

// nested collects a list or map.
type nested struct {
	isMap   bool
	objects []map[string]string
	plain   []string
	bare    bool // a list of plain values
}

const parquetBatch = 256

func newParquet(r io.ReaderAt, size int64, read *atomic.Int64) (t *parquetTable, err error) {
	defer func() {
		if p := recover(); p != nil { // the library panics on some damaged files
			t, err = nil, fmt.Errorf("is not a valid Parquet file: %v", p)
		}
	}()
	f, err := parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true), parquet.ReadBufferSize(1<<18))
	if err != nil {
		return nil, fmt.Errorf("is not a valid Parquet file: %w", err)
	}
	t = &parquetTable{groups: f.RowGroups(), total: f.NumRows(), size: size, read: read, batch: make([]parquet.Row, parquetBatch)}
	if t.total == 0 {
		return nil, ErrEmpty
	}
	var names []string
	fields := make(map[string]int)
	for _, path := range f.Schema().Columns() {
		column, found := f.Schema().Lookup(path...)
		if !found {
			return nil, fmt.Errorf("is not a valid Parquet file: column %s has no values", strings.Join(path, "."))
		}
		at, isMap := repeated(f.Schema(), path)
		name := strings.Join(path[:at], ".")
		field, ok := fields[name]
		if !ok {
			field = len(names)
			fields[name] = field
			names = append(names, name)
			t.nested = append(t.nested, nil)
		}
		l := leaf{field: field, text: textOf(column.Node.Type()), deep: at < len(path)}
		if l.deep {
			l.name = path[len(path)-1]
			if t.nested[field] == nil {
				t.nested[field] = &nested{isMap: isMap, bare: true}
			}
			if l.name != "element" && l.name != "item" && l.name != "array" && len(path) > at+1 {
				t.nested[field].bare = false
			}
		}
		for len(t.leaves) <= column.ColumnIndex {
			t.leaves = append(t.leaves, leaf{field: -1})
		}
		t.leaves[column.ColumnIndex] = l
	}
	if len(names) > maxColumns {
		return nil, fmt.Errorf("has %d columns, at most %d are read", len(names), maxColumns)
	}
	if t.header, err = newHeader(names); err != nil {
		return nil, err
	}
	if !knownFormat(&t.header) {
		return nil, unknownFormat(names)
	}
	t.record, t.wanted = make([]string, len(names)), make([]bool, len(names))
	t.elements = make([]int, len(t.leaves))
	return t, nil
}

// repeated gives how long the path is of what is repeated, and whether that is a map. Without repetition: the whole path.
func repeated(schema parquet.Node, path []string) (int, bool) {
	node, isMap := schema, false
	for i, name := range path {
		var next parquet.Node
		for _, f := range node.Fields() {
			if f.Name() == name {
				next = f
			}
		}
		if next == nil {
			break
		}
		if next.Repeated() {
			switch name {
			case "key_value", "map", "entries":
				isMap = true
			case "list", "array", "bag":
			default:
				return i + 1, false // a repeated field without the usual wrapping
			}
			return max(i, 1), isMap
		}
		node = next
	}
	return len(path), false
}

func (t *parquetTable) column(folded ...string) int {
	i := t.header.column(folded...)
	if i >= 0 {
		t.wanted[i] = true
	}
	return i
}

func (t *parquetTable) place(i int) int {
	t.wanted[i] = true
	return i
}

func (t *parquetTable) line() int64 { return t.at }

func (t *parquetTable) Close() error {
	if t.rows != nil {
		return t.rows.Close()
	}
	return nil
}

func (t *parquetTable) next() (record []string, err error) {
	defer func() {
		if p := recover(); p != nil {
			record, err = nil, fmt.Errorf("row %d: the Parquet file is damaged: %v", t.at, p)
		}
	}()
	for t.used >= t.filled {
		if err := t.fill(); err != nil {
			return nil, err
		}
	}
	row := t.batch[t.used]
	t.used++
	t.at++
	clear(t.record)
	clear(t.elements)
	for _, n := range t.nested {
		if n != nil {
			n.objects, n.plain = n.objects[:0], n.plain[:0]
		}
	}
	for _, v := range row {
		if l := &t.leaves[v.Column()]; l.field >= 0 && t.wanted[l.field] {
			if l.deep {
				t.nested[l.field].add(l, v, t.elements[v.Column()])
				t.elements[v.Column()]++
			} else if !v.IsNull() {
				t.record[l.field] = l.text(v)
			}
		}
	}
	for i, n := range t.nested {
		if n != nil && t.wanted[i] {
			if t.record[i], err = n.json(); err != nil {
				return nil, err
			}
		}
	}
	for i, v := range t.record {
		if !utf8.ValidString(v) {
			return nil, &RowError{Line: t.at, Column: t.raw[i], Reason: "not UTF-8", Detail: quote(v) + " is not UTF-8"}
		}
	}
	return t.record, nil
}

func (t *parquetTable) fill() error {
	if t.rows == nil {
		if len(t.groups) == 0 {
			return io.EOF
		}
		t.rows, t.groups = t.groups[0].Rows(), t.groups[1:]
	}
	n, err := t.rows.ReadRows(t.batch)
	t.filled, t.used = n, 0
	t.read.Store(int64(float64(t.size) * float64(t.at) / float64(t.total)))
	if errors.Is(err, io.EOF) {
		err = t.rows.Close()
		t.rows = nil
	}
	if err != nil {
		return fmt.Errorf("row %d: %w", t.at+1, err)
	}
	return nil
}

// add takes a value of the list's or map's element at a place.
func (n *nested) add(l *leaf, v parquet.Value, place int) {
	if v.IsNull() {
		return
	}
	if n.bare {
		n.plain = append(n.plain, l.text(v))
		return
	}
	for len(n.objects) <= place {
		n.objects = append(n.objects, make(map[string]string, 2))
	}
	n.objects[place][l.name] = l.text(v)
}

func (n *nested) json() (string, error) {
	var v any
	switch {
	case n.bare && len(n.plain) > 0:
		v = n.plain
	case !n.bare && n.isMap && len(n.objects) > 0:
		m := make(map[string]string, len(n.objects))
		for _, o := range n.objects {
			if k := o["key"]; k != "" {
				m[k] = o["value"]
			}
		}
		v = m
	case !n.bare && len(n.objects) > 0:
		v = n.objects
	default:
		return "", nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// textOf gives how values of a type are written.
func textOf(typ parquet.Type) func(parquet.Value) string {
	var logical format.LogicalTypeValue
	if l := typ.LogicalType(); l != nil {
		logical = l.Value
	}
	switch l := logical.(type) {
	case *format.DecimalType:
		return func(v parquet.Value) string { return decimalOf(v, int(l.Scale)) }
	case *format.TimestampType:
		unit := l.Unit.Value.Duration()
		return func(v parquet.Value) string {
			n := v.Int64()
			return time.Unix(n/int64(time.Second/unit), n%int64(time.Second/unit)*int64(unit)).UTC().Format(time.RFC3339Nano)
		}
	case *format.DateType:
		return func(v parquet.Value) string { return time.Unix(int64(v.Int32())*86400, 0).UTC().Format(time.DateOnly) }
	}
	switch typ.Kind() {
	case parquet.Boolean:
		return func(v parquet.Value) string { return strconv.FormatBool(v.Boolean()) }
	case parquet.Int32:
		return func(v parquet.Value) string { return strconv.FormatInt(int64(v.Int32()), 10) }
	case parquet.Int64:
		return func(v parquet.Value) string { return strconv.FormatInt(v.Int64(), 10) }
	case parquet.Int96:
		return func(v parquet.Value) string { return int96Time(v.Int96()).Format(time.RFC3339Nano) }
	case parquet.Float: // the shortest decimal that is the same number
		return func(v parquet.Value) string { return strconv.FormatFloat(float64(v.Float()), 'g', -1, 32) }
	case parquet.Double:
		return func(v parquet.Value) string { return strconv.FormatFloat(v.Double(), 'g', -1, 64) }
	}
	return func(v parquet.Value) string { return string(v.ByteArray()) }
}

func decimalOf(v parquet.Value, scale int) string {
	var n *big.Int
	switch v.Kind() {
	case parquet.Int32:
		n = big.NewInt(int64(v.Int32()))
	case parquet.Int64:
		n = big.NewInt(v.Int64())
	default: // big endian, two's complement
		b := v.ByteArray()
		if n = new(big.Int).SetBytes(b); len(b) > 0 && b[0]&0x80 != 0 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(b))*8))
		}
	}
	return n.String() + "e" + strconv.Itoa(-scale)
}

// int96Time reads nanoseconds of the day and a Julian day.
func int96Time(i deprecated.Int96) time.Time {
	const unixEpoch = 2_440_588
	return time.Unix((int64(i[2])-unixEpoch)*86400, int64(uint64(i[1])<<32|uint64(i[0]))).UTC()
}
