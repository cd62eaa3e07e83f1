package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/chartergate/chartergate/chaos/oracle"
	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// cluster is everything that can be broken.
type cluster struct {
	dir      string
	net      network
	etcd     *etcdCluster
	replicas []*supervised
	clients  []*supervised
	addrs    []string // gRPC, of the replicas
	conns    []*chartergate.Client
	// failpoints are where gofail listens in replicas that are built with it.
	failpoints []string
}

// startCluster starts etcd and replicas and waits until each serves; the company is in force.
func startCluster(t *testing.T, replicas int) *cluster {
	t.Helper()
	c := &cluster{dir: t.TempDir(), net: newNetwork(t, replicas)}
	c.etcd = startEtcd(t, c.dir, c.net)
	for i := range replicas {
		c.addrs = append(c.addrs, freeAddress(t))
		http := freeAddress(t)
		var argv []string
		argv = append(argv, os.Getenv(serverEnv), "serve", "--data-dir", filepath.Join(c.dir, fmt.Sprintf("replica-%d", i)), "--grpc-addr", c.addrs[i], "--http-addr", http, "--max-hold", maxHold.String())
		for _, endpoint := range c.net.link(i) {
			argv = append(argv, "--etcd-endpoints", endpoint)
		}
		c.failpoints = append(c.failpoints, freeAddress(t))
		env := []string{"GOFAIL_HTTP=" + c.failpoints[i], "GOFAIL_FAILPOINTS=" + switchesOn}
		s := supervise(func(int) (*process, error) { return start(c.replicaLog(i), env, argv...) })
		c.replicas = append(c.replicas, s)
		t.Cleanup(func() {
			s.set(func() { s.ending = true })
			if p := s.current(); p != nil {
				_ = p.kill()
			}
		})
		conn, err := chartergate.Dial(c.addrs[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c.conns = append(c.conns, conn)
	}
	if err := c.allServe(t.Context()); err != nil {
		t.Fatal(err)
	}
	resources, err := manifest.Parse("company.yaml", []byte(company))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.conns[0].Manifests.Apply(t.Context(), &pb.ApplyRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	return c
}

// archives are where the replicas collected their journals to.
func (c *cluster) archives() (dirs oracle.Archives) {
	for i := range c.replicas {
		dirs = append(dirs, filepath.Join(c.dir, fmt.Sprintf("replica-%d", i), "archive"))
	}
	return dirs
}

func (c *cluster) replicaLog(i int) string {
	return filepath.Join(c.dir, fmt.Sprintf("replica-%d.log", i))
}

// allServe waits until every replica does.
func (c *cluster) allServe(ctx context.Context) error {
	for i := range c.replicas {
		err := eventually(2*patience, func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			r, err := grpc_health_v1.NewHealthClient(c.conns[i].Conn()).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			if err == nil && r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
				err = errors.New(r.GetStatus().String())
			}
			return err
		})
		if err != nil {
			tail := ""
			if p := c.replicas[i].current(); p != nil {
				tail = p.tail()
			}
			return fmt.Errorf("replica %d does not serve: %w\n%s", i, err, tail)
		}
	}
	return nil
}

// startClients starts client processes that make so many calls a second together.
func (c *cluster) startClients(t *testing.T, count int, perSecond float64, seed uint64) {
	t.Helper()
	for i := range count {
		s := supervise(func(generation int) (*process, error) {
			id := fmt.Sprintf("c%d.%d", i, generation)
			l := load{
				ID: id, Replicas: c.addrs, History: filepath.Join(c.dir, "history-"+id+".jsonl"),
				Seed: seed + uint64(i)<<32 + uint64(generation), PerSecond: perSecond / float64(count),
			}
			told, err := json.Marshal(l)
			if err != nil {
				return nil, err
			}
			exe, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return start(filepath.Join(c.dir, fmt.Sprintf("client-%d.log", i)), []string{roleEnv + "=" + roleClient, clientEnv + "=" + string(told)}, exe)
		})
		c.clients = append(c.clients, s)
	}
}

// stopClients lets the clients finish what is under way.
func (c *cluster) stopClients() error {
	errs := make(chan error, len(c.clients))
	for _, s := range c.clients {
		go func() { errs <- s.end(2 * time.Minute) }()
	}
	var all error
	for range c.clients {
		all = errors.Join(all, <-errs)
	}
	return all
}

// history reads what the clients were told.
func (c *cluster) history() ([]*oracle.Attempt, error) {
	return oracle.ReadAttempts(filepath.Join(c.dir, "history-*.jsonl"))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
