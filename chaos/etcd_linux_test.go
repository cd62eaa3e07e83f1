package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/chartergate/chartergate/store/embedded"
)

// etcdCluster is an etcd whose members are processes.
type etcdCluster struct {
	dir    string
	net    network
	client *clientv3.Client // on a link that is never cut

	mu    sync.Mutex
	procs [members]*process
}

func startEtcd(t *testing.T, dir string, net network) *etcdCluster {
	t.Helper()
	e := &etcdCluster{dir: dir, net: net}
	for m := range members {
		if err := e.start(m); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for m := range members {
			if err := e.kill(m); err != nil {
				t.Error(err)
			}
		}
	})
	var err error
	if e.client, err = clientv3.New(clientv3.Config{
		Endpoints: net.link(-1), DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second, Logger: zap.NewNop(),
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.client.Close() })
	if err := eventually(patience, func() error { return e.works(t.Context()) }); err != nil {
		t.Fatalf("etcd does not work: %v\n%s", err, e.procs[0].tail())
	}
	return e
}

// start starts a member, on what it had before.
func (e *etcdCluster) start(member int) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := start(filepath.Join(e.dir, fmt.Sprintf("etcd-%d.log", member)),
		[]string{roleEnv + "=" + roleMember, memberEnv + "=" + strconv.Itoa(member), memberDirEnv + "=" + filepath.Join(e.dir, fmt.Sprintf("etcd-%d", member))},
		e.net.within(exe)...)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.procs[member] = p
	return nil
}

func (e *etcdCluster) proc(member int) *process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.procs[member]
}

func (e *etcdCluster) kill(member int) error { return e.proc(member).kill() }

// works says whether a majority answers.
func (e *etcdCluster) works(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := e.client.Get(ctx, "/")
	return err
}

// leader finds the member that leads.
func (e *etcdCluster) leader(ctx context.Context) (int, error) {
	errs := errors.New("no member says that it leads")
	for m, endpoint := range e.net.link(-1) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		s, err := e.client.Status(ctx, endpoint)
		cancel()
		if err == nil && s.Leader == s.Header.MemberId {
			return m, nil
		}
		errs = errors.Join(errs, err)
	}
	return 0, errs
}

// compact forgets all history before now, and has one member give the space back, as an operator would.
func (e *etcdCluster) compact(ctx context.Context, r *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp, err := e.client.Get(ctx, "/")
	if err != nil {
		return err
	}
	if _, err := e.client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	_, err = e.client.Defragment(ctx, e.net.link(-1)[r.IntN(members)])
	return err
}

// What a process of roleMember is told.
const (
	memberEnv    = "CHARTERGATE_CHAOS_MEMBER"
	memberDirEnv = "CHARTERGATE_CHAOS_MEMBER_DIR"
)

// runMember runs one member of etcd, with the limits of the embedded one, until SIGTERM.
func runMember() error {
	n, err := strconv.Atoi(os.Getenv(memberEnv))
	if err != nil {
		return err
	}
	at := func(host string, port int) []url.URL {
		return []url.URL{{Scheme: "http", Host: fmt.Sprintf("%s:%d", host, port)}}
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = fmt.Sprintf("m%d", n), os.Getenv(memberDirEnv), "warn"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at("0.0.0.0", clientPort(n)), at("127.0.0.1", clientPort(n))
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at("127.0.0.1", peerPort(n)), at("127.0.0.1", peerPort(n))
	all := make([]string, members)
	for m := range all {
		all[m] = fmt.Sprintf("m%d=%s", m, &at("127.0.0.1", peerPort(m))[0])
	}
	cfg.InitialCluster = strings.Join(all, ",")
	cfg.QuotaBackendBytes, cfg.MaxTxnOps, cfg.MaxRequestBytes = embedded.QuotaBytes, embedded.MaxTxnOps, embedded.MaxRequestBytes
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-stopped:
		e.Close()
		return nil
	case err := <-e.Err():
		return err
	}
}
