package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/chartergate/chartergate/store/etcd"
)

// asChild makes processes that tests start of the test binary the real one.
const asChild = "CHARTERGATE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" || len(os.Args) == 2 && os.Args[1] == vetCommand { // which has no environment
		main()
	}
	if err := os.Setenv(asChild, "1"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A start that cannot succeed says why in one line and writes nothing.
func TestServeRefusesToStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	running := t.TempDir()
	first, err := startServer(t.Context(), running)
	if err != nil {
		t.Fatal(err)
	}
	defer stopChild(t, first)
	fresh := filepath.Join(t.TempDir(), "fresh")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"data directory in use", []string{"--data-dir", filepath.Join(running, "data")}, []string{
			filepath.Join(running, "data"), fmt.Sprintf("process %d", first.cmd.Process.Pid), "stop it, or give another directory"}},
		{"gRPC port in use", []string{"--grpc-addr", taken.Addr().String()}, []string{taken.Addr().String(), "in use", "--grpc-addr"}},
		{"HTTP port in use", []string{"--http-addr", taken.Addr().String()}, []string{taken.Addr().String(), "in use", "--http-addr"}},
		{"not loopback", []string{"--grpc-addr", "0.0.0.0:0"}, []string{"0.0.0.0:0", "loopback", "--grpc-addr"}},
		{"not an address", []string{"--http-addr", "nowhere"}, []string{"--http-addr", "nowhere"}},
		{"log level", []string{"--log-level", "loud"}, []string{"--log-level", `"loud"`, "debug, info, warn or error"}},
		{"log format", []string{"--log-format", "xml"}, []string{"--log-format", `"xml"`, "text or json"}},
		{"hold too short", []string{"--max-hold", "999ms"}, []string{"--max-hold", "999ms", "1s to 24h"}},
		{"hold too long", []string{"--max-hold", "24h1s"}, []string{"--max-hold", "24h0m1s", "1s to 24h"}},
		{"data directory is a file", []string{"--data-dir", file}, []string{file}},
		{"archive in use", []string{"--data-dir", t.TempDir(), "--archive-dir", filepath.Join(running, "data", "archive")}, []string{
			"--archive-dir", filepath.Join(running, "data", "archive"), fmt.Sprintf("process %d", first.cmd.Process.Pid), "give another directory"}},
		{"no CA", []string{"--etcd-endpoints", "https://127.0.0.1:1", "--etcd-cacert", file + ".gone"}, []string{"--etcd-cacert", file + ".gone"}},
		{"no certificate in it", []string{"--etcd-endpoints", "https://127.0.0.1:1", "--etcd-cacert", file}, []string{"--etcd-cacert", "no PEM certificate"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"serve", "--data-dir", fresh, "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"}, c.args...)
			refuses(t, c.says, args...)
			if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a data directory was made: error %v", err)
			}
		})
	}
}

// An error with several causes is one sentence.
func TestNoEtcdIsOneLine(t *testing.T) {
	_, err := etcd.Dial(t.Context(), etcd.Config{Endpoints: []string{"http://127.0.0.1:1"}, DialTimeout: 100 * time.Millisecond})
	if got := explain(errors.Join(err, nil)); strings.Contains(got, "\n") || !strings.Contains(got, "etcd at http://127.0.0.1:1: ") || !strings.Contains(got, "check the endpoints") {
		t.Errorf("%q does not say in one line where etcd should be and what to check", got)
	}
}

// refuses runs a command as a process, which must end with status 1 and one line with all of the words.
func refuses(t *testing.T, says []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	line, rest, _ := strings.Cut(errs.String(), "\n")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || out.Len() > 0 || rest != "" || !strings.HasPrefix(line, "chartergate: ") {
		t.Errorf("%v: %v with %q on stdout and %q on stderr; want exit status %d and one line", args, err, out.String(), errs.String(), exitFailed)
	}
	for _, w := range says {
		if !strings.Contains(line, w) {
			t.Errorf("%q does not say %q", line, w)
		}
	}
}

func stopChild(t *testing.T, c *childServer) {
	t.Helper()
	if err := c.stop(); err != nil {
		t.Errorf("the server ended with %v:\n%s", err, c.logTail())
	}
}

// startEtcd runs an etcd that several processes can reach, and gives its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	loopback := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = t.TempDir(), "fatal"
	cfg.ListenClientUrls, cfg.ListenPeerUrls, cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = loopback, loopback, loopback, loopback
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd does not get ready")
	}
	return "http://" + e.Clients[0].Addr().String()
}
