package oracle

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

const (
	ms    = int64(time.Millisecond)
	stale = 100 * time.Millisecond
)

var (
	clock = Clock{Zero: 0, Grace: 5 * time.Second, Skew: 10 * time.Millisecond}
	rates = Rates{Input: 2_000_000, Cached: 500_000, Output: 3_333_333}
)

// world is a run that keeps every promise: one owner, a team budget under an organisation's, and two batches.
type world struct {
	history   History
	batches   []*storev1.Batch
	records   *Records
	collected bool // of the first batch
	before    *Records
}

var org, team = &storev1.Account{Budget: "org", PeriodStart: 1}, &storev1.Account{Budget: "team", Key: "ü/1", PeriodStart: 1}

func account(w *world, a *storev1.Account) *Account { return w.records.Accounts[KeyOf(a)] }

// newWorld makes six calls: settled in time, settled above its hold, settled late, released, charged at expiry, and one
// that is never ended. Each holds 100 from 1 s after the one before it.
func newWorld() *world {
	w := &world{}
	for i := range 6 {
		at := int64(i+1) * 1000 * ms
		w.history.Attempts = append(w.history.Attempts, &Attempt{
			ID: fmt.Sprintf("r%d", i), Op: Reserve, Call: fmt.Sprintf("call-%d", i), Hold: fmt.Sprintf("e/%d", i+1), Ask: 100, Start: at, End: at + 10*ms,
			Outcome: OK, Held: 100, Accounts: []string{"budgets/team/keys/ü/1", "budgets/org"}, Charge: true, Expires: at + 3000*ms,
		})
	}
	entry := func(call int, kind storev1.EntryKind, amount, forced, at int64) *storev1.Entry {
		return &storev1.Entry{
			Seq: uint64(call + 1), Kind: kind, Amount: amount, Forced: forced, Held: 100, Path: []uint32{0, 1}, TimeMs: at,
			PromptPattern: fmt.Sprintf("call-%d", call),
		}
	}
	late := entry(2, storev1.EntryKind_ENTRY_KIND_SETTLE, 80, 80, 12_000)
	late.Late = true
	w.batches = []*storev1.Batch{
		{Accounts: []*storev1.Account{team, org}, Entries: []*storev1.Entry{
			entry(0, storev1.EntryKind_ENTRY_KIND_SETTLE, 60, 0, 1500), entry(1, storev1.EntryKind_ENTRY_KIND_SETTLE, 130, 30, 2500),
		}},
		{Accounts: []*storev1.Account{team, org}, Entries: []*storev1.Entry{
			late, entry(3, storev1.EntryKind_ENTRY_KIND_RELEASE, 0, 0, 4500), entry(4, storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE, 100, 0, 13_500),
		}},
	}
	end := func(id string, call int, op Op, ask, start int64) *Attempt {
		return &Attempt{ID: id, Op: op, Call: fmt.Sprintf("call-%d", call), Hold: fmt.Sprintf("e/%d", call+1), Ask: ask, Start: start * ms, End: start*ms + 5*ms, Outcome: OK}
	}
	settled := func(id string, call int, cost, forced int64, late bool, batch int, start int64) *Attempt {
		a := end(id, call, Settle, cost, start)
		a.Cost, a.Forced, a.Late, a.Journal, a.Time = cost, forced, late, fmt.Sprintf("jr/e/%d", batch), start
		return a
	}
	lost := end("s0", 0, Settle, 60, 1400)
	lost.Outcome, lost.End = Unknown, 0
	other := end("s1b", 1, Settle, 99, 2600)
	other.Outcome, other.First = "HOLD_SETTLED", 130
	repeat := settled("s2b", 2, 80, 80, true, 1, 12_000)
	repeat.Start, repeat.End = 14_000*ms, 14_001*ms
	released := end("x3b", 3, Settle, 50, 4600)
	released.Outcome = "HOLD_RELEASED"
	gone := end("s4", 4, Release, 0, 13_600)
	gone.Outcome, gone.First = "HOLD_SETTLED", 100
	w.history.Attempts = append(w.history.Attempts, lost, settled("s0b", 0, 60, 0, false, 0, 1450), settled("s1", 1, 130, 30, false, 0, 2450), other,
		settled("s2", 2, 80, 80, true, 1, 12_000), repeat, end("x3", 3, Release, 0, 4500), released, gone)
	w.history.Attempts = append(w.history.Attempts, &Attempt{
		ID: "d", Op: Reserve, Call: "call-d", Ask: 100, Start: 6100 * ms, End: 6101 * ms, Outcome: Denied, Bound: "budgets/org",
	})
	// The calls hold 60+100+100+100+100+100 at most at once.
	w.history.Limits = []Limit{{"budgets/org", 600, 1, 2}, {"budgets/org", 460, 3000 * ms, 3001 * ms}, {"budgets/team", 900, 1, 2}}
	w.records = &Records{Accounts: map[AccountKey]*Account{}, Batches: map[string][]byte{}, Collected: map[string]*storev1.Chunk{}, Tails: map[string]*storev1.JournalTail{}, Owners: map[string]map[string][]byte{"own": {"f": nil}, "cl": {"e": nil}}}
	for _, a := range []*storev1.Account{org, team} {
		r := w.records.account(a)
		r.Budget = &storev1.BudgetAccount{Account: a, Ceil: 500, Base: 300, Alloc: 500, Forced: 110}
		r.Grants = map[string]*storev1.Grant{"f": {Account: a, Alloc: 200, Spent: 70}}
		r.Alerts = []*storev1.Alert{{Account: a, ThresholdPermille: 500, Settled: 290, Limit: 500}}
	}
	return w
}

type collected struct {
	n    uint64
	data []byte
}

func (a collected) Each(batch func(string, uint64, []byte) error) error {
	return batch("e", a.n, a.data)
}

// seal writes the batches and chains them; the first may have been collected.
func (w *world) seal(t *testing.T) []Source {
	t.Helper()
	sources, hash := []Source{w.records}, []byte(nil)
	for n, b := range w.batches {
		if b.PreviousHash == nil {
			b.PreviousHash = hash
		}
		data, err := proto.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		hash = sum[:]
		if w.collected && n == 0 {
			sources = append(sources, collected{0, data})
			marks := make([]byte, 8192)
			marks[2*1], marks[2*2] = 1, 1|7<<3 // holds 1 and 2 are settled
			w.records.Collected["e/0000000000000000"] = &storev1.Chunk{Marks: marks}
			w.records.Tails["e"] = &storev1.JournalTail{Next: 1}
			continue
		}
		w.records.Batches[fmt.Sprintf("e/%d", n)] = data
	}
	return sources
}

func (w *world) check(t *testing.T, sources []Source) []Violation {
	t.Helper()
	j, bad, err := ReadJournal(sources...)
	if err != nil {
		t.Fatal(err)
	}
	bad = append(bad, CheckRecords(w.records)...)
	for key, a := range w.records.Accounts {
		var before *storev1.BudgetAccount
		if w.before != nil {
			before = w.before.Accounts[key].Budget
		}
		bad = append(bad, CheckBudget(before, a.Budget)...)
	}
	bad = append(bad, CheckSums(w.records, j)...)
	bad = append(bad, CheckCollected(w.records, j)...)
	bad = append(bad, CheckAlerts(w.records, j, func(AccountKey) []int32 { return []int32{500, 900} })...)
	bad = append(bad, CheckTold(&w.history, j, clock)...)
	_, core := CheckCore(&w.history, j, clock, stale)
	bad = append(bad, core...)
	checked, undecided, repeat := CheckHolds(&w.history)
	bad = append(bad, repeat...)
	windows, slow, admit := CheckBudgets(&w.history, j, clock, stale, 6, 10*time.Second)
	bad = append(bad, admit...)
	if checked < 5 || undecided > 0 || windows < 4 || slow > 0 {
		t.Errorf("porcupine: %d histories of holds, %d not decided; %d windows of budgets, %d not decided", checked, undecided, windows, slow)
	}
	return bad
}

func TestGoodRunHasNoViolation(t *testing.T) {
	for _, inArchive := range []bool{false, true} {
		w := newWorld()
		w.collected = inArchive
		if bad := w.check(t, w.seal(t)); len(bad) > 0 {
			t.Errorf("collected %v: %v", inArchive, bad)
		}
	}
}

// attempt finds one by its id.
func (w *world) attempt(id string) *Attempt {
	i := slices.IndexFunc(w.history.Attempts, func(a *Attempt) bool { return a.ID == id })
	return w.history.Attempts[i]
}

// Every check finds the run that breaks its promise.
func TestEachCheckFindsWhatItIsFor(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(w *world)
	}{
		{"alloc is not the sum", "I1", func(w *world) { account(w, org).Budget.Alloc++ }},
		{"a grant without a budget", "I1", func(w *world) {
			w.records.account(&storev1.Account{Budget: "b"}).Grants["e"] = &storev1.Grant{Alloc: 1}
		}},
		{"more granted than the ceiling", "I2", func(w *world) { account(w, team).Budget.Ceil = 389 }},
		{"more granted than before while it drains", "I2", func(w *world) {
			account(w, team).Budget.Ceil = 100
			w.before = newWorld().records
			account(&world{records: w.before}, team).Budget.Alloc = 499
		}},
		{"spent beyond the grant", "I3", func(w *world) {
			g, b := account(w, org).Grants["f"], account(w, org).Budget
			g.Alloc, b.Alloc = 69, b.Alloc-131
		}},
		{"settled twice", "I4", func(w *world) { w.batches[1].Entries = append(w.batches[1].Entries, w.batches[0].Entries[0]) }},
		{"an owner lives and is taken over", "I5", func(w *world) { w.records.Owners["tk"] = map[string][]byte{"f": nil} }},
		{"an acknowledged settlement is lost", "I6", func(w *world) { w.batches[0].Entries = w.batches[0].Entries[1:] }},
		{"an acknowledged settlement has another amount", "I6", func(w *world) { w.batches[0].Entries[0].Amount = 61 }},
		{"an acknowledged settlement stands elsewhere", "I6", func(w *world) { w.attempt("s1").Journal = "jr/e/1" }},
		{"acknowledged at another price", "I6", func(w *world) { w.attempt("s1").Ask = 131 }},
		{"an acknowledged release is settled", "I6", func(w *world) { w.batches[1].Entries[1].Kind = storev1.EntryKind_ENTRY_KIND_SETTLE }},
		{"settled is not journalled", "I7", func(w *world) { account(w, org).Grants["f"].Spent++ }},
		{"journalled without a record", "I7", func(w *world) { delete(w.records.Accounts, KeyOf(team)) }},
		{"forced is not journalled", "FORCED", func(w *world) { account(w, org).Budget.Forced-- }},
		{"a batch is lost", "JOURNAL", func(w *world) { delete(w.records.Batches, "e/0") }},
		{"a batch was replaced", "JOURNAL", func(w *world) { w.batches[1].PreviousHash = []byte("another") }},
		{"the collected batch differs", "JOURNAL", func(w *world) {
			w.collected = true
			other, _ := proto.Marshal(w.batches[1])
			w.records.Batches["e/0"] = other
		}},
		{"settled for nobody", "ENTRY", func(w *world) { w.batches[0].Entries[0].PromptPattern = "nobody" }},
		{"an unknown hold is settled", "ENTRY", func(w *world) { w.batches[0].Entries[0].Seq = 77 }},
		{"settled at an amount that nobody sent", "ENTRY", func(w *world) { w.attempt("s0").Ask, w.attempt("s0b").Ask = 1, 1 }},
		{"charged though it is released on expiry", "ENTRY", func(w *world) { w.attempt("r4").Charge = false }},
		{"charged before its expiry", "ENTRY", func(w *world) { w.batches[1].Entries[2].TimeMs = 7900 }},
		{"counted on another account", "ENTRY", func(w *world) { w.batches[0].Entries[0].Path = []uint32{0, 0} }},
		{"forced without a cause", "ENTRY", func(w *world) { w.batches[0].Entries[0].Forced = 1 }},
		{"oversized and not forced", "ENTRY", func(w *world) { w.batches[0].Entries[1].Forced = 0 }},
		{"called late in time", "LATE", func(w *world) { w.batches[1].Entries[0].TimeMs = 10_900 }},
		{"a second alert", "ALERT", func(w *world) { account(w, org).Alerts = append(account(w, org).Alerts, account(w, org).Alerts[0]) }},
		{"no alert", "ALERT", func(w *world) { account(w, org).Alerts = nil }},
		{"an alert too early", "ALERT", func(w *world) { account(w, org).Alerts[0].Settled = 249 }},
		{"an alert at no threshold", "ALERT", func(w *world) {
			account(w, org).Alerts = append(account(w, org).Alerts, &storev1.Alert{Account: org, ThresholdPermille: 100, Settled: 50, Limit: 500})
		}},
		{"over the ceiling", "CORE", func(w *world) { w.history.Limits[2].Nanos = 359 }},
		{"over a ceiling that was lowered", "CORE", func(w *world) { w.history.Limits[1].Nanos = 359 }},
		{"not admitted one after the other", "ADMIT", func(w *world) { w.history.Limits[2].Nanos = 359 }},
		{"a repeat has another journal", "REPEAT", func(w *world) { w.attempt("s2b").Journal = "jr/e/0" }},
		{"a repeat has another time", "REPEAT", func(w *world) { w.attempt("s2b").Time++ }},
		{"settled and released", "REPEAT", func(w *world) { w.attempt("x3b").Outcome = OK }},
		{"another amount is accepted", "REPEAT", func(w *world) { w.attempt("s1b").Outcome = OK; w.attempt("s1b").Cost = 99 }},
		{"a charge has another amount", "REPEAT", func(w *world) { w.attempt("s4").First = 99 }},
		{"the first amount is another", "REPEAT", func(w *world) { w.attempt("s1b").First = 131 }},
		{"settled before anyone did", "REPEAT", func(w *world) { w.attempt("x3").Outcome = "HOLD_SETTLED" }},
		{"the hold is forgotten", "REPEAT", func(w *world) { w.attempt("s2b").Outcome = "HOLD_UNKNOWN" }},
		{"charged where expiry releases", "REPEAT", func(w *world) { w.attempt("r4").Charge = false }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld()
			late := strings.HasPrefix(c.name, "a batch is lost") || strings.HasPrefix(c.name, "the collected batch")
			if !late {
				c.spoil(w)
			}
			w.collected = strings.HasPrefix(c.name, "the collected batch")
			sources := w.seal(t)
			if late {
				c.spoil(w)
			}
			found := map[string]bool{}
			for _, v := range w.check(t, sources) {
				found[v.Check] = true
			}
			if !found[c.want] {
				t.Errorf("found %v, want %s", slices.Sorted(maps.Keys(found)), c.want)
			}
		})
	}
}

// Finding out what became of a first grant leaves one of nothing, without a budget's record.
func TestGrantOfNothing(t *testing.T) {
	w := newWorld()
	w.records.account(&storev1.Account{Budget: "b"}).Grants["e"] = &storev1.Grant{}
	if bad := CheckRecords(w.records); len(bad) > 0 {
		t.Error(bad)
	}
}

// What was collected is marked as it ended, and nothing else is.
func TestCollectedIsMarked(t *testing.T) {
	marks := func(w *world) []byte { return w.records.Collected["e/0000000000000000"].Marks }
	for name, spoil := range map[string]func(w *world){
		"not marked":            func(w *world) { marks(w)[2] = 0 },
		"marked as released":    func(w *world) { marks(w)[2] = 2 },
		"marked as late":        func(w *world) { marks(w)[4] |= 4 },
		"marked, but not ended": func(w *world) { marks(w)[2*6] = 1 },
		"still in the journal":  func(w *world) { w.records.Batches["e/0"] = nil },
		"gone beyond the tail":  func(w *world) { w.records.Tails["e"].Next = 0 },
		"no tail":               func(w *world) { delete(w.records.Tails, "e") },
		"kept below the tail":   func(w *world) { w.records.Tails["e"].Next = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.collected = true
			sources := w.seal(t)
			j, _, err := ReadJournal(sources...)
			if err != nil {
				t.Fatal(err)
			}
			if bad := CheckCollected(w.records, j); len(bad) > 0 {
				t.Fatal(bad)
			}
			spoil(w)
			if bad := CheckCollected(w.records, j); len(bad) == 0 || bad[0].Check != "MARK" {
				t.Errorf("found %v, want MARK", bad)
			}
		})
	}
}

// A ceiling that is lowered below what is granted may drain, one whose change was never answered may be in force, and what
// has moved to the collected is not told again.
func TestWhatIsAllowed(t *testing.T) {
	w := newWorld()
	account(w, team).Budget.Ceil = 100
	account(w, team).Alerts = append(account(w, team).Alerts, &storev1.Alert{Account: team, ThresholdPermille: 900, Settled: 370, Limit: 100})
	w.before = newWorld().records
	w.history.Limits[1].Nanos, w.history.Limits[1].End = 1, 0
	w.attempt("s2b").Journal, w.attempt("s2b").Time, w.attempt("s1b").First, w.attempt("s4").First = "", 0, -1, -1
	if bad := w.check(t, w.seal(t)); len(bad) > 0 {
		t.Error(bad)
	}
}

func TestFalseDenials(t *testing.T) {
	w := newWorld()
	j, _, err := ReadJournal(w.seal(t)...)
	if err != nil {
		t.Fatal(err)
	}
	// At 6.1 s the calls have 60, 130, 0 to 100, 0, 100 and 100; at most 490 is taken.
	for ceiling, want := range map[int64]FalseDenials{589: {Refusals: 1}, 590: {Refusals: 1, Count: 1, Nanos: 100, MostFree: 100, Ceiling: 590}} {
		w.history.Limits[1].Nanos = ceiling
		if got := FalseDenialsOf(&w.history, j, clock, stale, time.Second)["budgets/org"]; got == nil || *got != want {
			t.Errorf("under a ceiling of %d: %+v, want %+v", ceiling, got, want)
		}
	}
}

func TestCost(t *testing.T) {
	for tokens, want := range map[Tokens]int64{{}: 0, {Input: 1}: 2, {Cached: 1}: 1, {Output: 1}: 3, {Output: 2}: 7, {Input: 3, Cached: 2, Output: 3}: 17} {
		if got := rates.Cost(tokens); got != want {
			t.Errorf("%+v costs %d, want %d", tokens, got, want)
		}
	}
}

// A client that is killed leaves a line that is cut; the rest of its history is there.
func TestHistoryOfAKilledClient(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.jsonl")
	w, err := NewWriter(name)
	if err != nil {
		t.Fatal(err)
	}
	a := &Attempt{ID: "1", Op: Settle, Call: "c", Hold: "e/1", Ask: 5, Usage: Tokens{Input: 3}, Start: 7}
	for range 2 {
		if err := w.Write(a); err != nil {
			t.Fatal(err)
		}
		a.End, a.Outcome, a.Cost = 9, OK, 5
	}
	if err := w.Write(&Attempt{ID: "2", Start: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.file.WriteString(`{"id":"3","op":"set`); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := ReadAttempts(name)
	if err != nil || len(list) != 2 || list[0].ID != "2" || list[1].End != 9 || list[1].Cost != 5 {
		t.Errorf("read %v, error %v", list, err)
	}
}

func TestHoldOf(t *testing.T) {
	// Version 1, owner 000102…0f, number 300, and what follows.
	if got, err := HoldOf("AQABAgMEBQYHCAkKCwwNDg-sAgkJ"); err != nil || got != "000102030405060708090a0b0c0d0e0f/300" {
		t.Errorf("%q, error %v", got, err)
	}
	for _, bad := range []string{"", "!", "AQAB", "AQABAgMEBQYHCAkKCwwNDg-s"} {
		if got, err := HoldOf(bad); err == nil {
			t.Errorf("%q gives %q", bad, got)
		}
	}
}
