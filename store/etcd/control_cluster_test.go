package etcd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/chartergate/chartergate/core/charter"
	"github.com/chartergate/chartergate/core/money"
	"github.com/chartergate/chartergate/store"
	"github.com/chartergate/chartergate/store/etcd"
	"github.com/chartergate/chartergate/store/storetest"
)

// The same suite over the network, as with a cluster.
func TestControlOverNetwork(t *testing.T) {
	storetest.RunControl(t, func(t *testing.T) (store.Control, store.Control) {
		address := startListening(t)
		return openControl(t, dial(t, address)), openControl(t, dial(t, address))
	})
}

// A replica that is cut off while its place in the history is compacted away lists again and goes on.
func TestControlSurvivesCompaction(t *testing.T) {
	address := startListening(t)
	direct := dial(t, address)
	line := newLine(t, address)
	writer, cutOff := openControl(t, direct), openControl(t, dial(t, line.address()))
	commitBudgets(t, writer, budget(t, "kept", 1), budget(t, "deleted", 1))
	await(t, cutOff, func(s *charter.Snapshot) bool { return s.Budget("deleted") != nil })
	var told epochs
	cutOff.OnChange(told.add)

	line.cut()
	commitBudgets(t, writer, budget(t, "kept", 2))
	_, err := writer.Commit(t.Context(), func(*charter.Snapshot) ([]charter.Change, error) {
		return []charter.Change{{Name: "budgets/deleted"}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	last := commitBudgets(t, writer, budget(t, "added", 3))
	if _, err := direct.Compact(t.Context(), last.Epoch, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if s := cutOff.Snapshot(); s.Budget("kept").Limit != 1 || s.Budget("deleted") == nil {
		t.Fatal("the replica was not cut off")
	}
	line.mend()

	await(t, cutOff, func(s *charter.Snapshot) bool { return s.Epoch == last.Epoch })
	s := cutOff.Snapshot()
	if s.Budget("kept").Limit != 2 || s.Budget("deleted") != nil || s.Budget("added") == nil {
		t.Errorf("after the compaction it knows kept %v, deleted %v, added %v", s.Budget("kept"), s.Budget("deleted"), s.Budget("added"))
	}
	// It follows again, and can write.
	commitBudgets(t, writer, budget(t, "kept", 4))
	await(t, cutOff, func(s *charter.Snapshot) bool { return s.Budget("kept").Limit == 4 })
	if s := commitBudgets(t, cutOff, budget(t, "kept", 5)); s.Budget("kept").Limit != 5 {
		t.Errorf("the limit is %d, want 5", s.Budget("kept").Limit)
	}
	told.ascend(t)
}

// LastSync tells a replica that is cut off from one that has nothing to do.
func TestControlLastSync(t *testing.T) {
	line := newLine(t, startListening(t))
	c := openControl(t, dial(t, line.address()))
	opened := c.LastSync()
	later := func(than time.Time) func() bool { return func() bool { return c.LastSync().After(than) } }
	poll(t, "the idle replica is in sync again", later(opened))
	line.cut()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Commit(ctx, func(*charter.Snapshot) ([]charter.Change, error) {
		return []charter.Change{charter.Set(budget(t, "acme", money.Unit))}, nil
	})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a commit without etcd: error %v, want ErrUnavailable", err)
	}
	poll(t, "the last sync is longer ago than it ever is with etcd in reach", func() bool { return time.Since(c.LastSync()) > 2*time.Second })
	line.mend()
	poll(t, "the replica is in sync after the line is mended", later(time.Now()))
}

func TestDialNobody(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	address := "http://" + nobody.Addr().String()
	_, err = etcd.Dial(t.Context(), etcd.Config{Endpoints: []string{address}, DialTimeout: 300 * time.Millisecond})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "300ms") {
		t.Errorf("error %v, want ErrUnavailable with the endpoint and the time", err)
	}
	if _, err = etcd.Dial(t.Context(), etcd.Config{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without endpoints: error %v, want ErrUnavailable", err)
	}
}

// startListening runs an etcd with its own defaults but the transaction size, and gives the address that it listens on.
func startListening(t *testing.T) string { return startWithTxnOps(t, 10_000) }

func startWithTxnOps(t *testing.T, most uint) string {
	t.Helper()
	loopback := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.MaxTxnOps = t.TempDir(), "fatal", most
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{loopback}, []url.URL{loopback}
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = []url.URL{loopback}, []url.URL{loopback}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd does not get ready")
	}
	return server.Clients[0].Addr().String()
}

func dial(t *testing.T, address string) *clientv3.Client {
	t.Helper()
	client, err := etcd.Dial(t.Context(), etcd.Config{Endpoints: []string{"http://" + address}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// line is a connection to etcd that can be cut.
type line struct {
	listener net.Listener
	mu       sync.Mutex
	down     bool
	open     []net.Conn
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{listener: listener}
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			l.connect(from, to)
		}
	}()
	t.Cleanup(func() { listener.Close(); l.cut() })
	return l
}

func (l *line) connect(from net.Conn, address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	to, err := net.Dial("tcp", address)
	if err != nil || l.down {
		from.Close()
		if err == nil {
			to.Close()
		}
		return
	}
	l.open = append(l.open, from, to)
	go func() { _, _ = io.Copy(from, to) }()
	go func() { _, _ = io.Copy(to, from) }()
}

func (l *line) address() string { return l.listener.Addr().String() }

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for _, c := range l.open {
		c.Close()
	}
	l.open = nil
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// epochs collects what OnChange tells.
type epochs struct {
	mu   sync.Mutex
	list []int64
}

func (e *epochs) add(s *charter.Snapshot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, s.Epoch)
}

func (e *epochs) ascend(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := 1; i < len(e.list); i++ {
		if e.list[i] <= e.list[i-1] {
			t.Errorf("OnChange told of epochs %v, want them ascending", e.list)
		}
	}
}

func await(t *testing.T, c *etcd.Control, known func(*charter.Snapshot) bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	c.OnChange(func(*charter.Snapshot) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	deadline := time.After(20 * time.Second)
	for !known(c.Snapshot()) {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("the replica does not know after 20 seconds")
		}
	}
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick, deadline := time.NewTicker(20*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not after 20 seconds: %s", what)
		}
	}
}
