package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chartergate/chartergate/core/ledger"
	storeetcd "github.com/chartergate/chartergate/store/etcd"
)

// result is what came of a run.
type result struct {
	seed      uint64
	violation *violation
	count     counters
	sum       uint64
	trace     string
}

// simulate makes the run of a seed.
func simulate(seed uint64, trace bool, coros *pool) (res result) {
	w := newWorld(seed, coros)
	if trace {
		w.sched.trace = new(strings.Builder)
		w.logf("seed %d: %+v, longest hold %s", seed, w.faults, w.maxTTL)
	}
	defer func() {
		for _, r := range w.all {
			r.p.crash()
		}
		w.clients.crash()
		w.count.Runs, w.count.Steps = 1, w.steps
		res = result{seed: seed, violation: w.oracle.violation, count: w.count, sum: w.sum}
		if trace {
			res.trace = w.sched.trace.String()
		}
	}()
	for host := range w.hosts {
		w.after(w.between(0, time.Second), func() { w.start(host) })
	}
	length := w.between(40*time.Second, 160*time.Second)
	w.load(length)
	w.after(w.between(0, 2*w.faults.every), w.trouble)
	w.run(length)

	w.heal()
	w.calm = true
	quarantine := ledger.Quarantine(w.maxTTL)
	if !w.until(4*quarantine+200*time.Second, func() bool { return w.busy == 0 }) {
		w.oracle.fail("answers", "%d clients still have no answer", w.busy)
	}
	if !w.until(quarantine*11/10+90*time.Second, w.settledDown) {
		w.oracle.fail("reclaim", "not all owners that are gone are closed: %s", w.left())
	}
	w.closed = true
	for _, r := range w.hosts {
		w.drain(r)
	}
	if !w.until(60*time.Second, w.allGone) {
		w.oracle.fail("drain", "not all replicas have ended")
	}
	w.last()
	return res
}

// until runs until something is so; false when it is not within d.
func (w *world) until(d time.Duration, so func() bool) bool {
	for end := w.now + d; w.now < end && !w.ended; {
		if so() {
			return true
		}
		w.run(w.now + 500*time.Millisecond)
	}
	return w.ended || so()
}

// load has clients call, and people edit, until the end.
func (w *world) load(end time.Duration) {
	gap := w.between(150*time.Millisecond, 1500*time.Millisecond)
	if w.chance(4) { // little is going on
		gap *= 5
	}
	var next func()
	next = func() {
		if w.now > end {
			return
		}
		n := 1
		if w.chance(20) {
			n = 1 + w.rng.IntN(15)
		}
		for range n {
			if w.chance(15) {
				w.clients.spawn("use", w.use)
			} else {
				w.clients.spawn("call", w.call)
			}
		}
		w.after(w.between(0, 2*gap), next)
	}
	w.after(2*time.Second, next)
	if w.chance(4) {
		return
	}
	var edit func()
	edit = func() {
		if w.now < end {
			w.edit()
			w.after(w.between(0, 40*time.Second), edit)
		}
	}
	w.after(w.between(0, 40*time.Second), edit)
}

// trouble does something bad to a replica, again and again.
func (w *world) trouble() {
	if w.healed {
		return
	}
	w.after(w.between(0, 2*w.faults.every), w.trouble)
	r := w.hosts[w.rng.IntN(len(w.hosts))]
	if r == nil || r.p.dead {
		return
	}
	long := func() time.Duration {
		switch w.rng.IntN(6) {
		case 0:
			return w.between(12*time.Second, 40*time.Second)
		case 1:
			return w.between(40*time.Second, 120*time.Second)
		}
		return w.between(500*time.Millisecond, 12*time.Second)
	}
	switch k := w.rng.IntN(14); {
	case k < 4:
		d := long()
		way := w.rng.IntN(3)
		r.link.cut, r.link.deaf = way != 1, way != 0
		w.count.Partitions++
		w.logf("%s: partition for %s: cut %v, deaf %v", r.p.name, d.Round(time.Millisecond), r.link.cut, r.link.deaf)
		w.after(d, func() { r.link.cut, r.link.deaf = false, false })
	case k < 7:
		d := long()
		w.count.Pauses++
		w.logf("%s: pauses for %s", r.p.name, d.Round(time.Millisecond))
		r.p.pause(d)
	case k < 9:
		w.count.Crashes++
		w.logf("%s: crashes", r.p.name)
		w.exit(r)
	case k < 10:
		w.logf("%s: is drained", r.p.name)
		w.count.Drains++
		w.drain(r)
	case k < 11: // a quarantine that etcd ends early
		for _, key := range w.etcd.keys {
			if strings.HasPrefix(key, storeetcd.Prefix+"qt/") {
				w.logf("etcd: %s is lost", key)
				w.count.QuarantineLost++
				w.etcd.revoke(w.etcd.recs[key].Lease)
				break
			}
		}
	default:
		if kv := w.etcd.recs[storeetcd.Prefix+"own/"+r.owner]; kv != nil {
			w.logf("%s: its lease is lost", r.p.name)
			w.count.LeaseRevoked++
			w.etcd.revoke(kv.Lease)
		}
	}
}

// drain asks a replica to end.
func (w *world) drain(r *replica) {
	if r == nil || r.p.dead {
		return
	}
	r.closing = true
	r.cancel()
	if !r.p.paused {
		r.p.poll()
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.logf("all faults are over")
	w.healed = true
	w.clients.pauses = 0
	for _, r := range w.hosts {
		if r == nil {
			continue
		}
		r.link = link{}
		r.p.pauses = 0
		if r.p.paused {
			r.p.until = w.now
			r.p.resume()
		}
	}
	for _, v := range w.control.views {
		v.tell()
	}
}

// settledDown says that every host has a replica, and every other owner is closed. An owner whose process has ended stays
// until its lease is over.
func (w *world) settledDown() bool {
	for _, r := range w.hosts {
		if r == nil || r.p.dead || r.svc == nil {
			return false
		}
	}
	for id, o := range w.oracle.owners {
		if o.live && !slices.ContainsFunc(w.hosts, func(r *replica) bool { return r.owner == id }) {
			return false
		}
	}
	return w.left() == ""
}

// left names the owners that are gone and not closed.
func (w *world) left() string {
	var b strings.Builder
	for id, o := range w.oracle.owners {
		if o.known && !o.live && !o.closed {
			fmt.Fprintf(&b, "%s (grants %d, successor %s, quarantined %v) ", id[:6], o.grants, o.successor, o.quarantined)
		}
	}
	return b.String()
}

func (w *world) allGone() bool {
	for _, r := range w.hosts {
		if r != nil && !r.p.dead {
			return false
		}
	}
	return true
}

// last starts one more replica, which has to find everything in order, and leave nothing.
func (w *world) last() {
	if w.ended {
		return
	}
	o := w.oracle
	r := w.start(0)
	if !w.until(60*time.Second, func() bool { return r.svc != nil }) {
		o.fail("end", "the last replica does not start")
		return
	}
	if !w.until(ledger.Quarantine(w.maxTTL)*11/10+60*time.Second, func() bool { return w.left() == "" }) {
		o.fail("reclaim", "the last replica does not close %s", w.left())
		return
	}
	asked := false
	r.p.spawn("statuses", func() {
		list, err := r.svc.Statuses(context.Background(), "", "", 1000)
		if err != nil {
			o.fail("end", "statuses: %v", err)
			return
		}
		asked = true
		for _, s := range list {
			a := o.accounts[s.ID]
			if a == nil || a.bud == nil {
				continue
			}
			if s.Settled != a.journal || s.Forced != a.forced || s.Held != 0 {
				o.fail("end", "%s: settled %d, forced %d, held %d; the journal has %d, %d", s.Name, s.Settled, s.Forced, s.Held, a.journal, a.forced)
			}
		}
	})
	if !w.until(20*time.Second, func() bool { return asked }) {
		o.fail("end", "the last replica gives no status")
	}
	w.run(w.now + 10*time.Second)
	if w.ended {
		return
	}
	for _, a := range o.accountsInOrder() {
		if r.opened(a.id) {
			o.atEnd(a)
		}
	}
	w.drain(r)
	if !w.until(30*time.Second, func() bool { return r.p.dead }) {
		o.fail("drain", "the last replica does not end")
	}
	if w.ended {
		return
	}
	for _, a := range o.accountsInOrder() {
		switch b := a.bud; {
		case b == nil:
		case len(a.grants) > 0:
			o.fail("end", "%s: a grant of %s is left", a.id, a.grants[0].owner)
		case b.GetAlloc() != int64(a.journal) || b.GetBase() != int64(a.journal):
			o.fail("end", "%s: alloc %d and base %d, the journal has %d", a.id, b.GetAlloc(), b.GetBase(), a.journal)
		}
	}
	if o.alerted > o.alerts {
		o.fail("alert once", "%d were announced, %d recorded", o.alerted, o.alerts)
	}
	for _, h := range o.holds {
		if h.path != nil && h.entry != nil {
			o.sent(h)
		}
	}
	for _, kind := range []string{"own/", "tk/", "qt/", "id/", "hb/"} {
		for _, k := range w.etcd.keys {
			if strings.HasPrefix(k, storeetcd.Prefix+kind) {
				o.fail("end", "%s is left", k)
			}
		}
	}
}

// opened says whether the account is one that the replica's last look opened: of the current period.
func (r *replica) opened(id ledger.AccountID) bool {
	now := r.p.wall().Unix()
	return id.Start <= now && now < id.End
}

// atEnd checks what must have come about of an account in use.
func (o *oracle) atEnd(a *account) {
	if a.bud == nil {
		return
	}
	snap := o.w.control.snap
	limit := int64(0)
	var thresholds []int32
	switch b := snap.Budget(a.id.Budget); {
	case a.id.Overflow != "":
		limit = int64(snap.Charter(a.id.Overflow).Exhausted.OverflowAllowance)
	case b != nil:
		limit, thresholds = int64(b.Limit), b.AlertThresholdsPermille
	}
	ceil := limit + a.bud.GetRollover()
	if a.bud.GetCeil() != ceil {
		o.fail("terms", "%s: the ceiling is %d, it should be %d", a.id, a.bud.GetCeil(), ceil)
	}
	for _, t := range thresholds {
		if ceil > 0 && int64(a.journal)*1000/ceil >= int64(t) && !a.alerts[t] {
			o.fail("alert", "%s: %d of %d are settled, and there is no alert of %d per mille", a.id, a.journal, ceil, t)
		}
	}
}
