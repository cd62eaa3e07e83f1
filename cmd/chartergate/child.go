package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// childServer is a server of this binary that runs as a child process on free loopback ports.
type childServer struct {
	grpcAddr, httpAddr string
	startTime          time.Duration // until it answered

	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // why it ended; after exited
}

// childStart is how long a server may take to answer.
const childStart = 60 * time.Second

// startServer starts `chartergate serve` on a data directory in dir and waits until it answers. Its log is dir/server.log.
func startServer(ctx context.Context, dir string, flags ...string) (*childServer, error) {
	grpcAddr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	httpAddr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--data-dir", filepath.Join(dir, "data"), "--grpc-addr", grpcAddr, "--http-addr", httpAddr}, flags...)
	return startChild(ctx, dir, grpcAddr, httpAddr, args...)
}

func startChild(ctx context.Context, dir, grpcAddr, httpAddr string, args ...string) (*childServer, error) {
	start := time.Now()
	c, err := startProcess(dir, args[0]+".log", args...)
	if err != nil {
		return nil, err
	}
	c.grpcAddr, c.httpAddr = grpcAddr, httpAddr
	if err := c.awaitHealth(ctx); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	c.startTime = time.Since(start)
	return c, nil
}

// startProcess starts this binary with its output in dir/log.
func startProcess(dir, log string, args ...string) (*childServer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &childServer{log: filepath.Join(dir, log), exited: make(chan struct{})}
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd = exec.Command(self, args...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	// Its own group: a Ctrl-C in the terminal ends the parent, which then stops it in order.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

func (c *childServer) awaitHealth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, childStart)
	defer cancel()
	go func() {
		select {
		case <-c.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	conn, err := grpc.NewClient(c.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(quickConnect))
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
		select {
		case <-c.exited:
			return fmt.Errorf("the server did not start: %v\n%s", c.err, c.logTail())
		case <-ctx.Done():
			return fmt.Errorf("the server did not answer within %v: %v\n%s", childStart, err, c.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// logTail is the end of the server's log, for errors.
func (c *childServer) logTail() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}

// stop asks the server to end, and kills it after 10 seconds.
func (c *childServer) stop() error {
	select {
	case <-c.exited:
		return c.err
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.exited:
		return c.err
	case <-time.After(10 * time.Second):
		return errors.Join(errors.New("the server did not stop in 10 seconds and was killed"), c.cmd.Process.Kill())
	}
}

// metrics reads /metrics: the values of the series without labels.
func (c *childServer) metrics(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.httpAddr+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics: %s", resp.Status)
	}
	return parseMetrics(resp.Body)
}

// parseMetrics reads the Prometheus text format, of which it keeps the series without labels.
func parseMetrics(r io.Reader) (map[string]float64, error) {
	values := map[string]float64{}
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return values, lines.Err()
		}
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || name == "#" || strings.Contains(name, "{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("/metrics: %q: %w", lines.Text(), err)
		}
		values[name] = n
	}
}

// freeAddress finds a loopback port that nobody listens on. Another process may take it first; then the server says so.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
