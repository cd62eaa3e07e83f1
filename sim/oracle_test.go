package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/core/ledger"
	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
	storeetcd "github.com/chartergate/chartergate/store/etcd"
)

// oracle reads every transaction's records as they stand in etcd, and what clients were told, and checks the invariants.
// It shares no code with the ledger but the records.
type oracle struct {
	w         *world
	accounts  map[ledger.AccountID]*account
	list      []*account // in the order in which they came
	touched   []*account
	owners    map[string]*owner
	holds     map[holdKey]*hold
	usages    map[string]*entry
	batches   map[batchKey]*journalBatch
	chunks    map[chunkKey][]byte
	alerts    int
	alerted   int // as the replicas counted them
	violation *violation
}

// violation is a broken invariant.
type violation struct {
	invariant, what string
	at              time.Duration
}

func (v *violation) Error() string {
	return fmt.Sprintf("%s: %s (at %.3fs)", v.invariant, v.what, v.at.Seconds())
}

type holdKey struct {
	owner string
	seq   uint64
}

// hold is one that a replica has answered with.
type hold struct {
	told
	key     holdKey
	until   time.Duration // true time of its expiry
	entry   *entry
	sent    []money.Nanos // amounts that were asked to be settled
	release bool          // its release was asked for
	charge  bool          // a budget of its path charges at expiry
}

// entry is one of the journal.
type entry struct {
	*storev1.Entry
	journal   string
	collected bool // its batch has left etcd
}

type account struct {
	id      ledger.AccountID
	bud     *storev1.BudgetAccount
	grants  []*granted
	journal money.Nanos // sum of the amounts
	forced  money.Nanos
	onTime  money.Nanos // what was settled in time, up to the hold
	open    []*hold     // neither over nor settled
	touched bool
	alerts  map[int32]bool
}

type granted struct {
	owner string
	*storev1.Grant
}

type owner struct {
	live, dead, quarantined, closed, known bool
	successor                              string
	taken                                  int
	next                                   uint64
	hash                                   []byte
	collected                              uint64 // the first batch that is still in etcd
	tail                                   *storev1.JournalTail
	grants                                 int
}

func newOracle(w *world) *oracle {
	return &oracle{
		w: w, accounts: map[ledger.AccountID]*account{}, owners: map[string]*owner{}, holds: map[holdKey]*hold{}, usages: map[string]*entry{},
		batches: map[batchKey]*journalBatch{}, chunks: map[chunkKey][]byte{},
	}
}

// fail ends the run with a violation.
func (o *oracle) fail(invariant, format string, args ...any) {
	if o.violation == nil {
		o.violation = &violation{invariant, fmt.Sprintf(format, args...), o.w.now}
		o.w.logf("VIOLATION %s", o.violation)
		o.w.ended = true
	}
}

func (o *oracle) account(id ledger.AccountID) *account {
	a := o.accounts[id]
	if a == nil {
		a = &account{id: id, alerts: map[int32]bool{}}
		o.accounts[id] = a
		o.list = append(o.list, a)
	}
	return a
}

func (o *oracle) owner(id string) *owner {
	w := o.owners[id]
	if w == nil {
		w = &owner{}
		o.owners[id] = w
	}
	return w
}

func (o *oracle) touch(a *account) {
	if !a.touched {
		a.touched = true
		o.touched = append(o.touched, a)
	}
}

func idOf(r *storev1.Account) ledger.AccountID {
	return ledger.AccountID{Budget: r.GetBudget(), Key: r.GetKey(), Overflow: r.GetOverflow(), Start: r.GetPeriodStart(), End: r.GetPeriodEnd()}
}

func decode[M proto.Message](b []byte, m M) M {
	if err := proto.Unmarshal(b, m); err != nil {
		panic(err)
	}
	return m
}

// committed takes a transaction.
func (o *oracle) committed(changes []change) {
	c := &o.w.count
	c.Transactions++
	rolled := []*account(nil)
	for i := range changes {
		ch := &changes[i]
		o.w.mixBytes([]byte(ch.key))
		kind, rest, _ := strings.Cut(strings.TrimPrefix(ch.key, storeetcd.Prefix), "/")
		if ch.now != nil && kind != "own" && kind != "id" { // these name the machine of the test
			o.w.mixBytes(ch.now.Value)
		}
		last := rest[strings.LastIndexByte(rest, '/')+1:]
		switch kind {
		case "bud":
			if a := o.budget(ch); a != nil {
				rolled = append(rolled, a)
			}
		case "gr":
			o.grant(ch, last)
		case "jr":
			o.batch(ch, rest)
		case "bm":
			o.chunk(ch, rest)
		case "jt":
			o.tail(ch, rest)
		case "own":
			w := o.owner(rest)
			w.live = ch.now != nil
			if ch.now != nil && ch.was == nil && (w.known || w.dead) {
				o.fail("fresh identity", "owner %s was there before", rest)
			}
			if ch.now != nil && ch.was != nil {
				o.fail("fresh identity", "owner %s takes the name of another", rest)
			}
			w.known = true
		case "tk":
			w := o.owner(rest)
			w.successor = ""
			if ch.now != nil {
				w.successor = decode(ch.now.Value, new(storev1.Takeover)).GetSuccessor()
				if w.taken++; w.taken == 1 {
					c.Takeovers++
				} else {
					c.TakeoversAgain++
				}
				if ch.was != nil {
					o.fail("I5", "the takeover of %s is taken over while it stands", rest)
				}
				if w.closed {
					o.fail("I5", "owner %s is taken over after it was closed", rest)
				}
			}
		case "dead":
			o.owner(rest).dead = ch.now != nil
		case "qt":
			o.owner(rest).quarantined = ch.now != nil
		case "cl":
			w := o.owner(rest)
			w.closed = ch.now != nil
			c.Closed++
			if w.taken == 0 {
				c.ClosedClean++
			}
		case "al":
			if ch.was != nil {
				o.fail("alert once", "%s is written again", ch.key)
			}
			r := decode(ch.now.Value, new(storev1.Alert))
			o.account(idOf(r.GetAccount())).alerts[r.GetThresholdPermille()] = true
			o.alerts++
			c.Alerts++
		}
	}
	for _, ch := range changes { // what must hold of the whole transaction
		kind, rest, _ := strings.Cut(strings.TrimPrefix(ch.key, storeetcd.Prefix), "/")
		switch kind {
		case "own", "tk":
			if w := o.owner(rest); w.live && w.successor != "" {
				o.fail("I5", "owner %s lives and is taken over", rest)
			}
		case "cl":
			if w := o.owner(rest); w.grants > 0 {
				o.fail("closed", "owner %s is closed and has %d grants", rest, w.grants)
			}
		case "jr":
			if who, n := batchNumber(rest); ch.now == nil && !o.w.ended {
				o.marked(who, n)
			}
		}
	}
	for _, a := range rolled {
		o.rolledOver(a)
	}
	for _, a := range o.touched {
		a.touched = false
		o.check(a)
	}
	o.touched = o.touched[:0]
}

// check checks an account's records against each other, the journal and the holds.
func (o *oracle) check(a *account) {
	b := a.bud
	if b == nil {
		if a.journal != 0 || len(a.open) > 0 || slices.ContainsFunc(a.grants, func(g *granted) bool { return g.GetAlloc() != 0 || g.GetSpent() != 0 }) {
			o.fail("I1", "%s has no record", a.id)
		}
		return
	}
	var alloc, spent int64
	live := a.open[:0]
	for _, h := range a.open {
		if o.w.now < h.until {
			live = append(live, h)
		}
	}
	a.open = live
	for _, g := range a.grants {
		alloc, spent = alloc+g.GetAlloc(), spent+g.GetSpent()
		if g.GetSpent() > g.GetAlloc() || g.GetAlloc() < 0 {
			o.fail("I3", "%s: %s has spent %d of %d", a.id, g.owner, g.GetSpent(), g.GetAlloc())
		}
	}
	if b.GetAlloc() != b.GetBase()+alloc {
		o.fail("I1", "%s: alloc is %d, base %d + grants %d", a.id, b.GetAlloc(), b.GetBase(), alloc)
	}
	if b.GetBase()+spent != int64(a.journal) {
		o.fail("I7", "%s: base %d + spent %d, the journal has %d", a.id, b.GetBase(), spent, a.journal)
	}
	if b.GetForced() != int64(a.forced) {
		o.fail("I7", "%s: forced is %d, the journal has %d", a.id, b.GetForced(), a.forced)
	}
	admitted := a.onTime
	for i, h := range a.open {
		admitted += h.amount
		if slices.IndexFunc(a.open, func(x *hold) bool { return x.owner == h.owner }) < i {
			continue // its owner was looked at
		}
		held := money.Nanos(0)
		for _, x := range a.open[i:] {
			if x.owner == h.owner {
				held += x.amount
			}
		}
		left := int64(0)
		for _, g := range a.grants {
			if g.owner == h.owner {
				left = g.GetAlloc() - g.GetSpent()
			}
		}
		if int64(held) > left {
			o.fail("COVER", "%s: live holds of %s are %d, its grant has %d left", a.id, h.owner, held, left)
		}
	}
	if int64(admitted) > b.GetAlloc()-b.GetForced() {
		o.fail("CORE", "%s: %d are admitted, %d granted without forced spend, ceiling %d", a.id, admitted, b.GetAlloc()-b.GetForced(), b.GetCeil())
	}
}

// accountsInOrder gives all accounts by name.
func (o *oracle) accountsInOrder() []*account {
	list := slices.Clone(o.list)
	slices.SortFunc(list, func(a, b *account) int { return cmp.Compare(a.id.String(), b.id.String()) })
	return list
}
