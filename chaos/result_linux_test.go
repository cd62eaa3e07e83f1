package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chartergate/chartergate/chaos/oracle"
)

// result is a run that is over.
type result struct {
	*cluster
	*breaker
	*observer
	*treasurer
	began, healed int64
	last          happened // when all others were healed
	late          *pulse
	history       *oracle.History
	clock         oracle.Clock
}

// addresses make errors differ that are the same.
var addresses = regexp.MustCompile(`127\.0\.0\.1:\d+(->127\.0\.0\.1:\d+)?`)

// window is how many steps of a budget porcupine looks at together.
const window = 400

// judge has the oracle look at everything, and reports.
func (r *result) judge(t *testing.T) {
	t.Helper()
	records, err := r.records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, bad, err := oracle.ReadJournal(records, r.archives())
	if err != nil {
		t.Fatal(err)
	}
	bad = append(bad, r.observer.bad...)
	bad = append(bad, r.observer.grown...)
	bad = append(bad, oracle.CheckRecords(records)...)
	bad = append(bad, oracle.CheckSums(records, j)...)
	bad = append(bad, oracle.CheckCollected(records, j)...)
	bad = append(bad, oracle.CheckAlerts(records, j, thresholds)...)
	bad = append(bad, r.loggedAlerts(t)...)
	bad = append(bad, oracle.CheckTold(r.history, j, r.clock)...)
	uses, core := oracle.CheckCore(r.history, j, r.clock, stale)
	bad = append(bad, core...)
	holds, slow, repeat := oracle.CheckHolds(r.history)
	bad = append(bad, repeat...)
	windows, slower, admit := oracle.CheckBudgets(r.history, j, r.clock, stale, window, 5*time.Second)
	bad = append(bad, admit...)

	t.Logf("journal: %d batches (%d still in etcd), %d entries; %d revisions; %d consistent reads during the run, %d not answered; %d versions of accounts, %d gaps",
		j.Batches, len(records.Batches), len(j.Entries), records.Revision, r.reads, r.failed, r.versions, r.gaps)
	t.Logf("porcupine: %d histories of holds (%d not decided), %d windows of budgets (%d not decided)", holds, slow, windows, slower)
	t.Logf("machine: the harness itself was up to %.1fs late, %.1fs in all", r.late.worst.Seconds(), r.late.total.Seconds())
	t.Logf("ceilings: %d raised, %d lowered", r.raised, r.lowered)
	r.reportFaults(t)
	r.reportCalls(t)
	r.reportMoney(t, j, uses)
	r.reportGaps(t)
	r.reportTakeovers(t)
	if len(j.Entries) < 5*len(r.done) || r.reads == 0 || r.versions == 0 || r.raised == 0 {
		t.Error("too little happened: the load is not one that shows something")
	}
	byCheck := map[string]int{}
	for _, v := range bad {
		if byCheck[v.Check]++; byCheck[v.Check] <= 5 {
			t.Error(v)
		}
	}
	t.Logf("violations: %d %v", len(bad), byCheck)
	r.keep(t)
}

// keep copies the histories and logs to where they can be looked at.
func (r *result) keep(t *testing.T) {
	t.Helper()
	dir := os.Getenv("CHARTERGATE_CHAOS_KEEP")
	if dir == "" {
		return
	}
	if _, err := run("sh", "-c", fmt.Sprintf("mkdir -p %q && cp %q/*.log %q/*.jsonl %q/", dir, r.dir, r.dir, dir)); err != nil {
		t.Error(err)
	}
	t.Logf("histories and logs are in %s", dir)
}

// loggedAlerts: each alert is one line in one replica's log at most.
func (r *result) loggedAlerts(t *testing.T) []oracle.Violation {
	t.Helper()
	lines := map[string]int{}
	for i := range r.replicas {
		text, err := os.ReadFile(r.replicaLog(i))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if _, what, ok := strings.Cut(line, `msg="budget alert" `); ok {
				what, _, _ = strings.Cut(what, " settled")
				lines[what]++
			}
		}
	}
	var bad []oracle.Violation
	for what, n := range lines {
		if n > 1 {
			bad = append(bad, oracle.Violation{Check: "ALERT", What: fmt.Sprintf("%d lines in the logs: %s", n, what)})
		}
	}
	return bad
}

func (r *result) reportFaults(t *testing.T) {
	t.Helper()
	count := map[kind]int{}
	for _, f := range r.done {
		count[f.kind]++
	}
	for _, k := range kinds {
		t.Logf("fault  %-42s %d", k, count[k])
	}
	started, died := 0, 0
	for _, s := range r.replicas {
		started += len(s.all())
		for _, p := range s.all() {
			if p.err != nil && !strings.Contains(p.err.Error(), "killed") {
				died++
			}
		}
	}
	t.Logf("%d replica processes, of which %d ended by themselves with an error", started, died)
}

func (r *result) reportCalls(t *testing.T) {
	t.Helper()
	count, calls := map[string]int{}, map[string]bool{}
	unexpected, lost := map[string]int{}, map[string]int{}
	for _, a := range r.history.Attempts {
		count[fmt.Sprintf("%-8s %s", a.Op, cmp.Or(a.Outcome, "no answer"))]++
		calls[a.Call] = true
		switch a.Outcome {
		case oracle.Unknown:
			lost[addresses.ReplaceAllString(a.Error, "…")]++
		case oracle.OK, oracle.Denied, oracle.Throttled, oracle.Refused, "HOLD_SETTLED", "HOLD_RELEASED", "HOLD_EXPIRED":
		default:
			unexpected[a.Outcome+": "+a.Error]++
		}
	}
	t.Logf("%d calls, %d attempts in %.0f s", len(calls), len(r.history.Attempts), time.Duration(now()-r.began).Seconds())
	for _, what := range slices.Sorted(maps.Keys(count)) {
		t.Logf("answer %-30s %d", what, count[what])
	}
	for i, what := range slices.SortedFunc(maps.Keys(lost), func(a, b string) int { return cmp.Compare(lost[b], lost[a]) }) {
		if i < 8 {
			t.Logf("lost   %6d %s", lost[what], what)
		}
	}
	for what, n := range unexpected {
		t.Errorf("%d times the answer was %s", n, what)
	}
}

func (r *result) reportMoney(t *testing.T, j *oracle.Journal, uses map[string]*oracle.Use) {
	t.Helper()
	sums := map[string]oracle.Sum{}
	for key, s := range j.Sums {
		sums[key.Name] = s
	}
	denials := oracle.FalseDenialsOf(r.history, j, r.clock, stale, maxHold)
	total := oracle.FalseDenials{}
	for _, d := range denials {
		total.Refusals, total.Count, total.Nanos = total.Refusals+d.Refusals, total.Count+d.Count, total.Nanos+d.Nanos
	}
	t.Logf("money  refused for want of it: %d; of these %d (%d nanos) though it was free somewhere", total.Refusals, total.Count, total.Nanos)
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		u := uses[name]
		t.Logf("budget %-34s %6d admitted, settled %11d of it forced %9d, closest to the ceiling %9d, overspend %d", strings.TrimPrefix(name, "budgets/"),
			u.Admissions, sums[name].Amount, sums[name].Forced, u.Closest, u.Overspend)
		if d := denials[name]; d != nil {
			t.Logf("       %-34s %6d refused for want of money, %d of them (%d nanos) though it was free somewhere; most free then %d of %d",
				"", d.Refusals, d.Count, d.Nanos, d.MostFree, d.Ceiling)
		}
	}
}

// reportGaps: how long after a fault a Reserve, and a Settle, that was sent after it was answered by any replica; and the
// longest time without an answer until 5 s after the fault was healed. Where faults of a kind came alone, those count only.
func (r *result) reportGaps(t *testing.T) {
	t.Helper()
	for _, op := range []oracle.Op{oracle.Reserve, oracle.Settle} {
		answers := r.answers(op)
		for _, k := range kinds {
			var next, longest []time.Duration
			all := r.of(k)
			alone := slices.DeleteFunc(slices.Clone(all), func(f happened) bool { return !r.alone(f) })
			if len(alone) > 0 {
				all = alone
			}
			for _, f := range all {
				next = append(next, r.next(f.start, op))
				longest = append(longest, longestGap(answers, f.start, f.end+int64(settles)))
			}
			if len(all) > 0 {
				t.Logf("gap    %-42s %-7s next answer median %5.2fs most %5.2fs; longest without one median %5.2fs most %5.2fs (%d, %d alone)", k, op,
					median(next), slices.Max(next).Seconds(), median(longest), slices.Max(longest).Seconds(), len(all), len(alone))
			}
		}
	}
}

// settles is how long after a fault was healed what follows is put down to it.
const settles = 5 * time.Second

func (r *result) of(k kind) []happened {
	var list []happened
	for _, f := range r.done {
		if f.kind == k {
			list = append(list, f)
		}
	}
	return list
}

// alone says that no other fault was there at the time, or just before.
func (r *result) alone(f happened) bool {
	return !slices.ContainsFunc(r.done, func(g happened) bool {
		return g != f && g.start < f.end+int64(settles) && g.end+int64(settles) > f.start
	})
}

// answers are the times of the answers to an operation.
func (r *result) answers(op oracle.Op) []int64 {
	var list []int64
	for _, a := range r.history.Attempts {
		if a.Op == op && a.Outcome != oracle.Unknown && a.Outcome != oracle.Refused {
			list = append(list, a.End)
		}
	}
	slices.Sort(list)
	return list
}

func longestGap(answers []int64, from, to int64) time.Duration {
	longest, last := int64(0), from
	i, _ := slices.BinarySearch(answers, from)
	for ; i < len(answers) && answers[i] < to; i++ {
		longest, last = max(longest, answers[i]-last), answers[i]
	}
	if i < len(answers) { // else the run was over
		longest = max(longest, to-last)
	}
	return time.Duration(longest)
}

func median(list []time.Duration) float64 {
	slices.Sort(list)
	return list[len(list)/2].Seconds()
}

// next is how long after a moment the first attempt that was sent after it was answered.
func (r *result) next(at int64, op oracle.Op) time.Duration {
	all := r.history.Attempts // by start
	i, _ := slices.BinarySearchFunc(all, at, func(a *oracle.Attempt, t int64) int { return cmp.Compare(a.Start, t) })
	first := int64(1<<63 - 1)
	for ; i < len(all) && all[i].Start < first; i++ {
		if a := all[i]; a.Op == op && a.Outcome != oracle.Unknown && a.Outcome != oracle.Refused {
			first = min(first, a.End)
		}
	}
	return time.Duration(first - at)
}

// reportTakeovers: after kill -9 of a replica, when a hold of it was settled by another, and when its money was free.
func (r *result) reportTakeovers(t *testing.T) {
	t.Helper()
	var settled, usable []time.Duration
	for _, f := range r.of(killReplica) {
		s, u := r.takeover(f)
		settled, usable = append(settled, s...), append(usable, u...)
	}
	if len(settled) > 0 {
		t.Logf("after kill -9 amid other faults: its holds settle on another replica after median %.1fs, at most %.1fs (%d)",
			median(settled), slices.Max(settled).Seconds(), len(settled))
	}
	if len(usable) > 0 {
		t.Logf("after kill -9 amid other faults: its money is usable again after median %.1fs, at most %.1fs (%d)",
			median(usable), slices.Max(usable).Seconds(), len(usable))
	}
	settled, usable = r.takeover(r.last)
	t.Logf("after kill -9 with all else in order: its holds settle on another replica after %v, its money is usable again after %v", settled, usable)
}

// takeover finds when what the replica left behind was first settled, by a client that had not given up, and given back.
func (r *result) takeover(f happened) (settled, usable []time.Duration) {
	for who, pid := range r.pids {
		if pid != f.pid {
			continue
		}
		if at, ok := r.closed[who]; ok {
			usable = append(usable, time.Duration(at-f.start))
		}
		first := int64(0)
		for _, a := range r.history.Attempts {
			if a.Op == oracle.Settle && a.Outcome == oracle.OK && a.Start > f.start && a.Start < f.start+int64(settleTime) &&
				owner(a.Hold) == who && (first == 0 || a.End < first) {
				first = a.End
			}
		}
		if first != 0 {
			settled = append(settled, time.Duration(first-f.start))
		}
	}
	return settled, usable
}
