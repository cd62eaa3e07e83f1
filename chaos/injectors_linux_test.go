package chaos

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// A replica that is cut off cannot write; the other goes on; and it is as before once healed. What was sent while only the
// answers were lost was done.
func TestPartitionOfOneLink(t *testing.T) {
	n := newNetwork(t, 2)
	e := startEtcd(t, t.TempDir(), n)
	put := func(replica int, key string) error {
		c, err := clientv3.New(clientv3.Config{Endpoints: n.link(replica)[:1], Logger: zap.NewNop()})
		if err != nil {
			return err
		}
		defer c.Close()
		return putWith(t, c, key)
	}
	for _, d := range []direction{whole, toEtcd, fromEtcd} {
		t.Run(d.String(), func(t *testing.T) {
			connected, err := clientv3.New(clientv3.Config{Endpoints: n.link(0)[:1], Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			defer connected.Close()
			if err := putWith(t, connected, "before"); err != nil {
				t.Fatal(err)
			}
			if err := n.cut(0, d); err != nil {
				t.Fatal(err)
			}
			key := fmt.Sprintf("cut-%d", d)
			if err := putWith(t, connected, key); err == nil {
				t.Error("a connected client got an answer")
			}
			if err := put(0, "new"); err == nil {
				t.Error("a new client got an answer")
			}
			if err := put(1, "other"); err != nil {
				t.Errorf("the other replica's link: %v", err)
			}
			got, err := e.client.Get(t.Context(), key)
			if err != nil || len(got.Kvs) > 0 != (d == fromEtcd) {
				t.Errorf("etcd has %v of what was sent, error %v", got.Kvs, err)
			}
			if err := n.heal(0); err != nil {
				t.Fatal(err)
			}
			if err := eventually(patience, func() error { return putWith(t, connected, "after") }); err != nil {
				t.Errorf("after it was healed: %v", err)
			}
		})
	}
}

func putWith(t *testing.T, c *clientv3.Client, key string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Put(ctx, key, "x")
	return err
}

// The leader can be found, killed and paused; without two members nothing works, and with them again all is there.
func TestMembersFailAndComeBack(t *testing.T) {
	e := startEtcd(t, t.TempDir(), newNetwork(t, 0))
	if err := putWith(t, e.client, "kept"); err != nil {
		t.Fatal(err)
	}
	first, err := e.leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.proc(first).pause(); err != nil {
		t.Fatal(err)
	}
	var second int
	if err := eventually(patience, func() (err error) {
		if second, err = e.leader(t.Context()); err == nil && second == first {
			err = fmt.Errorf("member %d still leads", first)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.proc(first).resume(); err != nil {
		t.Fatal(err)
	}
	for _, m := range []int{first, second} {
		if err := e.kill(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := putWith(t, e.client, "lost"); err == nil {
		t.Error("one member of three took a write")
	}
	for _, m := range []int{first, second} {
		if err := e.start(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := eventually(patience, func() error { return e.works(t.Context()) }); err != nil {
		t.Fatal(err)
	}
	got, err := e.client.Get(t.Context(), "kept")
	if err != nil || len(got.Kvs) != 1 {
		t.Errorf("kept %v, error %v", got, err)
	}
	// A watch that is behind a compaction is told so.
	for range 3 {
		if err := putWith(t, e.client, "kept"); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.compact(t.Context(), rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	w := <-e.client.Watch(t.Context(), "kept", clientv3.WithRev(got.Kvs[0].ModRevision))
	if w.CompactRevision == 0 {
		t.Errorf("a watch of old revisions got %v", w)
	}
}

// A supervised process comes again when it ends, stays down while it is held down, and a paused one does nothing.
func TestSupervisedProcess(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	lines := func() int {
		text, err := os.ReadFile(log)
		if err != nil {
			return 0
		}
		return bytes.Count(text, []byte("\n"))
	}
	s := supervise(func(int) (*process, error) {
		return start(log, nil, "sh", "-c", "trap 'exit 0' TERM; while :; do echo; sleep 0.01; done")
	})
	grows := func(from int) func() error {
		return func() error {
			if lines() <= from {
				return fmt.Errorf("%d lines", lines())
			}
			return nil
		}
	}
	if err := eventually(patience, grows(3)); err != nil {
		t.Fatal(err)
	}
	first := s.current()
	if err := first.pause(); err != nil {
		t.Fatal(err)
	}
	before := lines()
	if err := eventually(200*time.Millisecond, grows(before)); err == nil {
		t.Error("a paused process goes on")
	}
	if err := first.resume(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(patience, grows(before)); err != nil {
		t.Errorf("a resumed process does not go on: %v", err)
	}
	if err := s.hold(); err != nil {
		t.Fatal(err)
	}
	before = lines()
	if err := eventually(2*restartAfter, grows(before)); err == nil {
		t.Error("a process that is held down runs")
	}
	s.letGo()
	if err := eventually(patience, grows(before)); err != nil {
		t.Errorf("it is not started again: %v", err)
	}
	if err := s.current().kill(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(patience, func() error {
		if len(s.all()) < 3 {
			return fmt.Errorf("%d processes ran", len(s.all()))
		}
		return nil
	}); err != nil {
		t.Errorf("it is not started again after a kill: %v", err)
	}
	if err := eventually(patience, grows(lines())); err != nil { // its trap is set
		t.Fatal(err)
	}
	if err := s.end(patience); err != nil {
		t.Errorf("it does not end in order: %v", err)
	}
}
