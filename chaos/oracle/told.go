package oracle

import (
	"slices"
	"strings"
	"time"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// Clock relates the times of a history to those of the records.
type Clock struct {
	// Zero is the Unix time in nanos at which CLOCK_MONOTONIC was 0.
	Zero int64
	// Grace is how long after its expiry a hold still counts.
	Grace time.Duration
	// Skew is how far the two clocks may have moved apart.
	Skew time.Duration
}

func (c Clock) monotonic(ms int64) int64 { return ms*int64(time.Millisecond) - c.Zero }

// hold is what the clients know of a hold, and its entry.
type hold struct {
	reserve *Attempt
	since   int64 // when the first attempt to reserve it was sent
	expires int64 // the latest that a client was told
	ends    []*Attempt
	entry   *Entry
}

// over is when the hold may first have come back: at the first attempt to end it, or at its expiry.
func (x *hold) over() int64 {
	over := x.expires
	for _, a := range x.ends {
		over = min(over, a.Start)
	}
	return max(over, x.reserve.End)
}

// holds gathers the attempts by hold.
func (h *History) holds(j *Journal) map[string]*hold {
	all, first := map[string]*hold{}, map[string]int64{}
	for _, a := range h.Attempts {
		if at, ok := first[a.Call]; a.Op == Reserve && (!ok || a.Start < at) {
			first[a.Call] = a.Start
		}
	}
	for _, a := range h.Attempts {
		if a.Op == Reserve && a.Outcome == OK {
			all[a.Hold] = &hold{reserve: a, since: min(a.Start, first[a.Call]), expires: a.Expires, entry: j.ByHold[a.Hold]}
		}
	}
	for _, a := range h.Attempts {
		x := all[a.Hold]
		switch {
		case x == nil:
		case a.Op == Settle || a.Op == Release:
			x.ends = append(x.ends, a)
		case a.Op == Extend && a.Outcome == OK:
			x.expires = max(x.expires, a.Expires)
		}
	}
	return all
}

// CheckTold compares the journal with what clients were told: every acknowledged settlement and release is journalled, with
// its amount (I6), an entry has a request that it answers and the amounts that follow from it (ENTRY), and nothing is
// called late that came in time (LATE).
func CheckTold(h *History, j *Journal, clock Clock) []Violation {
	var bad violations
	holds := h.holds(j)
	for id, x := range holds {
		for _, a := range x.ends {
			if a.Outcome == OK {
				checkAcknowledged(&bad, id, a, x.entry)
			}
		}
	}
	reserves := map[string]*Attempt{}
	for _, a := range h.Attempts {
		if a.Op == Reserve {
			reserves[a.Call] = a
		}
	}
	for _, e := range j.Entries {
		checkEntry(&bad, e, holds[e.Hold()], reserves[e.GetPromptPattern()], clock)
	}
	return bad
}

// checkAcknowledged: once an entry has moved to the archive, a repeated settlement is not told where and when it was made.
func checkAcknowledged(bad *violations, id string, a *Attempt, e *Entry) {
	kind := storev1.EntryKind_ENTRY_KIND_SETTLE
	if a.Op == Release {
		kind = storev1.EntryKind_ENTRY_KIND_RELEASE
	}
	switch {
	case e == nil:
		bad.add("I6", "the %s of hold %s was acknowledged in %q and is not in the journal", a.Op, id, a.Journal)
	case e.GetKind() != kind:
		bad.add("I6", "the %s of hold %s was acknowledged; the journal has %s", a.Op, id, e.GetKind())
	case a.Op == Settle && (e.GetAmount() != a.Cost || e.GetForced() != a.Forced || e.GetLate() != a.Late || e.At() != a.Journal && a.Journal != ""):
		bad.add("I6", "the settlement of hold %s was acknowledged as %d with %d forced, late %v, in %s; the journal has %d with %d forced, late %v, in %s",
			id, a.Cost, a.Forced, a.Late, a.Journal, e.GetAmount(), e.GetForced(), e.GetLate(), e.At())
	case a.Op == Settle && a.Cost != a.Ask:
		bad.add("I6", "the settlement of hold %s cost %d; its tokens cost %d", id, a.Cost, a.Ask)
	}
}

func checkEntry(bad *violations, e *Entry, x *hold, reserve *Attempt, clock Clock) {
	if e.GetSeq() == 0 {
		return
	}
	if reserve == nil {
		bad.add("ENTRY", "%s: nobody reserved for call %q of hold %s", e.At(), e.GetPromptPattern(), e.Hold())
		return
	}
	if x == nil {
		// The answer of the Reserve never came, so nobody can have ended the hold.
		if e.GetKind() != storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE {
			bad.add("ENTRY", "%s: hold %s, which nobody knows, has %s", e.At(), e.Hold(), e.GetKind())
		}
		return
	}
	op, asked := Settle, false
	switch e.GetKind() {
	case storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE:
		if !x.reserve.Charge || e.GetAmount() != x.reserve.Held || e.GetForced() != 0 || clock.monotonic(e.GetTimeMs())+int64(clock.Skew) < x.expires {
			bad.add("ENTRY", "%s: hold %s of %d, charge %v, was charged %d", e.At(), e.Hold(), x.reserve.Held, x.reserve.Charge, e.GetAmount())
		}
		asked = true
	case storev1.EntryKind_ENTRY_KIND_RELEASE:
		op = Release
	}
	for _, a := range x.ends {
		asked = asked || a.Op == op && (op == Release || a.Ask == e.GetAmount())
	}
	if !asked {
		bad.add("ENTRY", "%s: nobody asked for %s at %d of hold %s", e.At(), e.GetKind(), e.GetAmount(), e.Hold())
	}
	if e.GetHeld() != x.reserve.Held || e.GetPromptPattern() != x.reserve.Call {
		bad.add("ENTRY", "%s: hold %s of call %s held %d; the client was told call %s and %d",
			e.At(), e.Hold(), e.GetPromptPattern(), e.GetHeld(), x.reserve.Call, x.reserve.Held)
	}
	if names := accountNames(e); !slices.Equal(names, x.reserve.Accounts) {
		bad.add("ENTRY", "%s: hold %s is counted on %v, want %v", e.At(), e.Hold(), names, x.reserve.Accounts)
	}
	forced := max(0, e.GetAmount()-e.GetHeld())
	if e.GetLate() {
		forced = e.GetAmount()
	}
	if e.GetForced() != forced {
		bad.add("ENTRY", "%s: %d of %d is forced with %d held, late %v; want %d", e.At(), e.GetForced(), e.GetAmount(), e.GetHeld(), e.GetLate(), forced)
	}
	if inTime := x.expires + int64(clock.Grace) - int64(clock.Skew); e.GetLate() && clock.monotonic(e.GetTimeMs()) < inTime {
		bad.add("LATE", "%s: hold %s is called late %s before its grace was over", e.At(), e.Hold(), time.Duration(inTime-clock.monotonic(e.GetTimeMs())))
	}
}

func accountNames(e *Entry) []string {
	names := make([]string, len(e.Accounts))
	for i, k := range e.Accounts {
		names[i] = k.Name
	}
	return names
}

// budgetOf is the budget of an account's name.
func budgetOf(account string) string {
	name, _, _ := strings.Cut(account, "/keys/")
	return name
}
