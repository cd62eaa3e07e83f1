package etcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/core/routing"
	"github.com/chartergate/chartergate/core/usage"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

var sealed = time.UnixMilli(1_790_000_000_000)

const periodStart, periodEnd = 1_788_220_800, 1_790_812_800

func account(budget string) ledger.AccountID {
	return ledger.AccountID{Budget: budget, Start: periodStart, End: periodEnd}
}

// newAccount is the first write of an account: a grant and the ceiling that it is taken from.
func newAccount(id ledger.AccountID, owner string, alloc, spent money.Nanos) ledger.AccountChange {
	return ledger.AccountChange{
		ID: id, GrantOwner: owner, Grant: ledger.Grant{Alloc: alloc, Spent: spent}, Budget: ledger.Budget{Ceil: 1000, Alloc: alloc},
	}
}

func settled(seq uint64, amount money.Nanos, path ...ledger.AccountID) []*ledger.Entry {
	return []*ledger.Entry{{Seq: seq, Kind: ledger.KindSettle, Amount: amount, Held: amount, Path: path, Time: sealed}}
}

func batch(owner string, n uint64, entries []*ledger.Entry, changes ...ledger.AccountChange) *ledger.Batch {
	return &ledger.Batch{Owner: owner, N: n, Time: sealed, Entries: entries, Changes: changes}
}

func adjust(t *testing.T, l *etcd.Ledger, changes ...ledger.AccountChange) int64 {
	t.Helper()
	rev, err := l.Adjust(t.Context(), changes)
	if err != nil {
		t.Fatalf("adjust: %v", err)
	}
	return rev
}

func mustAppend(t *testing.T, l *etcd.Ledger, b *ledger.Batch) (rev int64, hash []byte) {
	t.Helper()
	rev, hash, err := l.Append(t.Context(), b)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return rev, hash
}

func opened(t *testing.T, l *etcd.Ledger, ids ...ledger.AccountID) []ledger.Opened {
	t.Helper()
	o, err := l.Open(t.Context(), ids)
	if err != nil || len(o) != len(ids) {
		t.Fatalf("open %v: %+v, error %v", ids, o, err)
	}
	return o
}

// unescaped are names of keys that callers choose, and that must not be mistaken for each other or for other records.
var unescaped = []string{"a", "a/b", "a/", "/", "a%2Fb", "%", "a b", "a#b", "a?b", "-", "..", "k:a", "o:feature", "日本語/é", "a\x00b", "\xf0\x9f\x92\xb8", strings.Repeat("x", 128)}

// Each account has records of its own, however its key is written and whatever else is kept of the budget.
func TestLedgerOpen(t *testing.T) {
	client := withDefaultLimits(t)
	first, gone := claimed(t, client)
	plain := account("acme")
	ids := []ledger.AccountID{plain}
	for _, key := range unescaped {
		id := account("acme")
		id.Key = key
		ids = append(ids, id)
	}
	for _, feature := range []string{"feature", "a"} {
		id := account("acme")
		id.Overflow = feature
		ids = append(ids, id)
	}
	longer, later := account("acme-2"), account("acme")
	later.Start, later.End = periodEnd, periodEnd+1
	tenTimes := account("acme")
	tenTimes.Start *= 10
	ids = append(ids, longer, later, tenTimes)
	for len(ids) < 100 { // more than one transaction reads
		ids = append(ids, account(fmt.Sprintf("other-%d", len(ids))))
	}

	for _, o := range opened(t, first, ids...) {
		if o.Budget != (ledger.Budget{}) || o.Own != (ledger.Grant{}) || len(o.Others)+len(o.Alerted) > 0 {
			t.Fatalf("%q was never used: %+v", o.ID.String(), o)
		}
	}
	theirs := map[ledger.AccountID]ledger.Grant{}
	for i, id := range ids {
		g := ledger.Grant{Alloc: money.Nanos(1000 + i), Spent: money.Nanos(i), Gen: int64(i)}
		rev := adjust(t, first, ledger.AccountChange{ID: id, GrantOwner: gone, Grant: g, Budget: ledger.Budget{
			Ceil: money.Nanos(9000 + i), Rollover: money.Nanos(i), Alloc: g.Alloc + 7, Base: 7, Forced: 3, Gen: g.Gen,
			TermsRev: int64(2 * i), Tight: i%2 == 0, Sealed: i%3 == 0,
		}})
		g.Rev = rev
		theirs[id] = g
		if _, err := first.RecordAlert(t.Context(), ledger.Alert{ID: id, Permille: int32(i), Time: sealed}); err != nil {
			t.Fatal(err)
		}
	}
	resign(t, first)

	l, owner := claimed(t, client)
	own := ledger.Grant{Alloc: 5, Spent: 2}
	own.Rev = adjust(t, l, ledger.AccountChange{ID: plain, GrantOwner: owner, Grant: own, BudgetFixed: true})
	for i, o := range opened(t, l, ids...) {
		rev := theirs[ids[i]].Rev
		want := ledger.Opened{
			ID: ids[i], Others: map[string]ledger.Grant{gone: theirs[ids[i]]}, Alerted: []int32{int32(i)},
			Budget: ledger.Budget{
				Ceil: money.Nanos(9000 + i), Rollover: money.Nanos(i), Alloc: money.Nanos(1007 + i), Base: 7, Forced: 3, Gen: int64(i), Rev: rev,
				TermsRev: int64(2 * i), Tight: i%2 == 0, Sealed: i%3 == 0,
			},
			Rev: own.Rev, // nothing was written since
		}
		if i == 0 {
			want.Own = own
		}
		if !reflect.DeepEqual(o, want) {
			t.Errorf("%q is\n%+v, want\n%+v", o.ID.String(), o, want)
		}
	}

	// All that is kept of one budget in one period, and no more.
	keys, err := l.Keys(t.Context(), "acme", periodStart)
	inPeriod := slices.DeleteFunc(slices.Clone(ids), func(id ledger.AccountID) bool { return id.Budget != "acme" || id.Start != periodStart })
	if err != nil || len(keys) != len(inPeriod) || !containsAll(keys, inPeriod) {
		t.Errorf("keys %v, error %v; want %v", keys, err, inPeriod)
	}
	for of, want := range map[string][]ledger.AccountID{gone: ids, owner: {plain}, "nobody": nil} {
		if got, err := l.Grants(t.Context(), of); err != nil || len(got) != len(want) || !containsAll(got, want) {
			t.Errorf("grants of %s: %d accounts, error %v; want %d", of, len(got), err, len(want))
		}
	}
}

// The largest transactions of the ledger fit an etcd that nobody has configured.
func TestLedgerLargestTransactions(t *testing.T) {
	l, owner := claimed(t, withDefaultLimits(t))
	changes := make([]ledger.AccountChange, ledger.MaxBatchAccounts)
	ids := make([]ledger.AccountID, len(changes))
	for i := range changes {
		ids[i] = account(fmt.Sprintf("b-%d", i))
		changes[i] = newAccount(ids[i], owner, 100, 0)
	}
	adjust(t, l, changes...)
	for i, o := range opened(t, l, ids...) {
		changes[i].Grant, changes[i].Budget = o.Own, o.Budget
	}
	entries := make([]*ledger.Entry, ledger.MaxBatchEntries)
	for i := range entries {
		entries[i] = settled(uint64(i+1), 1, ids[i%len(ids)])[0]
		if i < ledger.MaxBatchAccounts {
			entries[i].RequestID = fmt.Sprintf("request-%d", i)
		}
	}
	mustAppend(t, l, batch(owner, 0, entries, changes...))
}

func withDefaultLimits(t *testing.T) *clientv3.Client {
	t.Helper()
	return dial(t, startWithTxnOps(t, embed.DefaultMaxTxnOps))
}

func containsAll[T comparable](list, all []T) bool {
	return !slices.ContainsFunc(all, func(x T) bool { return !slices.Contains(list, x) })
}

// A transaction counts on every record that it compares, and writes all or nothing.
func TestLedgerAdjustConflict(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client)
	a, b := account("a"), account("b")
	adjust(t, l, newAccount(a, owner, 100, 0))
	current := opened(t, l, a)[0]
	grant := func(c *ledger.AccountChange) { c.Grant.Rev-- }
	ceiling := func(c *ledger.AccountChange) { c.Budget.Rev-- }
	for _, c := range []struct {
		name  string
		stale func(*ledger.AccountChange)
	}{
		{"grant", grant},
		{"ceiling", ceiling},
		{"grant that must not exist", func(c *ledger.AccountChange) { c.Grant.Rev, c.BudgetFixed = 0, true }},
		{"ceiling that must not exist", func(c *ledger.AccountChange) { c.Budget.Rev, c.GrantFixed = 0, true }},
		{"dropped grant", func(c *ledger.AccountChange) { grant(c); c.DropGrant = true }},
	} {
		kept := dump(t, client)
		change := ledger.AccountChange{ID: a, GrantOwner: owner, Grant: current.Own, Budget: current.Budget}
		c.stale(&change)
		if _, err := l.Adjust(t.Context(), []ledger.AccountChange{newAccount(b, owner, 1, 0), change}); !errors.Is(err, store.ErrConflict) {
			t.Errorf("stale %s: error %v, want ErrConflict", c.name, err)
		}
		if now := dump(t, client); !reflect.DeepEqual(now, kept) {
			t.Errorf("stale %s: etcd holds %v, want %v", c.name, now, kept)
		}
	}
}

func TestLedgerJournal(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, owner := claimed(t, client)
	a, run := account("acme"), account("acme-run")
	run.Key = "run/1"
	spend := func(b *ledger.Batch) {
		b.Changes = nil
		for _, o := range opened(t, l, a, run) {
			g := o.Own
			for _, e := range b.Entries {
				g.Spent += e.Amount
			}
			b.Changes = append(b.Changes, ledger.AccountChange{ID: o.ID, GrantOwner: owner, Grant: g, BudgetFixed: true})
		}
	}
	if _, hash, settled, err := l.Journal(t.Context(), owner); err != nil || hash != nil || settled != nil {
		t.Errorf("a journal of nothing: %v, %v, error %v", hash, settled, err)
	}
	adjust(t, l, newAccount(a, owner, 500, 0), newAccount(run, owner, 500, 0))

	one := batch(owner, 0, []*ledger.Entry{
		{
			Seq: 1, Kind: ledger.KindSettle, Amount: 30, Forced: 10, Held: 20, Late: true, Path: []ledger.AccountID{run, a}, Time: sealed.Add(time.Second),
			Usage: usage.Usage{InputTokens: 5, ToolCalls: map[string]int64{"web_search": 2}}, Outcome: usage.OutcomeSuccess,
			Cost: usage.Cost{Input: 1, ContextOverhead: 2, Output: 3, Retrieval: 4, Tools: 5, Compute: 6, Other: 9}, Saved: usage.Saved{CacheRead: 1, CacheWrite: 2, Downgrade: -3},
			Call: ledger.Call{
				Feature: "research", Tier: "premium", Model: "m-1", User: "u", Cohort: "c", Agent: "g", Run: "run/1", PromptPattern: "p", Task: "t/1", Wanted: "m-2", ServiceTier: "batch", Region: "eu",
				Effect: routing.Downgrade, Time: sealed.Add(-time.Minute), Signals: usage.CallSignals{Flags: usage.Prefixed | usage.Repeated, RepeatTokens: 3, LateTokens: 1, RunGrowth: 2, Untrimmed: 9},
			},
		},
		{Seq: 2, Kind: ledger.KindRelease, Held: 20, Path: []ledger.AccountID{a}, Time: sealed, Call: ledger.Call{Time: sealed}},
		{
			Kind: ledger.KindUsage, Amount: 7, Forced: 7, Path: []ledger.AccountID{a}, Time: sealed, RequestID: "usage-1", RequestHash: []byte{1, 2},
			Call: ledger.Call{Feature: "research", Tier: "premium", Model: "m-1", Time: sealed.Add(-time.Second)},
		},
	})
	spend(one)
	rev, hash := mustAppend(t, l, one)
	if againRev, againHash := mustAppend(t, l, one); againRev != rev || !bytes.Equal(againHash, hash) {
		t.Errorf("the same batch again: revision %d, was %d", againRev, rev)
	}
	if o := opened(t, l, a)[0]; o.Own.Spent != 37 || o.Own.Rev != rev {
		t.Errorf("the grant is %+v; want 37 spent, once, at revision %d", o.Own, rev)
	}

	two := batch(owner, 1, settled(3, 40, a))
	two.PrevHash = hash
	spend(two)
	_, hash2 := mustAppend(t, l, two)

	kept := dump(t, client)
	foreign := batch(owner, 1, settled(3, 41, a))
	foreign.PrevHash = hash
	spend(foreign)
	if _, _, err := l.Append(t.Context(), foreign); !errors.Is(err, store.ErrTaken) {
		t.Errorf("another batch at a number that is taken: error %v, want ErrTaken", err)
	}
	stale := batch(owner, 2, settled(4, 1, a))
	spend(stale)
	stale.Changes[0].Grant.Rev--
	if _, _, err := l.Append(t.Context(), stale); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a batch on a grant that has changed: error %v, want ErrConflict", err)
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("after the refused batches etcd holds %v, want %v", now, kept)
	}

	for i, want := range one.Entries[:2] {
		got, err := l.Entry(t.Context(), owner, 0, want.Seq)
		checkEntry(t, fmt.Sprintf("entry %d", i), got, err, want, owner, 0)
	}
	got, err := l.Usage(t.Context(), "usage-1")
	known := *one.Entries[2]
	known.Path = nil // of usage, what a repeated request is answered from
	checkEntry(t, "usage", got, err, &known, owner, 0)
	for name, find := range map[string]func() (*ledger.Entry, error){
		"an entry of another batch":   func() (*ledger.Entry, error) { return l.Entry(t.Context(), owner, 0, 3) },
		"a batch that is not there":   func() (*ledger.Entry, error) { return l.Entry(t.Context(), owner, 9, 1) },
		"an owner that is not there":  func() (*ledger.Entry, error) { return l.Entry(t.Context(), "nobody", 0, 1) },
		"a request that is not there": func() (*ledger.Entry, error) { return l.Usage(t.Context(), "usage-2") },
	} {
		if e, err := find(); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %+v, error %v; want ErrNotFound", name, e, err)
		}
	}

	next, last, list, err := l.Journal(t.Context(), owner)
	want := []ledger.Settled{{Seq: 1, Batch: 0}, {Seq: 2, Batch: 0, Released: true}, {Seq: 3, Batch: 1}}
	if err != nil || next != 2 || !bytes.Equal(last, hash2) || !slices.Equal(list, want) {
		t.Errorf("the journal ends at %d with hash %x and holds %v, error %v; want 2, %x, %v", next, last, list, err, hash2, want)
	}
}

func checkEntry(t *testing.T, what string, got *ledger.Entry, err error, want *ledger.Entry, owner string, n uint64) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if got.Batch.Owner != owner || got.Batch.N != n {
		t.Errorf("%s stands in batch %d of %s, want %d of %s", what, got.Batch.N, got.Batch.Owner, n, owner)
	}
	plain := *got
	plain.Batch = nil
	if !reflect.DeepEqual(&plain, want) {
		t.Errorf("%s is\n%+v, want\n%+v", what, &plain, want)
	}
}

func TestLedgerAlerts(t *testing.T) {
	l, _ := claimed(t, startEmbedded(t, t.TempDir()).Client())
	keyed := account("acme")
	keyed.Key = "run/1"
	alert := func(id ledger.AccountID, permille int32, after time.Duration) ledger.Alert {
		return ledger.Alert{ID: id, Permille: permille, Settled: 80, Limit: 100, Time: sealed.Add(after), OwnerName: "Ada Bauer", OwnerMail: "ada@example.com"}
	}
	first, second, third, elsewhere := alert(account("acme"), 500, 0), alert(account("acme"), 800, time.Minute), alert(keyed, 800, time.Hour), alert(account("acme-2"), 800, time.Second)
	for _, a := range []ledger.Alert{second, third, first, elsewhere} {
		if isFirst, err := l.RecordAlert(t.Context(), a); err != nil || !isFirst {
			t.Errorf("%+v is recorded: first %v, error %v", a, isFirst, err)
		}
	}
	again := first
	again.Settled, again.Time = 99, sealed.Add(24*time.Hour)
	if isFirst, err := l.RecordAlert(t.Context(), again); err != nil || isFirst {
		t.Errorf("an alert that is there is recorded again: first %v, error %v", isFirst, err)
	}
	for _, c := range []struct {
		budget string
		limit  int
		want   []ledger.Alert
	}{
		{"acme", 10, []ledger.Alert{third, second, first}},
		{"acme", 2, []ledger.Alert{third, second}},
		{"acme-2", 10, []ledger.Alert{elsewhere}},
		{"", 3, []ledger.Alert{third, second, elsewhere}},
		{"nothing", 10, nil},
	} {
		if got, err := l.Alerts(t.Context(), c.budget, c.limit); err != nil || !slices.EqualFunc(got, c.want, func(a, b ledger.Alert) bool { return a == b }) {
			t.Errorf("alerts of %q, at most %d: %+v, error %v; want %+v", c.budget, c.limit, got, err, c.want)
		}
	}
	if got, err := l.AccountAlerts(t.Context(), account("acme")); err != nil || !slices.Equal(got, []ledger.Alert{second, first}) {
		t.Errorf("alerts of the account: %+v, error %v", got, err)
	}
}
