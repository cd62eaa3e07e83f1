package sim

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/store"
	storeetcd "github.com/chartergate/chartergate/store/etcd"
)

// control is the control records of the cluster, which are always known to those who change them.
type control struct {
	w     *world
	snap  *charter.Snapshot
	views []*view
}

// commit changes records at once and tells the replicas, each after a while.
func (c *control) commit(records ...charter.Record) {
	changes := make([]charter.Change, len(records))
	for i, r := range records {
		changes[i] = charter.Set(r)
	}
	if _, err := c.snap.With(changes); err != nil {
		panic(err)
	}
	t := c.w.etcd.begin()
	if _, err := t.put(&etcdserverpb.PutRequest{Key: []byte(storeetcd.Prefix + "epoch")}); err != nil {
		panic(err)
	}
	t.end()
	rev := c.w.etcd.rev
	for i, r := range records {
		m := charter.NewMeta(c.snap.Record(r.Name()), epoch.Add(c.w.now))
		m.Revision = rev
		changes[i].Record = charter.WithMeta(r, m)
	}
	next, err := c.snap.Replace(rev, changes)
	if err != nil {
		panic(err)
	}
	c.snap = next
	for _, v := range c.views {
		v.tell()
	}
}

// view is what one replica knows of the control records.
type view struct {
	c         *control
	p         *process
	link      *link
	snap      *charter.Snapshot
	told      bool // something newer is on the way
	listeners []func(*charter.Snapshot)
}

var _ store.Control = (*view)(nil)

func (c *control) view(p *process, l *link) *view {
	v := &view{c: c, p: p, link: l, snap: c.snap}
	c.views = append(c.views, v)
	return v
}

// tell has the replica learn of the newest records some time later.
func (v *view) tell() {
	if v.p.dead || v.told {
		return
	}
	v.told = true
	w := v.c.w
	d := w.between(time.Millisecond, 200*time.Millisecond)
	if !w.healed && w.chance(4) {
		d = w.between(time.Second, 20*time.Second)
	}
	var arrive func()
	arrive = func() {
		if v.link.deaf || v.link.cut {
			w.after(500*time.Millisecond, arrive)
			return
		}
		v.told = false
		snap := v.c.snap
		if snap == v.snap {
			return
		}
		v.p.spawn("control", func() {
			if snap.Epoch <= v.snap.Epoch {
				return
			}
			v.snap = snap
			for _, f := range v.listeners {
				f(snap)
			}
		})
	}
	w.after(d, arrive)
}

// Snapshot implements store.Control.
func (v *view) Snapshot() *charter.Snapshot { return v.snap }

// OnChange implements store.Control.
func (v *view) OnChange(f func(*charter.Snapshot)) { v.listeners = append(v.listeners, f) }

// Commit implements store.Control.
func (v *view) Commit(context.Context, func(*charter.Snapshot) ([]charter.Change, error)) (*charter.Snapshot, error) {
	return nil, errors.New("replicas of the simulation change no control records")
}
