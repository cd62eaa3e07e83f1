package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/protobuf/types/known/timestamppb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

// quickConnect finds a server that is just starting.
var quickConnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.3, MaxDelay: 200 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

// growthRow is what was measured with a number of charters, each with a budget of its own. Memory is of a server that
// was started again, above that of a server without charters, and includes the embedded etcd.
type growthRow struct {
	Charters       int     `json:"charters"`
	LoadSeconds    float64 `json:"load_seconds"`
	RestartSeconds float64 `json:"restart_seconds"`
	Reserve1P50ms  float64 `json:"reserve_1_p50_ms"`
	Reserve64      float64 `json:"reserve_64_per_second"`
	Reserve64P50ms float64 `json:"reserve_64_p50_ms"`
	Reserve64P99ms float64 `json:"reserve_64_p99_ms"`
	ResidentBytes  int64   `json:"resident_bytes"`
	HeapBytes      int64   `json:"heap_inuse_bytes"` // garbage included
	LiveBytes      int64   `json:"heap_live_bytes"`  // what the last collection left
	RSSPerCharter  int64   `json:"resident_bytes_per_charter"`
	LivePerCharter int64   `json:"heap_live_bytes_per_charter"`
}

func benchGrowth(ctx context.Context, cmd *cobra.Command, f *benchFlags) error {
	for _, n := range f.charters {
		if n < 1 {
			return usagef("--charters %d: use 1 or more", n)
		}
	}
	base, err := growthOf(ctx, cmd, f, 0)
	if err != nil {
		return err
	}
	var rows []growthRow
	for _, n := range f.charters {
		row, err := growthOf(ctx, cmd, f, n)
		if err != nil {
			return err
		}
		row.RSSPerCharter = (row.ResidentBytes - base.ResidentBytes) / int64(n)
		row.LivePerCharter = (row.LiveBytes - base.LiveBytes) / int64(n)
		rows = append(rows, row)
	}
	if f.output == "json" {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"empty": base, "growth": rows})
	}
	g := newGrid(">CHARTERS", ">LOAD", ">RESTART", ">RESERVE 1: P50", ">64: A SECOND", ">P50", ">P99", ">RESIDENT", ">HEAP IN USE", ">LIVE HEAP", ">RESIDENT/CHARTER", ">LIVE/CHARTER")
	for _, r := range append([]growthRow{base}, rows...) {
		g.add(thousands(int64(r.Charters)), fmt.Sprintf("%.2f s", r.LoadSeconds), fmt.Sprintf("%.2f s", r.RestartSeconds), millis(r.Reserve1P50ms),
			thousands(int64(r.Reserve64)), millis(r.Reserve64P50ms), millis(r.Reserve64P99ms), mebi(r.ResidentBytes), mebi(r.HeapBytes), mebi(r.LiveBytes),
			thousands(r.RSSPerCharter)+" B", thousands(r.LivePerCharter)+" B")
	}
	w := cmd.OutOrStdout()
	fmt.Fprintln(w, "\nEach charter has a budget of its own; memory includes the embedded etcd, and per charter is above the empty server's.")
	fmt.Fprintln(w)
	g.write(w, "  ")
	return nil
}

func mebi(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

func growthOf(ctx context.Context, cmd *cobra.Command, f *benchFlags, n int) (row growthRow, err error) {
	dir, err := os.MkdirTemp("", "chartergate-bench-")
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := cmd.ErrOrStderr()
	fmt.Fprintf(log, "%s charters: loading\n", thousands(int64(n)))
	row.Charters = n
	if row.LoadSeconds, err = loadCharters(ctx, dir, max(1, n)); err != nil {
		return row, err
	}
	fmt.Fprintf(log, "%s charters: starting again and reserving\n", thousands(int64(n)))
	server, err := startServer(ctx, dir)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	row.RestartSeconds = server.startTime.Seconds()
	m, err := server.metrics(ctx)
	if err != nil {
		return row, err
	}
	row.ResidentBytes = int64(m["process_resident_memory_bytes"])
	row.HeapBytes = int64(m["go_memstats_heap_inuse_bytes"])
	row.LiveBytes = int64(m["go_memstats_next_gc_bytes"] / (1 + m["go_gc_gogc_percent"]/100))

	client, err := chartergate.Dial(server.grpcAddr)
	if err != nil {
		return row, err
	}
	defer client.Close()
	// A hundred features spread over all, as few are busy at any time; the warm-up opens their budgets.
	spread := func(ctx context.Context, i int64, _ *replay.Latencies) error {
		feature := fmt.Sprintf("charter-%d", i%100*int64(max(1, n))/100)
		_, err := benchReserve(ctx, client.Preflight.Reserve, benchCall(feature), time.Second)
		return err
	}
	s := subject{"Reserve", spread}
	if _, err := measure(ctx, server, s, 8, time.Second); err != nil {
		return row, err
	}
	one, err := measure(ctx, server, s, 1, f.duration)
	if err != nil {
		return row, err
	}
	many, err := measure(ctx, server, s, 64, f.duration)
	if err != nil {
		return row, err
	}
	row.Reserve1P50ms, row.Reserve64, row.Reserve64P50ms, row.Reserve64P99ms = one.P50ms, many.PerSecond, many.P50ms, many.P99ms
	return row, nil
}

func loadCharters(ctx context.Context, dir string, n int) (seconds float64, err error) {
	server, err := startServer(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	client, err := chartergate.Dial(server.grpcAddr)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	start := time.Now()
	err = applyBench(ctx, client, n)
	return time.Since(start).Seconds(), err
}

// applyBench creates a catalog, prices, a company's budgets, and n charters, `charter-0` on, each with its own budget.
func applyBench(ctx context.Context, client *chartergate.Client, n int) error {
	apply := func(ctx context.Context, resources []*pb.Resource) error {
		_, err := client.Manifests.Apply(ctx, &pb.ApplyRequest{Resources: resources})
		return err
	}
	if err := apply(ctx, benchCompany()); err != nil {
		return err
	}
	const perBatch = 50 // with their budgets 100, the most that Apply takes
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range 4 {
		g.Go(func() error {
			for {
				first := int(next.Add(perBatch)) - perBatch
				if first >= n {
					return nil
				}
				var batch []*pb.Resource
				for i := first; i < min(n, first+perBatch); i++ {
					batch = append(batch, benchFeature(i)...)
				}
				if err := apply(ctx, batch); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// benchLimit is a billion: no bench uses it up.
const benchLimit = 1_000_000_000_000_000_000

func benchBudget(id, parent string) *pb.Resource {
	b := &pb.Budget{
		Name: "budgets/" + id, Owner: &pb.Owner{Name: "Bench", Email: "bench@example.com"}, LimitNanos: benchLimit, Currency: "USD",
		Period: &pb.Period{Calendar: pb.CalendarPeriod_CALENDAR_PERIOD_MONTH},
	}
	if parent != "" {
		b.Parent = "budgets/" + parent
	}
	return &pb.Resource{Resource: &pb.Resource_Budget{Budget: b}}
}

func benchCompany() []*pb.Resource {
	catalog := &pb.Catalog{Name: "catalog"}
	book := &pb.PriceBook{Name: "priceBooks/bench", Currency: "USD"}
	for i, tier := range []string{"economy", "standard", "premium"} {
		catalog.Tiers = append(catalog.Tiers, &pb.Tier{Id: tier})
		catalog.Models = append(catalog.Models, &pb.Model{
			Id: "bench-" + tier, Provider: "bench", Tier: tier, Capabilities: []string{"chat", "tools"}, ContextTokens: 128_000, MaxOutputTokens: 16_000,
		})
		input := int64(150_000_000) << (4 * i) // per million tokens
		cached, output := input/2, 4*input
		book.Prices = append(book.Prices, &pb.Price{
			Model: "bench-" + tier, EffectiveTime: timestamppb.New(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)),
			InputNanos: &input, CacheReadNanos: &cached, OutputNanos: &output,
		})
	}
	return []*pb.Resource{
		{Resource: &pb.Resource_Catalog{Catalog: catalog}},
		{Resource: &pb.Resource_PriceBook{PriceBook: book}},
		benchBudget("company", ""), benchBudget("department", "company"), benchBudget("team", "department"),
	}
}

func benchFeature(i int) []*pb.Resource {
	id := fmt.Sprintf("charter-%d", i)
	return []*pb.Resource{benchBudget(id, "team"), {Resource: &pb.Resource_Charter{Charter: &pb.Charter{
		Name: "charters/" + id, DisplayName: fmt.Sprintf("Feature %d", i), Owner: &pb.Owner{Name: "Bench", Email: "bench@example.com"},
		Team: fmt.Sprintf("team-%d", i/100), Stage: pb.Stage_STAGE_PRODUCTION, Budget: "budgets/" + id,
		PermittedTiers: []string{"economy", "standard", "premium"}, AlertThresholdsPermille: []int32{800},
		Labels: map[string]string{"cost-center": fmt.Sprintf("cc-%d", i%50)},
	}}}}
}
