package sim

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"

	"github.com/chartergate/chartergate/core/money"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

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
