package sql

import (
	"hash/maphash"
	"strconv"
	"strings"
	"sync"

	"github.com/chartergate/chartergate/core/bill"
)

// billWriters remember what imports under way have written of what lines have in common.
type billWriters struct {
	mu sync.Mutex
	by map[int64]*billWriter
}

// billWriter turns lines into columns. It is used by one AppendBill at a time.
type billWriter struct {
	mu      sync.Mutex
	known   map[uint64]knownDim
	seen    map[billScope]bool
	scopes  []billScope // new ones
	columns billColumns
}

type billScope struct {
	account string
	period  int64
}

type knownDim struct {
	id    int64
	scope billScope
	attrs bill.Attributes
}

const (
	maxKnown = 30_000 // dims that are remembered, about 600 bytes each; others are written again
	lineInts = 16
	dimTexts = 16
)

// billColumns are rows by column. Of ints the 13th and 15th, effective and list, are in the lists that know null.
type billColumns struct {
	ints            [lineInts][]int64
	effective, list []*int64
	dimIDs, periods []int64
	accounts        []string
	texts           [dimTexts][]string
}

var billSeed = maphash.MakeSeed()

func (b *billWriters) of(id int64) *billWriter {
	b.mu.Lock()
	if b.by == nil {
		b.by = make(map[int64]*billWriter)
	}
	w := b.by[id]
	if w == nil {
		clear(b.by) // imports come one after another: one is remembered
		w = &billWriter{known: make(map[uint64]knownDim), seen: make(map[billScope]bool)}
		b.by[id] = w
	}
	b.mu.Unlock()
	w.mu.Lock()
	return w
}

func (b *billWriters) done(w *billWriter) { w.mu.Unlock() }

func (w *billWriter) forget() {
	clear(w.known)
	clear(w.seen)
}

func (w *billWriter) prepare(id int64, lines []bill.Line) error {
	c := &w.columns
	for i := range c.ints {
		c.ints[i] = c.ints[i][:0]
	}
	for i := range c.texts {
		c.texts[i] = c.texts[i][:0]
	}
	c.effective, c.list, c.dimIDs, c.periods, c.accounts, w.scopes = c.effective[:0], c.list[:0], c.dimIDs[:0], c.periods[:0], c.accounts[:0], w.scopes[:0]
	for i := range lines {
		if err := w.row(id, &lines[i]); err != nil {
			w.forget()
			return err
		}
	}
	return nil
}

func texts(a *bill.Attributes) [dimTexts]*string {
	return [...]*string{&a.Provider, &a.SubAccount, &a.Service, &a.SKU, &a.Meter, &a.Region, &a.Resource, &a.ResourceGroup, &a.Category, &a.Unit, &a.Currency,
		&a.Tags, &a.Feature, &a.Model, &a.TokenClass, &a.ServiceTier}
}

// dim gives the id of what a line has in common with others.
func (w *billWriter) dim(id int64, l *bill.Line) int64 {
	scope := billScope{l.Account, l.PeriodStart.Unix()}
	if !w.seen[scope] {
		scope.account = strings.Clone(scope.account)
		if len(w.seen) >= maxKnown {
			clear(w.seen)
		}
		w.seen[scope] = true
		w.scopes = append(w.scopes, scope)
	}
	var h maphash.Hash
	h.SetSeed(billSeed)
	h.WriteString(scope.account)
	maphash.WriteComparable(&h, scope.period)
	list := texts(&l.Attributes)
	for _, t := range list {
		h.WriteString(*t)
		h.WriteByte(0)
	}
	sum := h.Sum64()
	if k, ok := w.known[sum]; ok && k.scope == scope && k.attrs == l.Attributes {
		return k.id
	}
	k := knownDim{id: id<<idShift | l.Row, scope: billScope{strings.Clone(scope.account), scope.period}, attrs: l.Attributes}
	for _, t := range texts(&k.attrs) {
		*t = strings.Clone(*t)
	}
	if len(w.known) >= maxKnown {
		for h := range w.known { // any: what comes often comes back
			if delete(w.known, h); len(w.known) < maxKnown*3/4 {
				break
			}
		}
	}
	w.known[sum] = k
	c := &w.columns
	c.dimIDs, c.periods, c.accounts = append(c.dimIDs, k.id), append(c.periods, scope.period), append(c.accounts, k.scope.account)
	for i, t := range texts(&k.attrs) {
		c.texts[i] = append(c.texts[i], *t)
	}
	return k.id
}

const (
	lineColumns = `id, dim, key1, key2, day, start_s, end_s, quantity, quantity_nanos, tokens, billed, billed_atto, effective, effective_atto, list, list_atto, gone`
	dimColumns  = `id, period, account, provider, sub_account, service, sku, meter, region, resource, resource_group, category, unit, currency, tags, feature, model, token_class, service_tier`
)

// insertSQLite writes many rows with one statement, which costs a fraction of one each.
func (w *billWriter) insertSQLite(t *tx) error {
	c := &w.columns
	err := insertRows(t, `bill_dims (`+dimColumns+`)`, dimTexts+3, len(c.dimIDs), func(args []any, i int) []any {
		args = append(args, c.dimIDs[i], c.periods[i], c.accounts[i])
		for _, column := range &c.texts {
			args = append(args, column[i])
		}
		return args
	})
	if err != nil {
		return err
	}
	return insertRows(t, `bill_lines (`+lineColumns+`)`, lineInts+1, len(c.effective), func(args []any, i int) []any {
		for n := range &c.ints {
			switch n {
			case 12:
				args = append(args, nullable(c.effective[i]))
			case 14:
				args = append(args, nullable(c.list[i]))
			default:
				args = append(args, c.ints[n][i])
			}
		}
		return append(args, int64(0))
	})
}

func nullable(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

const rowsAtOnce = 100

func insertRows(t *tx, into string, width, count int, row func(args []any, i int) []any) error {
	statement := func(n int) string {
		one := "(?" + strings.Repeat(",?", width-1) + ")"
		return `INSERT INTO ` + into + ` VALUES ` + one + strings.Repeat(","+one, n-1)
	}
	args := make([]any, 0, rowsAtOnce*width)
	i := 0
	if count >= rowsAtOnce {
		s, err := t.PrepareContext(t.ctx, statement(rowsAtOnce))
		if err != nil {
			return err
		}
		defer s.Close()
		for ; i+rowsAtOnce <= count; i += rowsAtOnce {
			args = args[:0]
			for n := range rowsAtOnce {
				args = row(args, i+n)
			}
			if _, err := s.ExecContext(t.ctx, args...); err != nil {
				return err
			}
		}
	}
	if i == count {
		return nil
	}
	args = args[:0]
	for n := i; n < count; n++ {
		args = row(args, n)
	}
	return t.exec(statement(count-i), args...)
}

// copyPostgres writes columns as arrays.
func (w *billWriter) copyPostgres(t *tx) error {
	c := &w.columns
	if len(c.dimIDs) > 0 {
		args := []any{c.dimIDs, c.periods, c.accounts}
		types := "$1::bigint[], $2::bigint[], $3::text[]"
		for i := range c.texts {
			args = append(args, c.texts[i])
			types += ", $" + strconv.Itoa(i+4) + "::text[]"
		}
		if err := t.exec(`INSERT INTO bill_dims (`+dimColumns+`) SELECT * FROM unnest(`+types+`)`, args...); err != nil {
			return err
		}
	}
	if len(c.effective) == 0 {
		return nil
	}
	var args []any
	types := ""
	for n := range c.ints {
		switch n {
		case 12:
			args = append(args, c.effective)
		case 14:
			args = append(args, c.list)
		default:
			args = append(args, c.ints[n])
		}
		types += ", $" + strconv.Itoa(n+1) + "::bigint[]"
	}
	return t.exec(`INSERT INTO bill_lines (`+lineColumns+`) SELECT *, 0 FROM unnest(`+types[2:]+`)`, args...)
}
