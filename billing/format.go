package billing

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/chartergate/chartergate/core/bill"
)

// Formats of bills.
const (
	FOCUS = "focus"   // FOCUS 1.0 to 1.4, of any provider
	AWS   = "aws-cur" // cost and usage report, legacy and 2.0
	Azure = "azure"   // cost details of EA and MCA, old and new column names
	GCP   = "gcp"     // detailed usage cost export of BigQuery
)

// Formats are the names that Options.Format takes.
var Formats = []string{FOCUS, AWS, Azure, GCP}

// ErrFormat is wrapped where a file is in none of the formats, or lacks columns of its own.
var ErrFormat = errors.New("not a known bill")

// dialect reads the records of one kind of bill.
type dialect struct {
	name string
	// marks are columns that only this format has, by folded name: alternatives of each.
	marks [][]string
	// label is the version that the columns show.
	label func(table) string
	bind  func(*reader) (func(record []string, l *bill.Line) error, error)
}

var formats = []dialect{
	{FOCUS, [][]string{{"billedcost"}, {"chargeperiodstart", "billingcurrency", "effectivecost", "chargecategory"}}, focusVersion, bindFOCUS},
	{AWS, [][]string{{"lineitemunblendedcost", "lineitemusagetype"}, {"lineitemusagestartdate", "lineitemlineitemtype", "lineitemproductcode"}}, awsVersion, bindAWS},
	{Azure, [][]string{{"metercategory", "meterid", "metername"}, {"costinbillingcurrency", "cost", "extendedcost", "pretaxcost", "costinpricingcurrency", "consumedquantity", "quantity", "date"}}, azureVersion, bindAzure},
	{GCP, [][]string{{"usagestarttime"}, {"skuid", "skudescription", "serviceid", "servicedescription", "cost"}}, func(table) string { return "GCP detailed export" }, bindGCP},
}

func (f *dialect) fits(h *header) bool {
	for _, any := range f.marks {
		if !slices.ContainsFunc(any, func(name string) bool { return h.column(name) >= 0 }) {
			return false
		}
	}
	return true
}

func knownFormat(h *header) bool {
	return slices.ContainsFunc(formats, func(f dialect) bool { return f.fits(h) })
}

// unknownFormat says what the columns look like.
func unknownFormat(columns []string) error {
	shown := columns[:min(len(columns), 8)]
	if len(columns) <= 1 {
		return fmt.Errorf("%w: the header has one column, %s; the delimiter must be a comma, semicolon, tab or |", ErrFormat, quote(strings.Join(shown, "")))
	}
	names := make([]string, len(shown))
	for i, n := range shown {
		names[i] = quote(n)
	}
	return fmt.Errorf("%w: the columns are those of no FOCUS, AWS, Azure or GCP export; they begin with %s. FOCUS has at least BilledCost, BillingCurrency and ChargePeriodStart", ErrFormat, strings.Join(names, ", "))
}

// detect finds the format of a table, or takes the one that is named.
func detect(t table, name string) (*dialect, error) {
	h, err := newHeader(t.names())
	if err != nil {
		return nil, err
	}
	if name == "" {
		for i := range formats {
			if formats[i].fits(&h) {
				return &formats[i], nil
			}
		}
		return nil, unknownFormat(t.names())
	}
	name, _, _ = strings.Cut(strings.TrimSuffix(name, "-2.0"), "-1.")
	for i := range formats {
		if formats[i].name == name {
			return &formats[i], nil
		}
	}
	return nil, fmt.Errorf("format %q is not known: use %s", name, strings.Join(Formats, ", "))
}

// has says whether the file has a column.
func has(t table, folded ...string) bool {
	h, _ := newHeader(t.names())
	return h.column(folded...) >= 0
}

// reader is what the formats read records with.
type reader struct {
	table table
	tags  *tags
	dates dates
	ai    *classifier
	missing,
	absent []string // columns: that must be there, that are not known
	key     keyHash
	warning *fault // of the last record, which is kept all the same
}

// field is a column of a record, or several, of which the first with a value counts.
type field struct {
	at   []int
	name string // as people know it
}

// optional gives a column by its names, preferred ones first.
func (r *reader) optional(name string, folded ...string) field {
	f := field{name: name}
	for _, n := range append([]string{fold(name)}, folded...) {
		if i := r.table.column(n); i >= 0 && !slices.Contains(f.at, i) {
			f.at = append(f.at, i)
		}
	}
	if len(f.at) > 0 {
		for _, n := range r.table.names() {
			if x := fold(n); x == fold(name) || slices.Contains(folded, x) {
				f.name = n
				break
			}
		}
	}
	return f
}

// required is optional, and notes the column where it is missing.
func (r *reader) required(name string, folded ...string) field {
	f := r.optional(name, folded...)
	if len(f.at) == 0 {
		r.missing = append(r.missing, name)
	}
	return f
}

// expected is optional, and notes the column as unknown where it is missing.
func (r *reader) expected(name string, folded ...string) field {
	f := r.optional(name, folded...)
	if len(f.at) == 0 {
		r.absent = append(r.absent, name)
	}
	return f
}

func (f *field) there() bool { return len(f.at) > 0 }

// of gives the value in a record; null is empty.
func (f *field) of(record []string) string {
	for _, i := range f.at {
		switch v := record[i]; v {
		case "", "NULL", "null", `\N`:
		default:
			return v
		}
	}
	return ""
}

// check refuses a file without the columns that it must have.
func (r *reader) check(format string) error {
	if len(r.missing) > 0 {
		return fmt.Errorf("%w: %s needs the column %s, which the file does not have", ErrFormat, format, strings.Join(r.missing, ", "))
	}
	return nil
}

// fault is what is wrong with a value.
type fault struct {
	column, reason, detail string
}

func (e *fault) Error() string { return e.detail }

func (r *reader) decimal(f *field, record []string) (bill.Decimal, error) {
	v := f.of(record)
	if v == "" {
		return bill.Decimal{}, nil
	}
	d, err := bill.ParseDecimal(v)
	if err != nil {
		return d, &fault{f.name, "wrong number", err.Error()}
	}
	return d, nil
}

// cost reads an amount that must be there.
func (r *reader) cost(f *field, record []string) (bill.Decimal, error) {
	if f.of(record) == "" {
		return bill.Decimal{}, &fault{f.name, "no amount", "is empty: a line needs its cost"}
	}
	return r.decimal(f, record)
}

// maybe reads an amount that may be absent.
func (r *reader) maybe(f *field, record []string) (*bill.Decimal, error) {
	if f.of(record) == "" {
		return nil, nil
	}
	d, err := r.decimal(f, record)
	return &d, err
}

// span reads when a charge was made, and the period of its bill.
func (r *reader) span(l *bill.Line, record []string, start, end, periodStart, periodEnd *field) error {
	at := start.of(record)
	if at == "" {
		return &fault{start.name, "no date", "is empty: a line needs its day"}
	}
	var err error
	if l.Start, err = r.dates.parse(at); err != nil {
		return &fault{start.name, "wrong date", err.Error()}
	}
	if v := end.of(record); v != "" {
		if l.End, err = r.dates.parse(v); err != nil {
			return &fault{end.name, "wrong date", err.Error()}
		}
	}
	l.PeriodStart = monthOf(l.Start)
	if v := periodStart.of(record); v != "" {
		if l.PeriodStart, err = r.dates.parse(v); err != nil {
			return &fault{periodStart.name, "wrong date", err.Error()}
		}
	}
	if v := periodEnd.of(record); v != "" {
		if l.PeriodEnd, err = r.dates.parse(v); err != nil {
			return &fault{periodEnd.name, "wrong date", err.Error()}
		}
	}
	return nil
}

// charge are the columns that FOCUS and AWS have in common.
type charge struct {
	start, end, periodStart, periodEnd, currency, billed, list field
}

// charge reads when a charge was made, its currency, and its billed and list cost.
func (r *reader) charge(c *charge, record []string, l *bill.Line) error {
	err := r.span(l, record, &c.start, &c.end, &c.periodStart, &c.periodEnd)
	if err == nil {
		err = r.currency(&c.currency, record, l)
	}
	if err == nil {
		l.Billed, err = r.cost(&c.billed, record)
	}
	if err == nil {
		l.List, err = r.maybe(&c.list, record)
	}
	return err
}

// currency reads an ISO 4217 code.
func (r *reader) currency(f *field, record []string, l *bill.Line) error {
	c := strings.ToUpper(strings.TrimSpace(f.of(record)))
	if len(c) != 3 || strings.Trim(c, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		if c == "" {
			return &fault{f.name, "no currency", "is empty: a line needs its currency"}
		}
		return &fault{f.name, "wrong currency", quote(c) + " is not an ISO 4217 code such as USD"}
	}
	l.Currency = c
	return nil
}

// tag reads the tags. A line whose tags cannot be read is kept without them: its cost counts.
func (r *reader) tag(f *field, record []string, l *bill.Line) parsedTags {
	return r.tagText(f.name, f.of(record), l)
}

func (r *reader) tagText(column, text string, l *bill.Line) parsedTags {
	p, err := r.tags.parse(text)
	if err != nil {
		r.warning = &fault{column, "tags that cannot be read", err.Error()}
	}
	l.Tags, l.Feature = p.text, p.feature
	return p
}

// quote shows a value of a file, cut to a length that fits a message.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
