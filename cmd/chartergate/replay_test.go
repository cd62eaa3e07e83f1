package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/core/ledger"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

// startExamples runs a real server with the example company, until the test ends.
func startExamples(t *testing.T, change ...func(*serveOptions)) (addr string, client *chartergate.Client) {
	t.Helper()
	var err error
	s := &childServer{exited: make(chan struct{})}
	if s.grpcAddr, err = freeAddress(); err != nil {
		t.Fatal(err)
	}
	o := &serveOptions{
		dataDir: t.TempDir(), grpcAddr: s.grpcAddr, httpAddr: "127.0.0.1:0", maxHold: ledger.DefaultMaxTTL, logLevel: "error", logFormat: "text",
		usage: usageOptions{topK: 100, hourlyDays: 14, usageDays: 730, decisionDays: 30},
	}
	for _, f := range change {
		f(o)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		s.err = serve(ctx, o)
		close(s.exited)
	}()
	t.Cleanup(func() {
		stop()
		if <-s.exited; s.err != nil {
			t.Errorf("serve: %v", s.err)
		}
	})
	if err := s.awaitHealth(ctx); err != nil {
		t.Fatal(err)
	}
	if client, err = chartergate.Dial(s.grpcAddr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	resources, err := exampleResources()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Manifests.Apply(ctx, &pb.ApplyRequest{Resources: resources}); err != nil {
		t.Fatal(err)
	}
	return s.grpcAddr, client
}

// writeTrace writes a workload as a csv trace and gives what it costs on contract-extraction's only model: GPU time of
// 500,000 ms per million input and 2,000,000 ms per million output tokens, rounded up, at 2.60 an hour, with 12% on top.
func writeTrace(t *testing.T, calls int) (file string, cost int64) {
	t.Helper()
	rows, err := replay.Generate("extraction", 5)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("timestamp_ms,input_tokens,output_tokens,user,outcome\n")
	for row, err := range replay.Limit(rows, calls) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d,%d,%d,%s,success\n", row.At.Milliseconds(), row.InputTokens, row.OutputTokens, row.User)
		gpu := (row.InputTokens*500_000 + row.OutputTokens*2_000_000 + 999_999) / 1_000_000
		cost += (gpu*7280*2 + 9) / (2 * 9) // x 2.60 x 1.12 / 3.6e6 in nanos is x 7280/9, half up
	}
	file = filepath.Join(t.TempDir(), "trace.csv")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, cost
}

func TestReplayAgainstARealServer(t *testing.T) {
	addr, _ := startExamples(t)
	file, cost := writeTrace(t, 400)
	var out, errs bytes.Buffer
	status := execute([]string{"replay", "--server", addr, "--format", "csv", "--file", file, "--feature", "contract-extraction", "-o", "json"}, nil, &out, &errs)
	if status != exitOK {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	var r replay.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Requests != 400 || r.Allowed != 400 || r.SettledNanos != cost || r.ForcedNanos != 0 || r.Currency != "USD" {
		t.Errorf("the trace costs %d; the replay says %+v", cost, r)
	}
	var byTier int64
	for _, c := range r.ByTier {
		byTier += c.SettledNanos
	}
	if byTier != r.SettledNanos {
		t.Errorf("by tier %d, settled %d", byTier, r.SettledNanos)
	}
	var path []string
	for _, b := range r.Budgets {
		path = append(path, strings.TrimPrefix(b.Name, "budgets/"))
		if b.SettledNanos != cost || b.HeldNanos != 0 || b.RemainingNanos != b.LimitNanos-cost || b.Period == "" || b.Currency != "USD" {
			t.Errorf("the trace costs %d: %+v", cost, b)
		}
	}
	if got := strings.Join(path, " "); got != "contract-extraction customer-operations acme" {
		t.Errorf("the path is %s", got)
	}
}

// A trace that costs about twice the ceiling: it holds, the alert comes once, and every call has an answer.
func TestReplayStopsAtTheCeiling(t *testing.T) {
	addr, client := startExamples(t)
	file, cost := writeTrace(t, 400)
	const feature = "contract-extraction"
	budget, err := client.Budgets.GetBudget(t.Context(), &pb.GetBudgetRequest{Name: "budgets/" + feature})
	if err != nil {
		t.Fatal(err)
	}
	budget.LimitNanos = cost / 2
	if _, err := client.Budgets.UpdateBudget(t.Context(), &pb.UpdateBudgetRequest{Budget: budget}); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	status := execute([]string{"replay", "--server", addr, "--format", "csv", "--file", file, "--feature", feature, "--concurrency", "32", "-o", "json"}, nil, &out, &errs)
	if status != exitOK {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	var r replay.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	leaf := r.Budgets[0]
	if leaf.LimitNanos != cost/2 || leaf.SettledNanos != r.SettledNanos || leaf.SettledNanos+leaf.HeldNanos > leaf.LimitNanos+leaf.ForcedNanos || leaf.Alerts != 1 {
		t.Errorf("%+v; the clients saw %d settled", leaf, r.SettledNanos)
	}
	if r.Errors != 0 || r.Denied+r.Throttled == 0 || r.Allowed+r.Downgraded+r.Throttled+r.Denied != 400 || r.RefusedByReason["BUDGET_EXHAUSTED"] != r.Denied || r.RefusedByReason["BUDGET_HELD"] != r.Throttled {
		t.Errorf("%+v", r)
	}
	if r.SettledNanos < leaf.LimitNanos*8/10 {
		t.Errorf("refused with %d of %d settled", r.SettledNanos, leaf.LimitNanos)
	}
	out.Reset()
	if status := execute([]string{"replay", "--server", addr, "--format", "csv", "--file", file, "--feature", feature, "--limit", "3"}, nil, &out, &errs); status != exitOK {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	for _, want := range []string{"contract-extraction: 3 requests", "BUDGET_EXHAUSTED", "budgets/acme"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not have %q:\n%s", want, out.String())
		}
	}
	if strings.ContainsRune(out.String()+errs.String(), '\x1b') {
		t.Error("control characters without a terminal")
	}
}

func TestReplayErrors(t *testing.T) {
	addr, _ := startExamples(t)
	bad := filepath.Join(t.TempDir(), "bad.csv")
	if err := os.WriteFile(bad, []byte("input_tokens,output_tokens\n1,2\n-1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"--format csv --file " + bad + " --feature nothing", exitFailed, "charters/nothing"},
		{"--format csv --file " + bad + " --feature code-assistant", exitFailed, "bad.csv:3: input_tokens"},
		{"--format csv --file " + bad + ".gone --feature code-assistant", exitFailed, "bad.csv.gone"},
		{"--format csv --file " + bad + " --feature research-agent --limit 1", exitFailed, "set call.run"},
		{"--format xml --file " + bad + " --feature code-assistant", exitUsage, "unknown trace format"},
		{"--format csv --file " + bad + " --feature code-assistant --speed 0", exitUsage, "--speed"},
		{"--format csv --file " + bad + " --feature code-assistant --run-id " + strings.Repeat("x", 41), exitUsage, "run id"},
		{"--format csv --file " + bad + " --feature code-assistant -o xml", exitUsage, "unknown output"},
		{"--format csv --file " + bad, exitUsage, "feature"},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"replay", "--server", addr}, strings.Fields(c.args)...)
		if status := execute(args, nil, &out, &errs); status != c.status || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%s: status %d, want %d and %q: %s", c.args, status, c.status, c.says, errs.String())
		}
	}
}
