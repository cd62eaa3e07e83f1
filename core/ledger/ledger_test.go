package ledger

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chartergate/chartergate/core/money"
)

// The defaults of random tests here: enough to catch each guard that is removed. The flags override them.
func init() {
	for name, value := range map[string]string{"rapid.checks": "1500", "rapid.steps": "60"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
}

// records is the store: what transactions have written, with their revisions.
type records struct {
	rev     int64
	budgets map[AccountID]Budget
	grants  map[AccountID]map[string]Grant
	journal map[string][]*Entry // for ever: what was collected is in marks too
	next    map[string]uint64   // the first batch that is not collected
	marks   map[string]map[uint64]Mark
}

func newRecords() *records {
	return &records{
		budgets: map[AccountID]Budget{}, grants: map[AccountID]map[string]Grant{}, journal: map[string][]*Entry{},
		next: map[string]uint64{}, marks: map[string]map[uint64]Mark{},
	}
}

func (r *records) open(id AccountID, owner string) Opened {
	o := Opened{ID: id, Budget: r.budgets[id], Others: map[string]Grant{}, Rev: r.rev}
	for who, g := range r.grants[id] {
		if who == owner {
			o.Own = g
		} else {
			o.Others[who] = g
		}
	}
	return o
}

// commit writes changes all or nothing; false on a conflict.
func (r *records) commit(changes []AccountChange) bool {
	for _, c := range changes {
		if !c.GrantFixed && r.grants[c.ID][c.GrantOwner].Rev != c.Grant.Rev || !c.BudgetFixed && r.budgets[c.ID].Rev != c.Budget.Rev {
			return false
		}
	}
	r.rev++
	for _, c := range changes {
		if !c.GrantFixed {
			if r.grants[c.ID] == nil {
				r.grants[c.ID] = map[string]Grant{}
			}
			c.Grant.Rev = r.rev
			if r.grants[c.ID][c.GrantOwner] = c.Grant; c.DropGrant {
				delete(r.grants[c.ID], c.GrantOwner)
			}
		}
		if !c.BudgetFixed {
			c.Budget.Rev = r.rev
			r.budgets[c.ID] = c.Budget
		}
	}
	return true
}

// token is a hold as its client knows it.
type token struct {
	claim   Claim
	settled money.Nanos // -1: not yet; acknowledged
	late    bool
	forced  money.Nanos
	over    bool // released
}

// machine drives a ledger through random events and checks the invariants after each.
type machine struct {
	store  *records
	l      *Ledger
	now    time.Time
	owners int
	edits  int64
	ids    []AccountID // leaf 0, leaf 1, root
	limits []money.Nanos
	ceil   []money.Nanos // the highest ceiling that a grant was made under
	tokens []*token
	queued map[*Entry]*token
}

const limit = 1000

func newMachine() *machine {
	m := &machine{store: newRecords(), now: time.Unix(1_800_000_000, 0), queued: map[*Entry]*token{}}
	for i := range 3 {
		m.ids = append(m.ids, AccountID{Budget: fmt.Sprint("b", i), Start: 0, End: 1 << 40})
	}
	m.limits = []money.Nanos{limit, limit, limit + limit/2}
	m.ceil = append(m.ceil, m.limits...)
	m.start()
	return m
}

// start is a process that starts: a new owner, which takes over what others have left.
func (m *machine) start() {
	m.owners++
	m.l = New(fmt.Sprint("E", m.owners))
	m.l.seq = ChunkSize - 3 // its first chunk is soon over
	for i, id := range m.ids {
		a := m.l.Open(m.store.open(id, m.l.Owner), Terms{Limit: m.limits[i], Rev: m.edits}, m.now)
		a.slice = limit / 3 // as if it had been busy
	}
	for n := 1; n < m.owners; n++ {
		owner := fmt.Sprint("E", n)
		accounts := map[AccountID]bool{}
		for _, id := range m.ids {
			if _, ok := m.store.grants[id][owner]; ok {
				accounts[id] = true
			}
		}
		var settled []Settled
		for _, e := range m.store.journal[owner] {
			if e.Batch.N < m.store.next[owner] {
				continue // collected
			}
			settled = append(settled, Settled{Seq: e.Seq, Batch: e.Batch.N, Released: e.Kind == KindRelease})
		}
		ids := slices.SortedFunc(maps.Keys(accounts), func(a, b AccountID) int { return strings.Compare(a.Budget, b.Budget) })
		p := m.l.TakeOver(Predecessor{Owner: owner, Closed: len(accounts) == 0, Ready: m.now.Add(Quarantine(DefaultMaxTTL)), Accounts: ids, Known: true})
		p.LoadJournal(m.batches(owner), nil, settled)
	}
	m.queued = map[*Entry]*token{}
	for _, k := range m.tokens {
		k.claim.Found = nil // what another process has read
	}
}

func (m *machine) path(leaf int) []*Account {
	return []*Account{m.l.Account(m.ids[leaf]), m.l.Account(m.ids[2])}
}

func (m *machine) reserve(t *rapid.T) {
	if m.try(t) {
		m.adjust(t)
	}
}

// fill reserves until it is refused.
func (m *machine) fill(t *rapid.T) {
	for range 20 {
		held := len(m.tokens)
		if m.reserve(t); len(m.tokens) == held && len(m.l.attention) == 0 {
			return
		}
	}
}

// try reserves; true if that waits for a grant.
func (m *machine) try(t *rapid.T) bool {
	x := money.Nanos(rapid.IntRange(0, 600).Draw(t, "amount"))
	amounts := []money.Nanos{x, x / 2}
	ttl := time.Duration(rapid.IntRange(1, 600).Draw(t, "ttl")) * time.Second
	leaf := rapid.IntRange(0, 1).Draw(t, "leaf")
	res := m.l.Reserve(m.now, m.path(leaf), amounts, ttl, Call{}, false)
	switch {
	case res.Wait:
		return true
	case res.Hold != nil:
		h := res.Hold
		m.tokens = append(m.tokens, &token{settled: -1, claim: Claim{
			Owner: m.l.Owner, Seq: h.Seq, Amount: h.Amount, Expires: h.Expires, Path: []AccountID{m.ids[leaf], m.ids[2]},
		}})
	case res.Refused.Account == nil:
		t.Fatal("neither held, nor waiting, nor refused")
	}
	return false
}

// end settles or releases a hold. Where its chunk must be read first it is read now, and a later end goes on from there:
// anything may happen in between.
func (m *machine) end(t *rapid.T) {
	if len(m.tokens) == 0 {
		return
	}
	k := m.tokens[rapid.IntRange(0, len(m.tokens)-1).Draw(t, "token")]
	x := money.Nanos(rapid.IntRange(0, 400).Draw(t, "cost"))
	var e *Entry
	var before *Journaled
	var err error
	release := rapid.IntRange(0, 4).Draw(t, "release") == 0
	k.claim.reread = true // nobody else writes
	for {
		if release {
			e, before, err = m.l.Release(m.now, &k.claim)
		} else {
			e, before, err = m.l.Settle(m.now, &k.claim, Entry{Amount: x})
		}
		unread, ok := errors.AsType[*NotLoadedError](err)
		if !ok {
			break
		}
		k.claim.Found = &Found{m.store.marks[unread.Owner][unread.Seq], unread.Generation}
		if rapid.Bool().Draw(t, "pause") {
			return
		}
	}
	switch {
	case k.settled >= 0 && before == nil && !errors.Is(err, ErrSettled):
		t.Fatalf("settled at %d, then: entry %v, %v", k.settled, e, err)
	case k.over && before == nil && !errors.Is(err, ErrReleased):
		t.Fatalf("released, then: entry %v, %v", e, err)
	case err != nil && !errors.Is(err, ErrSettled) && !errors.Is(err, ErrReleased) && !errors.Is(err, ErrExpired):
		t.Fatal(err)
	case before != nil:
		m.checkBefore(t, k, before, x)
	case e != nil:
		m.queued[e] = k
	}
}

// checkBefore compares what is said of an earlier end with the journal.
func (m *machine) checkBefore(t *rapid.T, k *token, before *Journaled, x money.Nanos) {
	e := m.entry(k)
	if e == nil {
		t.Fatalf("hold %s/%d is said to have ended as %+v, the journal has nothing", k.claim.Owner, k.claim.Seq, before)
	}
	if before.Mark == 0 {
		if before.Batch != e.Batch.N {
			t.Fatalf("%+v, stands in batch %d", before, e.Batch.N)
		}
		return
	}
	again := k.claim.Marked(before.Mark)
	again.At(x, Call{})
	if again.Kind != e.Kind || again.Late != e.Late || !before.Mark.Fits(e.Seq, e.Amount) {
		t.Fatalf("the mark says %+v, the journal %+v", again, e)
	}
	if e.Kind == KindSettle && x == e.Amount && (again.Amount != e.Amount || again.Forced != e.Forced || again.Held != e.Held) {
		t.Fatalf("settled again at %d: %+v, first %+v", x, again, e)
	}
}

// collect moves batches of a journal into marks. What memory is told may come later: the answer of the store was lost.
func (m *machine) collect(t *rapid.T) {
	owner := fmt.Sprint("E", rapid.IntRange(max(1, m.owners-2), m.owners).Draw(t, "owner"))
	end, loaded := m.l.Committed(owner)
	if !loaded {
		t.Fatalf("%s is not loaded", owner)
	}
	if end > m.store.next[owner] {
		next := m.store.next[owner] + 1 + uint64(rapid.IntRange(0, int(end-m.store.next[owner])-1).Draw(t, "batches"))
		if m.store.marks[owner] == nil {
			m.store.marks[owner] = map[uint64]Mark{}
		}
		for _, e := range m.store.journal[owner] {
			if e.Batch.N < next {
				m.store.marks[owner][e.Seq] = MarkOf(e)
			}
		}
		m.store.next[owner] = next
	}
	if rapid.IntRange(0, 3).Draw(t, "lost") > 0 {
		m.l.Collected(owner, m.store.next[owner])
	}
}

func (m *machine) adjust(t *rapid.T) {
	if adj, ok := m.l.NextAdjustment(m.now); ok {
		if rapid.Bool().Draw(t, "reserve while it is sent") {
			m.try(t)
		}
		for _, c := range adj.Changes {
			for i, id := range m.ids {
				if id == c.ID && c.Budget.Alloc > m.store.budgets[id].Alloc {
					m.ceil[i] = max(m.ceil[i], m.limits[i])
				}
			}
		}
		if !m.store.commit(adj.Changes) {
			panic("a single owner has no conflicts")
		}
		m.l.AdjustmentCommitted(adj, m.store.rev, m.now)
	}
}

func (m *machine) commit(t *rapid.T) {
	b, _ := m.l.NextBatch(m.now, false)
	if b == nil {
		return
	}
	if b.N != m.batches(b.Owner) {
		t.Fatalf("batch %d of %s comes after %d batches", b.N, b.Owner, m.batches(b.Owner))
	}
	if !m.store.commit(b.Changes) {
		t.Fatal("a single owner has no conflicts")
	}
	m.store.journal[b.Owner] = append(m.store.journal[b.Owner], b.Entries...)
	m.l.BatchCommitted(b, m.store.rev, nil, m.now)
	if rapid.IntRange(0, 5).Draw(t, "lost") == 0 {
		return // the acknowledgement is lost: the client knows nothing
	}
	for _, e := range b.Entries {
		if k := m.queued[e]; k != nil {
			if e.Kind == KindRelease {
				k.over = true
			} else {
				k.settled, k.late, k.forced = e.Amount, e.Late, e.Forced
			}
		}
	}
}

// batches counts the batches in a journal.
func (m *machine) batches(owner string) uint64 {
	batches := map[uint64]bool{}
	for _, e := range m.store.journal[owner] {
		batches[e.Batch.N] = true
	}
	return uint64(len(batches))
}

func (m *machine) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.SampledFrom([]int{1, 5, 40, 300, 1200}).Draw(t, "seconds")) * time.Second)
	m.l.Expire(m.now)
	m.l.Sweep(m.now)
	for _, p := range m.l.Predecessors() {
		changes, done := m.l.NextReclaim(m.now, p)
		if len(changes) > 0 {
			if !m.store.commit(changes) {
				t.Fatal("a single owner has no conflicts")
			}
			m.l.Reclaimed(p, changes, m.store.rev, m.now)
		}
		p.Closed = p.Closed || done
	}
}

func (m *machine) edit(t *rapid.T) {
	i := rapid.IntRange(0, 2).Draw(t, "budget")
	m.limits[i] = money.Nanos(rapid.IntRange(0, 2*limit).Draw(t, "limit"))
	m.edits++
	m.l.Account(m.ids[i]).SetTerms(Terms{Limit: m.limits[i], Rev: m.edits})
}

func (m *machine) check(t *rapid.T) {
	settled := m.checkStore(t)
	for i, id := range m.ids {
		a := m.l.Account(id)
		if a.idle() < 0 {
			t.Fatalf("%s: spent %d + held %d of a grant of %d", id, a.own.Spent, a.held, a.own.Alloc)
		}
		if st := a.State(); st.Settled != settled[i] || st.Forced != m.store.budgets[id].Forced || st.Settled+st.Held > m.ceil[i]+st.Forced {
			t.Fatalf("%s: state %+v, journal %d, ceiling %d", id, st, settled[i], m.ceil[i])
		}
	}
}

// checkStore checks the invariants of the records and of what clients were told. It gives what is settled by account.
func (m *machine) checkStore(t *rapid.T) (settled [3]money.Nanos) {
	for i, id := range m.ids {
		b := m.store.budgets[id]
		var alloc, spent, journaled, forced money.Nanos
		for who, g := range m.store.grants[id] {
			alloc, spent = alloc+g.Alloc, spent+g.Spent
			if g.Spent > g.Alloc {
				t.Fatalf("I3: %s has spent %d of %d", who, g.Spent, g.Alloc)
			}
		}
		if b.Alloc != b.Base+alloc {
			t.Fatalf("I1: %s: alloc %d, base %d + grants %d", id, b.Alloc, b.Base, alloc)
		}
		if b.Alloc > m.ceil[i]+b.Forced {
			t.Fatalf("I2: %s: alloc %d > ceiling %d + forced %d", id, b.Alloc, m.ceil[i], b.Forced)
		}
		seen := map[string]bool{}
		for owner, entries := range m.store.journal {
			for _, e := range entries {
				key := fmt.Sprint(owner, "/", e.Seq)
				for _, at := range e.Path {
					if at != id {
						continue
					}
					if seen[key] {
						t.Fatalf("I4: %s is twice in the journal", key)
					}
					seen[key] = true
					journaled, forced = journaled+e.Amount, forced+e.Forced
				}
			}
		}
		if b.Base+spent != journaled || b.Forced != forced {
			t.Fatalf("I7: %s: base %d + spent %d, journal %d; forced %d, journal %d", id, b.Base, spent, journaled, b.Forced, forced)
		}
		settled[i] = journaled
		// CORE: live holds and what was settled of them in time never exceed the ceiling.
		var admitted money.Nanos
		for _, k := range m.tokens {
			if k.claim.Path[0] != id && k.claim.Path[1] != id {
				continue
			}
			e := m.entry(k)
			switch {
			case e == nil && m.now.Before(k.claim.Expires):
				admitted += k.claim.Amount
			case e != nil && !e.Late:
				admitted += e.Amount - e.Forced
			}
		}
		if admitted > m.ceil[i] {
			t.Fatalf("CORE: %s: admitted %d > ceiling %d", id, admitted, m.ceil[i])
		}
	}
	for _, k := range m.tokens { // I6: what was acknowledged is in the journal
		if e := m.entry(k); k.settled >= 0 && (e == nil || e.Amount != k.settled) || k.over && e == nil {
			t.Fatalf("I6: hold %s/%d was acknowledged at %d, the journal has %v", k.claim.Owner, k.claim.Seq, k.settled, e)
		}
	}
	return settled
}

func (m *machine) entry(k *token) *Entry {
	for _, e := range m.store.journal[k.claim.Owner] {
		if e.Seq == k.claim.Seq {
			return e
		}
	}
	return nil
}

func TestInvariantsHoldThroughCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		t.Repeat(map[string]func(*rapid.T){
			"reserve": m.reserve, "fill": m.fill, "end": m.end, "end2": m.end, "adjust": m.adjust,
			"commit": m.commit, "commit2": m.commit, "collect": m.collect, "pass": m.pass, "edit": m.edit,
			"crash": func(t *rapid.T) {
				if rapid.IntRange(0, 2).Draw(t, "crash") == 0 {
					m.start()
				}
			},
			"": m.check,
		})
	})
}

func opened(t *testing.T, limit money.Nanos) (*Ledger, *Account) {
	t.Helper()
	l := New("E")
	id := AccountID{Budget: "b", End: 1 << 40}
	return l, l.Open(Opened{ID: id, Others: map[string]Grant{}}, Terms{Limit: limit, Thresholds: []int32{800}}, time.Unix(1000, 0))
}

func TestReserveWaitsForAGrantRatherThanTakingLess(t *testing.T) {
	l, a := opened(t, 100)
	now := time.Unix(1000, 0)
	if res := l.Reserve(now, []*Account{a}, []money.Nanos{60, 1}, time.Minute, Call{}, false); !res.Wait {
		t.Fatalf("%+v; want to wait", res)
	}
	adj, ok := l.NextAdjustment(now)
	if !ok || adj.Changes[0].Grant.Alloc < 60 {
		t.Fatalf("adjustment %+v", adj)
	}
	l.AdjustmentCommitted(adj, 1, now)
	res := l.Reserve(now, []*Account{a}, []money.Nanos{60, 1}, time.Minute, Call{}, false)
	if res.Hold == nil || res.Choice != 0 {
		t.Fatalf("%+v", res)
	}
	if res := l.Reserve(now, []*Account{a}, []money.Nanos{41}, time.Minute, Call{}, false); res.Choice != -1 || res.Refused.Remaining != 40 || !res.Refused.InFlight() {
		t.Errorf("%+v; want a refusal with 40 left, as holds are in flight", res)
	}
}

// What a crash puts out of reach stays small, however fast a budget is spent.
func TestASliceIsAHundredthOfTheCeilingOrFourCalls(t *testing.T) {
	for call, most := range map[money.Nanos]money.Nanos{10: 1000, 2000: 8000} {
		l, a := opened(t, 100_000)
		now, settled := time.Unix(1000, 0), money.Nanos(0)
		for settled < 50_000 { // without any time passing: the fastest there can be
			res := l.Reserve(now, []*Account{a}, []money.Nanos{call}, time.Minute, Call{}, false)
			if res.Wait {
				adj, _ := l.NextAdjustment(now)
				l.AdjustmentCommitted(adj, 1, now)
				if idle := a.idle() - call; idle > most+most/2 {
					t.Fatalf("calls of %d: %d is granted ahead, at most %d should be", call, idle, most)
				}
				continue
			}
			if _, _, err := l.Settle(now, &Claim{Owner: "E", Seq: res.Hold.Seq}, Entry{Amount: call}); err != nil {
				t.Fatal(err)
			}
			b, _ := l.NextBatch(now, false)
			l.BatchCommitted(b, 1, nil, now)
			settled += call
		}
	}
}

func TestBatchesAreBounded(t *testing.T) {
	l, a := opened(t, 1<<40)
	now := time.Unix(1000, 0)
	for range 2*MaxBatchEntries + 1 {
		if _, err := l.Use(now, []AccountID{a.ID}, Entry{Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []int{MaxBatchEntries, MaxBatchEntries, 1} {
		b, _ := l.NextBatch(now.Add(MaxLinger), false)
		if b == nil || len(b.Entries) != want || b.N != uint64(i) {
			t.Fatalf("batch %d: %v", i, b)
		}
		if again, _ := l.NextBatch(now, false); again != nil {
			t.Fatal("two batches in flight")
		}
		l.BatchCommitted(b, int64(i+1), nil, now)
	}
	if a.State().Settled != 2*MaxBatchEntries+1 {
		t.Errorf("settled %d", a.State().Settled)
	}
}

func TestAlertIsDueOnceAndAfterReopening(t *testing.T) {
	l, a := opened(t, 100)
	now := time.Unix(1000, 0)
	spend := func(x money.Nanos) []Alert {
		if _, err := l.Use(now, []AccountID{a.ID}, Entry{Amount: x}); err != nil {
			t.Fatal(err)
		}
		b, _ := l.NextBatch(now, false)
		return l.BatchCommitted(b, 1, nil, now)
	}
	if due := spend(79); len(due) != 0 {
		t.Errorf("at 79%%: %v", due)
	}
	if due := spend(1); len(due) != 1 || due[0].Permille != 800 || due[0].Settled != 80 {
		t.Errorf("at 80%%: %v", due)
	}
	if due := spend(15); len(due) != 0 {
		t.Errorf("again: %v", due)
	}
	fresh := New("F").Open(Opened{ID: a.ID, Budget: a.bud, Others: map[string]Grant{"E": a.own}}, a.terms, now)
	if due := fresh.Due(now); len(due) != 1 {
		t.Errorf("an alert that was lost in a crash: %v", due)
	}
}
