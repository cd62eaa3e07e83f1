package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/chartergate/chartergate/store/embedded"
	"github.com/chartergate/chartergate/store/etcd"
)

// benchCluster is servers of this binary on one etcd: alone with the etcd inside it, several with a listening one.
type benchCluster struct {
	servers []*childServer
	etcd    *childServer // nil where it is inside
}

func startCluster(ctx context.Context, dir string, replicas int) (c *benchCluster, err error) {
	c = &benchCluster{}
	if replicas == 1 {
		s, err := startServer(ctx, dir)
		c.servers = append(c.servers, s)
		return c, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.stop())
		}
	}()
	addr, err := freeAddress()
	if err != nil {
		return c, err
	}
	if c.etcd, err = startProcess(dir, "etcd.log", "bench", "--etcd-server", addr, "--etcd-dir", filepath.Join(dir, "etcd")); err != nil {
		return c, err
	}
	probe, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{"http://" + addr}})
	if err != nil {
		return c, fmt.Errorf("%w\n%s", err, c.etcd.logTail())
	}
	if err := probe.Close(); err != nil {
		return c, err
	}
	for i := range replicas {
		grpcAddr, err := freeAddress()
		if err != nil {
			return c, err
		}
		httpAddr, err := freeAddress()
		if err != nil {
			return c, err
		}
		own := filepath.Join(dir, "server-"+strconv.Itoa(i))
		s, err := startChild(ctx, own, grpcAddr, httpAddr,
			"serve", "--data-dir", own, "--etcd-endpoints", "http://"+addr, "--grpc-addr", grpcAddr, "--http-addr", httpAddr)
		if err != nil {
			return c, err
		}
		c.servers = append(c.servers, s)
	}
	return c, nil
}

func (c *benchCluster) stop() error {
	var errs []error
	for _, s := range c.servers {
		if s != nil {
			errs = append(errs, s.stop())
		}
	}
	if c.etcd != nil {
		errs = append(errs, c.etcd.stop())
	}
	return errors.Join(errs...)
}

// metrics are the sums over the servers.
func (c *benchCluster) metrics(ctx context.Context) (map[string]float64, error) {
	sum := map[string]float64{}
	for _, s := range c.servers {
		m, err := s.metrics(ctx)
		if err != nil {
			return nil, err
		}
		for name, v := range m {
			sum[name] += v
		}
	}
	return sum, nil
}

// serveEtcd runs an etcd of one member that listens on addr until ctx ends, with the limits of the embedded one.
func serveEtcd(ctx context.Context, addr, dir string) error {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = dir, "error", []string{"stderr"}
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: addr}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.MaxTxnOps, cfg.MaxRequestBytes, cfg.QuotaBackendBytes = embedded.MaxTxnOps, embedded.MaxRequestBytes, embedded.QuotaBytes
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err = <-e.Err():
	}
	e.Close()
	return err
}
