package chaos

import (
	"context"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chartergate/chartergate/chaos/oracle"
	storev1 "github.com/chartergate/chartergate/proto/gen/go/chartergate/store/v1"
)

// observer reads the records at one revision again and again, and checks them.
type observer struct {
	etcd *etcdCluster

	reads, failed int
	last          *oracle.Records
	bad, grown    []oracle.Violation
	pids          map[string]int   // of owners
	closed        map[string]int64 // when an owner was first seen closed
	versions      int              // of accounts' records
	gaps          int              // versions that were compacted away before they were seen
}

const observeEvery = 300 * time.Millisecond

func (o *observer) run(over <-chan struct{}) {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			o.look()
		}
	}
}

func (o *observer) look() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r, err := oracle.ReadRecords(ctx, o.etcd.client, false)
	if err != nil || o.last != nil && r.Revision < o.last.Revision {
		o.failed++ // no majority, or compacted meanwhile
		return
	}
	o.reads++
	o.bad = append(o.bad, oracle.CheckRecords(r)...)
	o.last = r
	for _, where := range []string{"own", "id"} {
		for owner, value := range r.Owners[where] {
			if pid := pidOf(value); pid != 0 {
				o.pids[owner] = pid
			}
		}
	}
	for owner := range r.Owners["cl"] {
		if _, ok := o.closed[owner]; !ok {
			o.closed[owner] = now()
		}
	}
}

// pidOf is the process of an owner's record; 0 where that cannot be read.
func pidOf(record []byte) int {
	m := new(storev1.Owner)
	if proto.Unmarshal(record, m) != nil {
		return 0
	}
	return int(m.GetPid())
}

// follow checks every version of every account's record.
func (o *observer) follow(ctx context.Context) {
	last := map[string]*storev1.BudgetAccount{}
	for from := int64(1); ctx.Err() == nil; {
		for w := range o.etcd.client.Watch(ctx, oracle.Prefix+"bud/", clientv3.WithPrefix(), clientv3.WithRev(from)) {
			if w.CompactRevision > 0 {
				from = w.CompactRevision
				clear(last) // what came between is not known
				o.gaps++
			}
			for _, e := range w.Events {
				from = e.Kv.ModRevision + 1
				m := new(storev1.BudgetAccount)
				if e.Type != clientv3.EventTypePut || proto.Unmarshal(e.Kv.Value, m) != nil {
					continue
				}
				key := string(e.Kv.Key)
				if before := last[key]; before != nil || e.IsCreate() {
					o.versions++
					o.grown = append(o.grown, oracle.CheckBudget(before, m)...)
				}
				last[key] = m
			}
		}
	}
}

// unclosed are the owners that are gone and have still something.
func (o *observer) unclosed() []string {
	var list []string
	for owner := range o.last.Owners["id"] {
		_, lives := o.last.Owners["own"][owner]
		_, done := o.last.Owners["cl"][owner]
		if !lives && !done {
			list = append(list, owner)
		}
	}
	for key, a := range o.last.Accounts {
		for owner := range a.Grants {
			if _, lives := o.last.Owners["own"][owner]; !lives {
				list = append(list, owner+" of "+key.Name)
			}
		}
	}
	return list
}

// owner is the first part of a hold's name.
func owner(hold string) string {
	name, _, _ := strings.Cut(hold, "/")
	return name
}
