package usage

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// every gives a usage with every count at n.
func every(n int64) Usage {
	u := Usage{ToolCalls: map[string]int64{"search": n}}
	for _, c := range u.counts() {
		*c.n = n
	}
	return u
}

func TestEveryCountIsSummedAndBounded(t *testing.T) {
	if n := len((&Usage{}).counts()); n != reflect.TypeFor[Usage]().NumField()-2 { // of tools and the accelerator apart
		t.Fatalf("%d counts", n)
	}
	u, v, want := every(7), every(5), every(12)
	if !u.Add(&v) || !reflect.DeepEqual(u, want) {
		t.Errorf("7 + 5 is %+v", u)
	}
	if d := u.Minus(&v); !reflect.DeepEqual(d, every(7)) {
		t.Errorf("12 - 5 is %+v", d)
	}
	if d := v.Minus(&u); !reflect.DeepEqual(d, Usage{}) {
		t.Errorf("5 - 12 is %+v", d)
	}
	for i, c := range u.counts() {
		var full, one Usage
		*full.counts()[i].n, *one.counts()[i].n = c.most, 1
		if c.name != "context_overhead_tokens" && full.Validate() != nil { // context overhead is a share of the input
			t.Errorf("%s: %v", c.name, full.Validate())
		}
		if before := full; full.Add(&one) || !reflect.DeepEqual(full, before) {
			t.Errorf("%s: %d and one are %+v", c.name, c.most, full)
		}
		for _, wrong := range []int64{-1, c.most + 1} {
			*full.counts()[i].n = wrong
			if err := full.Validate(); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s at %d: %v", c.name, wrong, err)
			}
		}
	}
}

func TestSumsNameOneAccelerator(t *testing.T) {
	named := func(accelerator string, ms int64) Usage { return Usage{GPUMilliseconds: ms, Accelerator: accelerator} }
	for _, c := range []struct{ u, v, want Usage }{
		{Usage{}, named("h100", 1), named("h100", 1)},
		{named("h100", 1), Usage{}, named("h100", 1)},
		{named("h100", 1), named("h100", 2), named("h100", 3)},
		{named("h100", 1), named("a100", 2), named("", 3)},
		{named("h100", 1), named("", 2), named("", 3)},
	} {
		sum := c.u
		if !sum.Add(&c.v) || !reflect.DeepEqual(sum, c.want) {
			t.Errorf("%+v and %+v are %+v", c.u, c.v, sum)
		}
	}
	var totals Totals
	for _, u := range []Usage{named("h100", 1), named("a100", 2), named("", 4)} {
		if err := totals.Add(&Totals{Usage: u}); err != nil {
			t.Fatal(err)
		}
	}
	if totals.Usage.GPUMilliseconds != 7 || totals.Usage.Accelerator != "" {
		t.Errorf("rollups have %+v", totals.Usage)
	}
	for name, ok := range map[string]bool{strings.Repeat("é", 64): true, strings.Repeat("a", 65): false} {
		if err := (&Usage{Accelerator: name}).Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestToolsAreSummedAndBounded(t *testing.T) {
	var u Usage
	for i := range MaxTools {
		if !u.Add(&Usage{ToolCalls: map[string]int64{fmt.Sprint(i): 1}}) {
			t.Fatalf("tool %d does not fit", i)
		}
	}
	if u.Add(&Usage{InputTokens: 1, ToolCalls: map[string]int64{"more": 0}}) || u.InputTokens != 0 || len(u.ToolCalls) != MaxTools {
		t.Errorf("one tool more gives %+v", u)
	}
	if u.Add(&Usage{ToolCalls: map[string]int64{"3": MaxCalls}}) || u.ToolCalls["3"] != 1 {
		t.Errorf("too many calls of a tool give %+v", u)
	}
	if !u.Add(&Usage{ToolCalls: map[string]int64{"3": 4}}) || u.ToolCalls["3"] != 5 {
		t.Errorf("%+v", u)
	}
}
