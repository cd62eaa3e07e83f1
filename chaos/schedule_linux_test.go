package chaos

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// kind is a kind of fault.
type kind string

const (
	killReplica   kind = "kill -9 of a replica"
	pauseReplica  kind = "pause of a replica beyond its lease"
	freezeReplica kind = "pause of a replica beyond the quarantine"
	cutWhole      kind = "partition, both directions"
	cutToEtcd     kind = "partition, to etcd"
	cutFromEtcd   kind = "partition, from etcd"
	killLeader    kind = "kill -9 of the etcd leader"
	pauseLeader   kind = "pause of the etcd leader"
	loseTwo       kind = "two etcd members lost"
	compaction    kind = "compaction under watch"
	restartAll    kind = "restart of everything"
	killClient    kind = "kill -9 of a client"
)

// session is how long an owner's lease lasts; quarantine how long its grants are out of reach when it is gone: the time
// for which a heartbeat counts, the longest hold and its grace, and 2%.
const (
	session    = 10 * time.Second
	quarantine = (7840*time.Millisecond + maxHold + grace) * 102 / 100
)

// spans are how long faults of a kind last.
var spans = map[kind]struct{ least, most time.Duration }{
	killReplica:   {0, 3 * time.Second},
	pauseReplica:  {session + time.Second, session + 3*time.Second},
	freezeReplica: {quarantine + time.Second, quarantine + 3*time.Second},
	cutWhole:      {3 * time.Second, 14 * time.Second},
	cutToEtcd:     {3 * time.Second, 14 * time.Second},
	cutFromEtcd:   {3 * time.Second, 14 * time.Second},
	killLeader:    {500 * time.Millisecond, 4 * time.Second},
	pauseLeader:   {2 * time.Second, 6 * time.Second},
	loseTwo:       {2 * time.Second, 11 * time.Second},
	compaction:    {0, 1},
	restartAll:    {0, 2 * time.Second},
	killClient:    {0, 2 * time.Second},
}

var kinds = []kind{killReplica, pauseReplica, freezeReplica, cutWhole, cutToEtcd, cutFromEtcd, killLeader, pauseLeader, loseTwo, compaction, restartAll, killClient}

// fault is one thing that goes wrong.
type fault struct {
	kind   kind
	target int           // which replica, client or member
	lasts  time.Duration //
	then   time.Duration // until the next may start
}

// schedule draws faults from a seed: every kind before any comes again.
func schedule(seed uint64, count int) []fault {
	r := rand.New(rand.NewPCG(seed, 11))
	var list []fault
	for len(list) < count {
		deck := append([]kind(nil), kinds...)
		r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, k := range deck {
			s := spans[k]
			list = append(list, fault{k, r.IntN(12), s.least + time.Duration(r.Int64N(int64(s.most-s.least))), time.Duration(r.Int64N(int64(4 * time.Second)))})
		}
	}
	return list[:count]
}

func TestScheduleIsRepeatedByItsSeed(t *testing.T) {
	one, again, other := schedule(7, 30), schedule(7, 30), schedule(8, 30)
	if !reflect.DeepEqual(one, again) || reflect.DeepEqual(one, other) {
		t.Error("a schedule is not its seed's")
	}
	seen := map[kind]int{}
	for _, f := range one[:len(kinds)] {
		seen[f.kind]++
		if s := spans[f.kind]; f.lasts < s.least || f.lasts > s.most {
			t.Errorf("%s lasts %s", f.kind, f.lasts)
		}
	}
	if len(seen) != len(kinds) || len(spans) != len(kinds) {
		t.Error(fmt.Sprint("not every kind comes in the first round: ", seen))
	}
}
