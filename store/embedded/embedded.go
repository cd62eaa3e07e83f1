// Package embedded runs etcd inside the process, on a data directory of its own. Nothing listens: the client calls the
// server's functions. It compacts nothing by itself.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"

	"github.com/chartergate/chartergate/store/dirlock"
)

// Limits of the embedded etcd.
const (
	MaxTxnOps       = 10_000  // operations of one transaction
	MaxRequestBytes = 8 << 20 // bytes of one transaction
	QuotaBytes      = 8 << 30 // bytes of the database; etcd refuses writes beyond it
)

const (
	member = "chartergate"
	// slow is from when on etcd warns of a request.
	slow = time.Second
)

// Server is an etcd of one member inside this process.
type Server struct {
	etcd    *etcdserver.EtcdServer
	client  *clientv3.Client
	lock    *os.File
	closing atomic.Bool
}

// Start locks the directory, which it makes when it is missing, and runs etcd on it. What etcd acknowledges is on disk
// (fsync) and survives a crash of the process at any moment. Warnings of etcd go to log.
// Errors: *dirlock.InUseError, or what the file system or etcd says; ctx's when it ends before etcd serves.
func Start(ctx context.Context, dir string, log *slog.Logger) (*Server, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := dirlock.Lock(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock}
	cfg := serverConfig(filepath.Join(dir, "etcd"), zap.New(&core{log.With("component", "etcd").Handler(), &s.closing}))
	if s.etcd, err = etcdserver.NewServer(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("open the etcd in %s: %w", cfg.DataDir, err), lock.Close())
	}
	s.etcd.Start()
	select {
	case <-s.etcd.ReadyNotify():
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("the etcd in %s did not get ready: %w", cfg.DataDir, context.Cause(ctx)), s.Close())
	case <-s.etcd.StopNotify():
		return nil, errors.Join(fmt.Errorf("the etcd in %s stopped while starting", cfg.DataDir), s.Close())
	}
	s.client = v3client.New(s.etcd)
	return s, nil
}

// Client gives the client of this server. It is closed with the server.
func (s *Server) Client() *clientv3.Client { return s.client }

// Close stops etcd and unlocks the directory.
func (s *Server) Close() error {
	s.closing.Store(true)
	if s.client != nil {
		// There is no connection to close: the client reports the cancelling of its own context.
		if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.etcd.Logger().Warn("close the client", zap.Error(err))
		}
	}
	s.etcd.Stop()
	return s.lock.Close()
}

func serverConfig(dir string, log *zap.Logger) config.ServerConfig {
	// The address stands in the member list only: nobody listens on it and nobody dials it.
	self := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	return config.ServerConfig{
		Name: member, DataDir: dir, NewCluster: true, InitialClusterToken: member,
		PeerURLs: self, InitialPeerURLsMap: types.URLsMap{member: self},
		// One member elects itself at the first tick.
		TickMs: 10, ElectionTicks: 10, InitialElectionTickAdvance: true, PreVote: true,
		SnapshotCount: etcdserver.DefaultSnapshotCount, SnapshotCatchUpEntries: etcdserver.DefaultSnapshotCatchUpEntries,
		MaxSnapFiles: 5, MaxWALFiles: 5, MaxLearners: membership.DefaultMaxLearners,
		MaxTxnOps: MaxTxnOps, MaxRequestBytes: MaxRequestBytes, QuotaBackendBytes: QuotaBytes,
		WarningApplyDuration: slow, WarningUnaryRequestDuration: slow, CompactHashCheckTime: time.Minute,
		StrictReconfigCheck: true, BcryptCost: 10, Metrics: "basic",
		V2Deprecation: config.V2DeprDefault, ServerFeatureGate: features.NewDefaultServerFeatureGate(member, log), Logger: log,
	}
}
