package sim

import (
	"fmt"
	"reflect"
	"strings"
)

// counters say what happened in runs, so that a slice which never sees something fails.
type counters struct {
	Runs, Steps, Transactions                         int
	LateLanding, Lost, Unanswered, LeaseExpired       int
	Partitions, Pauses, Crashes, Drains, LeaseRevoked int
	Fenced, Starts                                    int
	Holds, Denied, Throttled, Unavailable             int
	Grants, Returns, Tight, QuarantineLost            int
	Settled, SettledAgain, OtherAmount, Oversized     int
	Late, Released, Extended, Charged, Usages         int
	UsagesAgain, Forced, Forwards, ForwardsFailed     int
	Takeovers, TakeoversAgain, Reclaims, Closed       int
	ClosedClean, SettledByOther, SettledAfterClose    int
	Conflicts, Alerts, CeilingRaised, CeilingLowered  int
	Draining, Rollovers, Sealed, Folded               int
	Overflow, Keys, CharterEdits                      int
	AfterMidnight, Collected, CollectedAgain, Marks   int
	CollectedOfOthers, OutboxFailed, AnsweredByMark   int
}

func (c *counters) add(o *counters) {
	a, b := reflect.ValueOf(c).Elem(), reflect.ValueOf(o).Elem()
	for i := range a.NumField() {
		a.Field(i).SetInt(a.Field(i).Int() + b.Field(i).Int())
	}
}

// never names what did not happen.
func (c *counters) never() (names []string) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if v.Field(i).Int() == 0 {
			names = append(names, v.Type().Field(i).Name)
		}
	}
	return names
}

func (c *counters) String() string {
	var b strings.Builder
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if i > 0 && i%6 == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s %d  ", v.Type().Field(i).Name, v.Field(i).Int())
	}
	return b.String()
}
