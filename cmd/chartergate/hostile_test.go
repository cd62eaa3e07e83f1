package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
)

// hostileFor is how long callers run with hostile uploads, and without.
const hostileFor = 3 * time.Second

// TestHostileUploads lets four callers reserve and release while hostile policies are uploaded one after another, and
// while none is. All calls are answered, and no upload is stored.
func TestHostileUploads(t *testing.T) {
	server, err := startServer(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer stopChild(t, server)
	c := cli{t, []string{"--server", server.grpcAddr}}
	c.ok("apply", "-f", "../../examples/acme")
	conn, err := grpc.NewClient(server.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	without := reserveLatency(t, conn)
	files, err := filepath.Glob("../../policy/testdata/hostile/*.rego")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d hostile policies, %v", len(files), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	uploads, accepted := 0, map[string]bool{}
	var uploader sync.WaitGroup
	uploader.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			file := files[i%len(files)]
			text, err := os.ReadFile(file)
			if err != nil {
				t.Error(err)
				return
			}
			limit, cancel := context.WithTimeout(ctx, 300*time.Millisecond) // else some take the 10 s of processor time that they may
			_, err = pb.NewPolicyServiceClient(conn).CreatePolicyRevision(limit, &pb.CreatePolicyRevisionRequest{
				Parent: "policies/routing", ValidateOnly: true, Revision: &pb.PolicyRevision{Modules: map[string]string{"routing.rego": string(text)}}})
			cancel()
			if err == nil {
				accepted[filepath.Base(file)] = true
			}
			uploads++
		}
	})
	with := reserveLatency(t, conn)
	stop()
	uploader.Wait()
	memory := "unknown"
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.cmd.Process.Pid)); err == nil && runtime.GOOS == "linux" {
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		line, _, _ := strings.Cut(after, "\n")
		memory = strings.TrimSpace(line)
	}
	t.Logf("Reserve, 4 callers for %s  %10s %10s %10s", hostileFor, "calls", "p50", "p99")
	t.Logf("without uploads           %10d %10s %10s", len(without), percentile(without, 50), percentile(without, 99))
	t.Logf("%4d hostile uploads      %10d %10s %10s", uploads, len(with), percentile(with, 50), percentile(with, 99))
	t.Logf("most memory of the server: %s", memory)
	if uploads == 0 || len(with) == 0 {
		t.Errorf("%d uploads, %d calls", uploads, len(with))
	}
	for _, name := range []string{"http_send.rego", "loop_endless.rego", "sprintf_width.rego"} {
		if accepted[name] {
			t.Errorf("%s was accepted", name)
		}
	}
}

// reserveLatency gives the times of reserves, sorted.
func reserveLatency(t *testing.T, conn *grpc.ClientConn) []time.Duration {
	t.Helper()
	client := pb.NewPreflightServiceClient(conn)
	var mu sync.Mutex
	var all []time.Duration
	var callers sync.WaitGroup
	end := time.Now().Add(hostileFor)
	for range 4 {
		callers.Go(func() {
			var own []time.Duration
			for time.Now().Before(end) {
				start := time.Now()
				r, err := client.Reserve(t.Context(), &pb.ReserveRequest{Call: &pb.Call{Feature: "support-copilot", TaskClass: "chat", Cohort: "all",
					Estimate: &pb.Estimate{InputTokens: 1200, MaxOutputTokens: 400}}})
				if err != nil {
					t.Error(err)
					return
				}
				own = append(own, time.Since(start))
				if r.Hold.GetToken() != "" {
					if _, err := client.Release(t.Context(), &pb.ReleaseRequest{Hold: r.Hold.GetToken()}); err != nil {
						t.Error(err)
						return
					}
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	callers.Wait()
	slices.Sort(all)
	return all
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(time.Microsecond)
}
