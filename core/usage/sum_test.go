package usage

import (
	"errors"
	"fmt"
	"reflect"
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
	if n := len((&Usage{}).counts()); n != reflect.TypeFor[Usage]().NumField()-1 {
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
