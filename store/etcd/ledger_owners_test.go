package etcd_test

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
)

const quarantine = 10 * time.Minute

// Any number of processes own the ledger at once: each knows the others' addresses, and who is gone.
func TestLedgerRoster(t *testing.T) {
	address := startListening(t)
	sessions := map[string]*etcd.Ledger{}
	addrs := map[string]string{}
	var ids []string
	for _, addr := range []string{"10.0.0.1:50051", "10.0.0.2:50051", "[fd00::3]:50051"} {
		client := dial(t, address)
		l := etcd.NewLedger(etcd.LedgerConfig{KV: client, Lease: client})
		owner, err := l.Claim(t.Context(), addr)
		if err != nil || sessions[owner] != nil {
			t.Fatalf("claimed as %q beside %v: error %v", owner, ids, err)
		}
		sessions[owner], addrs[owner] = l, addr
		ids = append(ids, owner)
	}
	check := func(when string, live []string, gone []string, successors map[string]string) {
		t.Helper()
		for _, id := range live {
			r := heartbeat(t, sessions[id])
			seen := map[string]string{}
			for _, o := range r.Owners {
				seen[o.ID] = o.Addr
				if o.PID != int64(os.Getpid()) || time.Since(o.Start).Abs() > time.Minute || o.Host == "" {
					t.Errorf("%s: owner %+v", when, o)
				}
			}
			want := map[string]string{}
			for _, id := range live {
				want[id] = addrs[id]
			}
			if !reflect.DeepEqual(seen, want) || len(r.Gone) != len(gone) || !containsAll(r.Gone, gone) || !reflect.DeepEqual(r.Successors, successors) {
				t.Errorf("%s: %s sees %v, gone %v, successors %v; want %v, %v, %v", when, id, seen, r.Gone, r.Successors, want, gone, successors)
			}
		}
	}
	whereabouts := func(when, owner string, want store.Whereabouts) {
		t.Helper()
		for id, l := range sessions {
			if got, err := l.Find(t.Context(), owner); err != nil || got != want {
				t.Errorf("%s: %s finds %+v, error %v; want %+v", when, id, got, err, want)
			}
		}
	}
	a, b, c := ids[0], ids[1], ids[2]
	none := map[string]string{}
	check("all live", ids, nil, none)
	whereabouts("it lives", c, store.Whereabouts{Addr: addrs[c], Known: true})
	whereabouts("it never was", "nobody", store.Whereabouts{})

	adjust(t, sessions[c], newAccount(account("acme"), c, 100, 0))
	endSession(t, dial(t, address), c)
	if _, err := sessions[c].Heartbeat(t.Context()); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the heartbeat of an owner whose lease has run out: error %v, want ErrFenced", err)
	}
	check("one is gone", []string{a, b}, []string{c}, none)
	whereabouts("it is gone", c, store.Whereabouts{Known: true})

	takeOver(t, sessions[b], c, quarantine)
	check("it is taken over", []string{a, b}, nil, map[string]string{c: b})
	whereabouts("it is taken over", c, store.Whereabouts{Known: true, Successor: b})

	endSession(t, dial(t, address), b)
	check("its successor is gone too", []string{a}, []string{b, c}, none)

	// Who leaves in order leaves nothing to take over.
	if err := sessions[a].Resign(t.Context(), true); err != nil {
		t.Errorf("resign: %v", err)
	}
	whereabouts("it has resigned", a, store.Whereabouts{Known: true, Closed: true})
	last, _ := claimed(t, dial(t, address))
	if r := heartbeat(t, last); slices.Contains(r.Gone, a) || len(r.Gone) != 2 || len(r.Owners) != 1 {
		t.Errorf("after a clean end the roster is %+v", r)
	}
	if _, err := last.TakeOver(t.Context(), a, quarantine); !errors.Is(err, store.ErrConflict) {
		t.Errorf("takeover of an owner that is closed: error %v, want ErrConflict", err)
	}
	if _, err := sessions[a].Adjust(t.Context(), []ledger.AccountChange{newAccount(account("late"), a, 1, 0)}); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a write after the end: error %v, want ErrFenced", err)
	}
}

// The roster's epoch is the one that charter.Snapshot.Epoch has once it knows all control records.
func TestLedgerRosterEpoch(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, _ := claimed(t, client)
	before := heartbeat(t, l).Epoch
	resp, err := client.Put(t.Context(), etcd.Prefix+"epoch", "x")
	if err != nil {
		t.Fatal(err)
	}
	if after := heartbeat(t, l).Epoch; after <= before || after != resp.Header.Revision {
		t.Errorf("the epoch is %d, was %d; want %d", after, before, resp.Header.Revision)
	}
}

// Owners grant themselves parts of one ceiling, each in a record of its own, and see what others wrote of the budget.
func TestLedgerManyOwners(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	first, one := claimed(t, client)
	second, two := claimed(t, client)
	a := account("acme")

	type seen struct {
		id  ledger.AccountID
		bud ledger.Budget
	}
	came := make(chan seen, 10)
	began := make(chan struct{})
	go func() {
		close(began)
		_ = second.Watch(t.Context(), func(id ledger.AccountID, b ledger.Budget) { came <- seen{id, b} })
	}()
	<-began
	// A watch sees what is written once it is there: write until the first comes.
	probe := account("probe")
	for i := int64(1); len(came) == 0; i++ {
		change := ledger.AccountChange{ID: probe, GrantFixed: true, Budget: ledger.Budget{Ceil: money.Nanos(i)}}
		if i > 1 {
			change.Budget.Rev = opened(t, first, probe)[0].Budget.Rev
		}
		adjust(t, first, change)
	}

	rev := adjust(t, first, newAccount(a, one, 100, 0))
	o := opened(t, second, a)[0]
	if o.Own != (ledger.Grant{}) || !reflect.DeepEqual(o.Others, map[string]ledger.Grant{one: {Alloc: 100, Rev: rev}}) {
		t.Fatalf("another's grant: %+v", o)
	}
	more := ledger.AccountChange{ID: a, GrantOwner: two, Grant: ledger.Grant{Alloc: 50}, Budget: o.Budget}
	more.Budget.Alloc += 50
	adjust(t, second, more)
	stale := raised(t, first, a, one)
	stale.Budget.Rev = rev
	if _, err := first.Adjust(t.Context(), []ledger.AccountChange{stale}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a grant of what another has taken meanwhile: error %v, want ErrConflict", err)
	}
	for _, want := range []money.Nanos{100, 150} {
		for {
			select {
			case s := <-came:
				if s.id == probe {
					continue
				}
				if s.id != a || s.bud.Alloc != want || s.bud.Rev == 0 {
					t.Errorf("the watch shows %+v, want %d granted of %s", s, want, a)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("the watch does not show that %d are granted", want)
			}
			break
		}
	}
}

// An owner that is gone: its journal is read and written on, its grants stay put for the quarantine, then it is closed.
func TestLedgerTakeOver(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	first, gone := claimed(t, client)
	a, b := account("a"), account("b")
	adjust(t, first, newAccount(a, gone, 100, 0), newAccount(b, gone, 100, 100))
	_, hash := mustAppend(t, first, batch(gone, 0, settled(1, 0, a)))
	second, _ := claimed(t, client)
	if _, err := second.TakeOver(t.Context(), gone, quarantine); !errors.Is(err, store.ErrConflict) {
		t.Errorf("takeover of an owner that lives: error %v, want ErrConflict", err)
	}
	endSession(t, client, gone)

	lease := func() int64 {
		t.Helper()
		resp, err := client.Get(t.Context(), etcd.Prefix+"qt/"+gone)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("the quarantine: %v, error %v", resp, err)
		}
		return resp.Kvs[0].Lease
	}
	takeOver(t, second, gone, quarantine)
	started := lease()
	if ttl, err := client.TimeToLive(t.Context(), clientv3.LeaseID(started)); err != nil || ttl.GrantedTTL != int64(quarantine/time.Second) {
		t.Errorf("the quarantine lasts %+v, error %v; want %s", ttl, err, quarantine)
	}
	l, _ := claimed(t, client)
	if _, err := l.TakeOver(t.Context(), gone, quarantine); !errors.Is(err, store.ErrConflict) {
		t.Errorf("takeover of an owner that another looks after: error %v, want ErrConflict", err)
	}
	resign(t, second)
	began := time.Now()
	took := takeOver(t, l, gone, quarantine) // the successor of the successor
	if lease() != started {
		t.Error("the quarantine began anew with another successor")
	}
	if took.Ready.Before(began.Add(quarantine)) {
		t.Errorf("ready at %s: a successor on another machine counts all of the quarantine on its own clock, from %s", took.Ready, began)
	}
	if again := takeOver(t, l, gone, quarantine); again.Rev != took.Rev {
		t.Errorf("the takeover is revision %d when it is asked for again, was %d", again.Rev, took.Rev)
	}

	// Its holds can be settled, by whoever has taken it over.
	if next, prev, list, err := l.Journal(t.Context(), gone); err != nil || next != 1 || !reflect.DeepEqual(prev, hash) || len(list) != 1 {
		t.Errorf("its journal ends at %d with %v, error %v", next, list, err)
	}
	spend := func(o ledger.Opened, amount money.Nanos) ledger.AccountChange {
		c := ledger.AccountChange{ID: o.ID, GrantOwner: gone, Grant: o.Others[gone], BudgetFixed: true}
		c.Grant.Spent += amount
		return c
	}
	mustAppend(t, l, batch(gone, 1, settled(2, 40, a), spend(opened(t, l, a)[0], 40)))

	// Nothing is reclaimed in quarantine: what is settled in full may still be missing settlements that are to come.
	reclaim := func(o ledger.Opened) ledger.AccountChange {
		c := ledger.AccountChange{ID: o.ID, GrantOwner: gone, Grant: o.Others[gone], DropGrant: true, Budget: o.Budget}
		c.Budget.Base += c.Grant.Spent
		c.Budget.Alloc -= c.Grant.Alloc - c.Grant.Spent
		return c
	}
	o := opened(t, l, a, b)
	both := []ledger.AccountChange{reclaim(o[0]), reclaim(o[1])}
	kept := dump(t, client)
	for name, changes := range map[string][]ledger.AccountChange{"a grant that is settled in part": both[:1], "one settled in full": both[1:], "both": both} {
		if _, err := l.Reclaim(t.Context(), gone, changes); !errors.Is(err, store.ErrQuarantined) {
			t.Errorf("%s, in quarantine: error %v, want ErrQuarantined", name, err)
		}
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("in quarantine: etcd holds %v, want %v", now, kept)
	}
	revoke(t, client, "qt/"+gone)
	if _, err := l.Reclaim(t.Context(), gone, both); err != nil {
		t.Errorf("after the quarantine: %v", err)
	}
	for i, want := range []ledger.Budget{{Ceil: 1000, Alloc: 40, Base: 40}, {Ceil: 1000, Alloc: 100, Base: 100}} {
		got := opened(t, l, a, b)[i]
		got.Budget.Rev = 0
		if got.Budget != want || len(got.Others) != 0 {
			t.Errorf("reclaimed, %s is %+v, want %+v and no grants", got.ID, got, want)
		}
	}
	if err := l.CloseOwner(t.Context(), gone); err != nil {
		t.Errorf("close: %v", err)
	}
	if w, err := l.Find(t.Context(), gone); err != nil || w != (store.Whereabouts{Known: true, Closed: true}) {
		t.Errorf("closed, it is found as %+v, error %v", w, err)
	}
	for _, k := range []string{"tk/", "qt/", "id/"} {
		if _, left := dump(t, client)[etcd.Prefix+k+gone]; left {
			t.Errorf("%s is left of an owner that is closed", k+gone)
		}
	}
	if r := heartbeat(t, l); slices.Contains(r.Gone, gone) || len(r.Successors) != 0 {
		t.Errorf("the roster %+v has an owner that is closed", r)
	}
	// What comes later is still written down, by anybody.
	late := ledger.AccountChange{ID: a, GrantOwner: gone, GrantFixed: true, Budget: opened(t, l, a)[0].Budget}
	late.Budget.Base, late.Budget.Alloc, late.Budget.Forced = 45, 45, 5
	third, _ := claimed(t, client)
	mustAppend(t, third, batch(gone, 2, settled(3, 5, a), late))
	if _, _, err := l.Append(t.Context(), batch(gone, 2, settled(4, 7, a))); !errors.Is(err, store.ErrTaken) {
		t.Errorf("another batch of another server at the same number: error %v, want ErrTaken", err)
	}
}

// Nobody takes over an owner that lives, and nobody writes for one that another has taken over.
func TestLedgerTakeoverIsFenced(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	l, _ := claimed(t, client)
	a := account("a")
	adjust(t, l, newAccount(a, "gone", 100, 0))
	takeOver(t, l, "gone", quarantine)
	// What it wrote is not its own any more: its key expired with another session's, and a third one wrote it.
	if _, err := client.Delete(t.Context(), etcd.Prefix+"tk/gone"); err != nil {
		t.Fatal(err)
	}
	other, _ := claimed(t, client)
	takeOver(t, other, "gone", quarantine)
	third, _ := claimed(t, client)
	revoke(t, client, "qt/gone")
	kept := dump(t, client)
	o := opened(t, l, a)[0]
	full := ledger.AccountChange{ID: a, GrantOwner: "gone", Grant: o.Others["gone"], DropGrant: true, Budget: o.Budget}
	for name, write := range map[string]func(*etcd.Ledger) error{
		"Append": func(l *etcd.Ledger) error {
			_, _, err := l.Append(t.Context(), batch("gone", 0, settled(1, 5, a)))
			return err
		},
		"Reclaim": func(l *etcd.Ledger) error {
			_, err := l.Reclaim(t.Context(), "gone", []ledger.AccountChange{full})
			return err
		},
		"CloseOwner": func(l *etcd.Ledger) error { return l.CloseOwner(t.Context(), "gone") },
		"TakeOver":   func(l *etcd.Ledger) error { _, err := l.TakeOver(t.Context(), "gone", time.Hour); return err },
	} {
		for who, l := range map[string]*etcd.Ledger{"the successor before": l, "a bystander": third} {
			if err := write(l); !errors.Is(err, store.ErrConflict) {
				t.Errorf("%s by %s: error %v, want ErrConflict", name, who, err)
			}
		}
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v", now, kept)
	}
}

// A takeover whose outcome is unknown is asked for again: it is ours if it landed, and happens once.
func TestLedgerTakeOverAgain(t *testing.T) {
	n, client, l, owner := overNetwork(t)
	for _, f := range []fate{replyLost, requestLate} {
		gone := map[fate]string{replyLost: "lost", requestLate: "late"}[f]
		a := account(gone)
		adjust(t, l, newAccount(a, gone, 100, 0))
		n.fail(f)
		if _, err := l.TakeOver(t.Context(), gone, quarantine); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("fate %d: error %v, want ErrUnavailable", f, err)
		}
		// Until it is asked for again nothing can be written for the owner.
		if _, _, err := l.Append(t.Context(), batch(gone, 0, settled(1, 5, a))); !errors.Is(err, store.ErrConflict) {
			t.Errorf("fate %d: a batch before the takeover is known: error %v, want ErrConflict", f, err)
		}
		takeOver(t, l, gone, quarantine)
		if f == requestLate {
			n.arrive(t, client)
		}
		mustAppend(t, l, batch(gone, 0, settled(1, 5, a)))
		if w, err := l.Find(t.Context(), gone); err != nil || w.Successor != owner {
			t.Errorf("fate %d: found as %+v, error %v", f, w, err)
		}
	}
}

// A request that is recorded is never recorded again, whichever owner's batch it comes in.
func TestLedgerRequestOnce(t *testing.T) {
	client := startEmbedded(t, t.TempDir()).Client()
	first, one := claimed(t, client)
	second, two := claimed(t, client)
	a := account("a")
	usage := func(id string, amount money.Nanos) *ledger.Entry {
		return &ledger.Entry{Kind: ledger.KindUsage, Amount: amount, Forced: amount, Path: []ledger.AccountID{a}, Time: sealed, RequestID: id}
	}
	mustAppend(t, first, batch(one, 0, []*ledger.Entry{usage("r-1", 7)}, newAccount(a, one, 7, 7)))
	o := opened(t, second, a)[0]
	more := ledger.AccountChange{ID: a, GrantOwner: two, Grant: ledger.Grant{Alloc: 7, Spent: 7}, Budget: o.Budget}
	more.Budget.Alloc, more.Budget.Forced = 14, 7
	kept := dump(t, client)
	again := batch(two, 0, []*ledger.Entry{usage("r-0", 7), usage("r-1", 7)}, more)
	if _, _, err := second.Append(t.Context(), again); !errors.Is(err, store.ErrRecorded) {
		t.Errorf("a request that another owner has recorded: error %v, want ErrRecorded", err)
	}
	if now := dump(t, client); !reflect.DeepEqual(now, kept) {
		t.Errorf("etcd holds %v, want %v", now, kept)
	}
	if e, err := second.Usage(t.Context(), "r-1"); err != nil || e.Batch.Owner != one || e.Amount != 7 {
		t.Errorf("the request's entry: %+v, error %v; want that of %s", e, err, one)
	}
	if _, err := second.Usage(t.Context(), "r-0"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a request beside it: error %v, want ErrNotFound", err)
	}
	// A batch that is stale as well is told apart: nothing of it is recorded.
	stale := batch(two, 0, []*ledger.Entry{usage("r-2", 7)}, more)
	stale.Changes[0].Budget.Rev--
	if _, _, err := second.Append(t.Context(), stale); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a stale batch: error %v, want ErrConflict", err)
	}
}
