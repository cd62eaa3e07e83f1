package usage

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// int64s counts the sums of a struct.
func int64s(t reflect.Type) (n int) {
	for f := range t.Fields() {
		switch f.Type.Kind() {
		case reflect.Int64:
			n++
		case reflect.Struct:
			n += int64s(f.Type)
		}
	}
	return n
}

func TestEverySumIsAColumn(t *testing.T) {
	if n := int64s(reflect.TypeFor[Totals]()); n != Columns {
		t.Errorf("Totals has %d sums and %d columns: add what is new to the end of Columns", n, Columns)
	}
	var a Totals
	seen := map[*int64]bool{}
	for i, p := range a.Columns() {
		*p = int64(i)
		seen[p] = true
	}
	if len(seen) != Columns {
		t.Errorf("%d of %d columns are sums of their own", len(seen), Columns)
	}
	b := a
	b.Usage.ToolCalls = map[string]int64{"search": 2}
	if err := a.Add(&b); err != nil {
		t.Fatal(err)
	}
	for i, p := range a.Columns() {
		if *p != int64(2*i) {
			t.Errorf("column %d is %d", i, *p)
		}
	}
	before := a
	b.Failures = 1<<63 - 1
	if err := a.Add(&b); !errors.Is(err, ErrOverflow) || !reflect.DeepEqual(a, before) {
		t.Errorf("%v, %+v", err, a)
	}
}

func TestTotalsNameABoundedNumberOfTools(t *testing.T) {
	var a Totals
	for i := range MaxTotalTools + 10 {
		a.AddTool(fmt.Sprint(i), 1)
	}
	a.AddTool("3", 1)
	if m := a.Usage.ToolCalls; len(m) != MaxTotalTools+1 || m[OtherKey] != 10 || m["3"] != 2 {
		t.Errorf("%v", m)
	}
}
