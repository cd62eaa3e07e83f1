package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/chartergate/chartergate/store/dirlock"
	"github.com/chartergate/chartergate/store/embedded"
)

// asChild makes the test binary a process that writes to the directory until it is killed.
const asChild = "EMBEDDED_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asChild); dir != "" {
		fmt.Fprintln(os.Stderr, writeForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver tells of each write once it is acknowledged.
func writeForEver(dir string) error {
	server, err := embedded.Start(context.Background(), dir, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		if _, err := server.Client().Put(context.Background(), fmt.Sprintf("/k/%08d", i), "written"); err != nil {
			return err
		}
		fmt.Println(i)
	}
}

func TestKilledProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "as needed")
	for round := range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), asChild+"="+dir)
		child.Stderr = t.Output()
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged, lines := -1, bufio.NewScanner(out)
		for acknowledged < 50*(round+1) && lines.Scan() {
			fmt.Sscan(lines.Text(), &acknowledged)
		}
		if acknowledged < 0 {
			t.Fatalf("the child wrote nothing: %v", child.Wait())
		}

		_, err = embedded.Start(t.Context(), dir, quiet)
		if inUse := (*dirlock.InUseError)(nil); !errors.As(err, &inUse) || inUse.PID != child.Process.Pid || inUse.Dir != dir {
			t.Errorf("a directory in use: error %v, want an InUseError of process %d", err, child.Process.Pid)
		} else if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprint(child.Process.Pid)) {
			t.Errorf("the error %q does not name the directory and the process", err)
		}

		if err := child.Process.Kill(); err != nil { // SIGKILL
			t.Fatal(err)
		}
		for lines.Scan() { // what it had told before it died
			fmt.Sscan(lines.Text(), &acknowledged)
		}
		_ = child.Wait() // it was killed

		server := start(t, dir)
		resp, err := server.Client().Get(t.Context(), "/k/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		if resp.Count < int64(acknowledged)+1 {
			t.Errorf("%d writes are there, %d were acknowledged before the kill", resp.Count, acknowledged+1)
		}
		if err := server.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func TestCloseUnlocks(t *testing.T) {
	dir := t.TempDir()
	server := start(t, dir)
	if _, err := server.Client().Put(t.Context(), "/k", "v"); err != nil {
		t.Fatal(err)
	}
	_, err := embedded.Start(t.Context(), dir, quiet)
	if inUse := (*dirlock.InUseError)(nil); !errors.As(err, &inUse) || inUse.PID != os.Getpid() {
		t.Errorf("a second start in the process: error %v, want an InUseError of process %d", err, os.Getpid())
	}
	if err := server.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	again := start(t, dir)
	defer again.Close()
	resp, err := again.Client().Get(t.Context(), "/k")
	if err != nil || len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != "v" {
		t.Errorf("after the restart: %v, error %v", resp, err)
	}
}

func TestNotADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := embedded.Start(t.Context(), file, quiet); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v, want one that names %s", err, file)
	}
}

// The leases and watches of the ledger go through the same in-process client.
func TestClientLeasesAndWatches(t *testing.T) {
	server := start(t, t.TempDir())
	defer server.Close()
	client, ctx := server.Client(), t.Context()
	lease, err := client.Grant(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	events := client.Watch(ctx, "/own/", clientv3.WithPrefix())
	if _, err := client.Put(ctx, "/own/e", "1", clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Revoke(ctx, lease.ID); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for deadline := time.After(10 * time.Second); len(kinds) < 2; {
		select {
		case resp := <-events:
			for _, e := range resp.Events {
				kinds = append(kinds, e.Type.String())
			}
		case <-deadline:
			t.Fatalf("the watch saw %v, want PUT and DELETE", kinds)
		}
	}
	if !slices.Equal(kinds, []string{"PUT", "DELETE"}) {
		t.Errorf("the watch saw %v, want PUT and DELETE", kinds)
	}
}

func TestQuietAndQuick(t *testing.T) {
	var said lines
	began := time.Now()
	server, err := embedded.Start(t.Context(), t.TempDir(), slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started in %s", time.Since(began))
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if said.String() != "" {
		t.Errorf("a start and a stop without trouble log:\n%s", said.String())
	}
}

var quiet = slog.New(slog.DiscardHandler)

func start(t *testing.T, dir string) *embedded.Server {
	t.Helper()
	server, err := embedded.Start(t.Context(), dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// lines collects what several goroutines write.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
