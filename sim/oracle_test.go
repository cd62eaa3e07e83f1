package sim

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
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

// budget takes a budget's record. It gives the account when that begins with money of the period before.
func (o *oracle) budget(ch *change) *account {
	c := &o.w.count
	if ch.now == nil {
		o.fail("I1", "%s is deleted", ch.key)
		return nil
	}
	now := decode(ch.now.Value, new(storev1.BudgetAccount))
	a := o.account(idOf(now.GetAccount()))
	was := a.bud
	a.bud = now
	o.touch(a)
	if was == nil {
		was = &storev1.BudgetAccount{Rollover: now.GetRollover(), TermsRev: now.GetTermsRev(), Ceil: now.GetCeil()}
		switch {
		case a.id.Key != "":
			c.Keys++
		case a.id.Overflow != "":
			c.Overflow++
		}
		if a.id.Start == midnight {
			c.AfterMidnight++
		}
	}
	before, after := was.GetAlloc()-was.GetForced(), now.GetAlloc()-now.GetForced()
	switch {
	case after > before:
		c.Grants++
		if after > now.GetCeil() {
			o.fail("I2", "%s: %d are granted beyond forced spend, the ceiling is %d", a.id, after, now.GetCeil())
		}
		if was.GetSealed() {
			o.fail("sealed", "%s: %d more are granted of a period whose rest was rolled over", a.id, after-before)
		}
	case after < before:
		c.Returns++
	}
	if was.GetSealed() && !now.GetSealed() {
		o.fail("sealed", "%s is opened again", a.id)
	}
	if now.GetSealed() && !was.GetSealed() {
		c.Sealed++
	}
	if now.GetTight() && !was.GetTight() {
		c.Tight++
	}
	if now.GetForced() > was.GetForced() {
		c.Forced++
	}
	if now.GetRollover() != was.GetRollover() {
		o.fail("rollover", "%s: changes from %d to %d", a.id, was.GetRollover(), now.GetRollover())
	}
	if now.GetTermsRev() < was.GetTermsRev() {
		o.fail("terms", "%s: the ceiling of revision %d is replaced by that of %d", a.id, was.GetTermsRev(), now.GetTermsRev())
	}
	switch {
	case now.GetCeil() > was.GetCeil():
		c.CeilingRaised++
	case now.GetCeil() < was.GetCeil():
		c.CeilingLowered++
		if after > now.GetCeil() {
			c.Draining++
		}
	}
	if want, ok := o.w.limitAt(a.id, now.GetTermsRev()); ok && now.GetCeil() != int64(want)+now.GetRollover() {
		o.fail("terms", "%s: the ceiling is %d, the control records of revision %d say %d + rollover %d", a.id, now.GetCeil(), now.GetTermsRev(), want, now.GetRollover())
	}
	if ch.was == nil && now.GetRollover() > 0 {
		c.Rollovers++
		return a
	}
	return nil
}

// rolledOver checks that what a period begins with was left of the one before, and cannot be granted there any more.
func (o *oracle) rolledOver(a *account) {
	before := a.id
	before.End = a.id.Start
	before.Start = a.id.Start - 86400
	prev := o.accounts[before]
	if prev == nil || prev.bud == nil || !prev.bud.GetSealed() {
		o.fail("rollover", "%s begins with %d of a period that is not sealed", a.id, a.bud.GetRollover())
		return
	}
	left := max(0, prev.bud.GetCeil()-prev.bud.GetAlloc())
	if b := o.w.control.snap.Budget(a.id.Budget); b != nil {
		left = min(left, int64(b.RolloverCap))
	}
	if a.bud.GetRollover() > left {
		o.fail("rollover", "%s begins with %d, %d were left", a.id, a.bud.GetRollover(), left)
	}
}

// grant takes the record of a grant.
func (o *oracle) grant(ch *change, who string) {
	value := ch.now
	if value == nil {
		value = ch.was
	}
	r := decode(value.Value, new(storev1.Grant))
	a, w := o.account(idOf(r.GetAccount())), o.owner(who)
	o.touch(a)
	i := slices.IndexFunc(a.grants, func(g *granted) bool { return g.owner == who })
	switch {
	case ch.now == nil:
		if g := a.grants[i]; w.live {
			o.w.count.Folded++
		} else {
			o.w.count.Reclaims++
			if w.quarantined && g.GetAlloc() != g.GetSpent() {
				o.fail("quarantine", "%s: the grant of %s is reclaimed in its quarantine", a.id, who)
			}
		}
		a.grants = slices.Delete(a.grants, i, i+1)
		w.grants--
	case i < 0:
		a.grants = append(a.grants, &granted{who, r})
		w.grants++
	default:
		if r.GetSpent() < a.grants[i].GetSpent() {
			o.fail("I7", "%s: what %s has spent shrinks from %d to %d", a.id, who, a.grants[i].GetSpent(), r.GetSpent())
		}
		a.grants[i] = &granted{who, r}
	}
}

// batch takes a batch of a journal.
func (o *oracle) batch(ch *change, rest string) {
	who, n := batchNumber(rest)
	w := o.owner(who)
	if ch.now == nil {
		o.uncollected(who, n)
		return
	}
	if ch.was != nil {
		o.fail("I6", "batch %d of %s is overwritten", n, who)
		return
	}
	b := decode(ch.now.Value, new(storev1.Batch))
	if n != w.next || !bytes.Equal(b.GetPreviousHash(), w.hash) {
		o.fail("journal", "batch %d of %s does not follow its batch %d", n, who, int64(w.next)-1)
	}
	sum := sha256.Sum256(ch.now.Value)
	w.next, w.hash = n+1, sum[:]
	switch {
	case w.closed:
		o.w.count.SettledAfterClose++
	case !w.live:
		o.w.count.SettledByOther++
	}
	jb := &journalBatch{data: ch.now.Value}
	o.batches[batchKey{who, n}] = jb
	for _, e := range b.GetEntries() {
		x := &entry{Entry: e, journal: "jr/" + who + "/" + strconv.FormatUint(n, 10)}
		jb.entries = append(jb.entries, x)
		o.entry(who, x, b.GetAccounts())
	}
}

// batchNumber reads the key of a batch behind jr/.
func batchNumber(rest string) (who string, n uint64) {
	who, number, _ := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(number, 16, 64)
	if err != nil {
		panic(err)
	}
	return who, n
}

func (o *oracle) entry(who string, e *entry, accounts []*storev1.Account) {
	c := &o.w.count
	key := holdKey{who, e.GetSeq()}
	path := make([]*account, len(e.GetPath()))
	for i, at := range e.GetPath() {
		path[i] = o.account(idOf(accounts[at]))
	}
	var h *hold
	if e.GetSeq() == 0 {
		if first := o.usages[e.GetRequestId()]; first != nil {
			o.fail("I4", "usage %s is recorded twice: in %s and %s", e.GetRequestId(), first.journal, e.journal)
		}
		o.usages[e.GetRequestId()] = e
		c.Usages++
	} else {
		if h = o.holds[key]; h == nil {
			h = &hold{key: key, told: told{owner: who, seq: key.seq}}
			o.holds[key] = h
		}
		if h.entry != nil {
			o.fail("I4", "hold %s/%d settles twice: in %s and %s", who, e.GetSeq(), h.entry.journal, e.journal)
		}
		h.entry = e
	}
	amount, held := e.GetAmount(), e.GetHeld()
	forced := max(0, amount-held)
	switch e.GetKind() {
	case storev1.EntryKind_ENTRY_KIND_RELEASE:
		c.Released++
		if amount != 0 || e.GetLate() {
			o.fail("entry", "a release of %s/%d has amount %d, late %v", who, e.GetSeq(), amount, e.GetLate())
		}
	case storev1.EntryKind_ENTRY_KIND_USAGE:
		forced = amount
	case storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE:
		c.Charged++
		if amount != held {
			o.fail("entry", "hold %s/%d of %d is charged at %d", who, e.GetSeq(), held, amount)
		}
	case storev1.EntryKind_ENTRY_KIND_SETTLE:
		c.Settled++
		if amount > held && !e.GetLate() {
			c.Oversized++
		}
	default:
		o.fail("entry", "%s has an entry of kind %s", e.journal, e.GetKind())
	}
	if e.GetLate() {
		forced = amount
		c.Late++
	}
	if e.GetForced() != forced {
		o.fail("entry", "hold %s/%d: of %d with %d held, late %v, %d are forced", who, e.GetSeq(), amount, held, e.GetLate(), e.GetForced())
	}
	if h != nil && h.path != nil {
		if int64(h.amount) != held || len(path) != len(h.path) {
			o.fail("entry", "hold %s/%d of %d is settled as one of %d", who, e.GetSeq(), h.amount, held)
		}
		o.sent(h)
	}
	for i, a := range path {
		if h != nil && h.path != nil && a.id != h.path[i] {
			o.fail("entry", "hold %s/%d is on %s, its settlement on %s", who, e.GetSeq(), h.path[i], a.id)
		}
		a.journal += money.Nanos(amount)
		a.forced += money.Nanos(forced)
		a.onTime += money.Nanos(amount - forced)
		if h != nil {
			a.open = slices.DeleteFunc(a.open, func(x *hold) bool { return x == h })
		}
		o.touch(a)
	}
}

// sent checks that somebody asked for what became of a hold.
func (o *oracle) sent(h *hold) {
	ok := false
	switch h.entry.GetKind() {
	case storev1.EntryKind_ENTRY_KIND_SETTLE:
		ok = slices.Contains(h.sent, money.Nanos(h.entry.GetAmount()))
	case storev1.EntryKind_ENTRY_KIND_RELEASE:
		ok = h.release
	case storev1.EntryKind_ENTRY_KIND_EXPIRY_CHARGE:
		ok = h.charge
	}
	if !ok {
		o.fail("entry", "nobody asked for %s of hold %s/%d at %d", h.entry.GetKind(), h.owner, h.seq, h.entry.GetAmount())
	}
}

// answered takes a hold that a replica answers with: p is the replica's process.
func (o *oracle) answered(p *process, token string) *hold {
	t := readToken(token)
	key := holdKey{t.owner, t.seq}
	h := o.holds[key]
	if h == nil {
		h = &hold{key: key}
		o.holds[key] = h
	}
	h.told = *t
	h.until = p.when(t.expires)
	if o.w.trace != nil {
		o.w.logf("%s: hold %s/%d of %d on %v until %.3fs", p.name, t.owner[:6], t.seq, t.amount, t.path, h.until.Seconds())
	}
	for _, id := range h.path {
		if b := o.w.control.snap.Budget(id.Budget); b != nil && o.w.charges[id.Budget] {
			h.charge = true
		}
	}
	if h.entry != nil {
		return h
	}
	for _, id := range h.path {
		a := o.account(id)
		if !slices.Contains(a.open, h) {
			a.open = append(a.open, h)
		}
		o.check(a)
	}
	return h
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
