package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

type benchFlags struct {
	duration    time.Duration
	charters    []int
	replicas    int
	hot         bool
	usage       bool
	policy      bool
	inFlight    int
	output      string
	emptyServer string // hidden: be the empty server, on this address
	etcdServer  string // hidden: be an etcd, on this address
	etcdDir     string
}

func newBenchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a server of its own against an empty gRPC call",
		Long: `Start a server in a temporary directory and measure Reserve, Reserve+Settle and the pipelined Session, at 1 and 64
calls in flight, and leased calls in the process, next to an empty unary call of another gRPC server. The measurements take turns in three rounds, so
that what else the machine does hits all of them; each figure is the median of the rounds. Client and servers share
this machine.

With --replicas it starts that many servers on one etcd and spreads the calls over them. With --hot all calls go through
one budget until it is used up: what is refused near the ceiling although there was room, and that nothing is overspent.

With --policy it measures what policies cost: Reserve on a server with the shipped set for the organisation, a policy of
the team and one of the feature, next to one whose policy is a constant. With --usage it measures what counting
settlements into the usage database costs: Reserve+Settle on a server that does, next to one that does not.

With --charters it measures growth instead: for each number, Reserve, memory and start-up with that many charters,
each with a budget of its own.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			switch {
			case f.emptyServer != "":
				return serveEmpty(ctx, f.emptyServer)
			case f.etcdServer != "":
				return serveEtcd(ctx, f.etcdServer, f.etcdDir)
			case f.replicas < 1 || f.replicas > 16:
				return usagef("--replicas %d: use 1 to 16", f.replicas)
			case f.inFlight < 1 || f.inFlight > 4096:
				return usagef("--in-flight %d: use 1 to 4096", f.inFlight)
			case f.output != "table" && f.output != "json":
				return usagef("unknown output %q: use table or json", f.output)
			case f.duration < 100*time.Millisecond:
				return usagef("--duration %v is too short to measure: use 100ms or more", f.duration)
			case len(f.charters) > 0:
				return benchGrowth(ctx, cmd, &f)
			case f.usage:
				return usageComparison.run(ctx, cmd, &f)
			case f.policy:
				return policyComparison.run(ctx, cmd, &f)
			case f.hot:
				return benchHot(ctx, cmd, &f)
			}
			return bench(ctx, cmd, &f)
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&f.duration, "duration", 3*time.Second, "how long to measure each, over all rounds")
	fl.IntSliceVar(&f.charters, "charters", nil, "measure growth with these numbers of charters, such as 100,10000,100000")
	fl.IntVar(&f.replicas, "replicas", 1, "servers on one etcd, over which the calls are spread")
	fl.BoolVar(&f.usage, "usage", false, "compare Reserve+Settle with and without the usage database")
	fl.BoolVar(&f.policy, "policy", false, "compare Reserve with policies and with a constant")
	fl.BoolVar(&f.hot, "hot", false, "use up one budget with all calls")
	fl.IntVar(&f.inFlight, "in-flight", 768, "with --hot: calls in flight over all replicas")
	fl.StringVarP(&f.output, "output", "o", "table", "table or json")
	fl.StringVar(&f.emptyServer, "empty-server", "", "")
	fl.StringVar(&f.etcdServer, "etcd-server", "", "")
	fl.StringVar(&f.etcdDir, "etcd-dir", "", "")
	for _, hidden := range []string{"empty-server", "etcd-server", "etcd-dir"} {
		if err := fl.MarkHidden(hidden); err != nil {
			panic(err)
		}
	}
	return cmd
}

// benchRounds is how often the measurements take turns.
const benchRounds = 3

// benchRow is what was measured of one kind of call.
type benchRow struct {
	Call                string  `json:"call"`
	InFlight            int     `json:"in_flight"`
	PerSecond           float64 `json:"per_second"`
	P50ms               float64 `json:"p50_ms"`
	P99ms               float64 `json:"p99_ms"`
	RatioToEmpty        float64 `json:"ratio_to_empty"` // of throughput, with as many in flight
	SettleP99ms         float64 `json:"settle_p99_ms,omitempty"`
	EtcdCommitsPer1000  float64 `json:"etcd_commits_per_1000"`
	EtcdCommitMeanMilli float64 `json:"etcd_commit_mean_ms,omitempty"`
	NanosPerCall        float64 `json:"ns_per_call,omitempty"`           // in the process
	CheckAllocs         *int64  `json:"allocations_per_check,omitempty"` // in the process
}

// subject is a kind of call to measure. It may record the Settle part of a call apart.
type subject struct {
	name string
	call call
}

type call = func(ctx context.Context, n int64, settle *replay.Latencies) error

// measured is what a subject runs on: one server, or several.
type measured interface {
	metrics(ctx context.Context) (map[string]float64, error)
}

// caller is a client of one server.
type caller struct {
	client  *chartergate.Client
	session *chartergate.Session
}

func newCaller(ctx context.Context, addr string) (c caller, err error) {
	if c.client, err = chartergate.Dial(addr); err != nil {
		return c, err
	}
	if c.session, err = c.client.Session(ctx); err != nil {
		return c, errors.Join(err, c.client.Close())
	}
	return c, nil
}

func (c caller) close() {
	c.session.Close()
	c.client.Close()
}

// spread lets the callers take turns.
func spread(callers []caller, of func(caller) call) call {
	calls := make([]call, len(callers))
	for i, c := range callers {
		calls[i] = of(c)
	}
	return func(ctx context.Context, n int64, settle *replay.Latencies) error {
		return calls[n%int64(len(calls))](ctx, n, settle)
	}
}

func serversText(n int) string {
	if n == 1 {
		return "a server"
	}
	return strconv.Itoa(n) + " servers on one etcd"
}

func bench(ctx context.Context, cmd *cobra.Command, f *benchFlags) (err error) {
	dir, err := os.MkdirTemp("", "chartergate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintf(cmd.ErrOrStderr(), "Starting %s and an empty gRPC server in %s\n", serversText(f.replicas), dir)
	server, err := startCluster(ctx, dir, f.replicas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	empty, err := startEmpty(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, empty.stop()) }()

	var callers []caller
	for _, replica := range server.servers {
		c, err := newCaller(ctx, replica.grpcAddr)
		if err != nil {
			return err
		}
		defer c.close()
		callers = append(callers, c)
	}
	if err := applyBench(ctx, callers[0].client, 1); err != nil {
		return err
	}
	subjects := []subject{
		empty.subject,
		{"Reserve", spread(callers, func(c caller) call { return reserveOnly(c.client.Preflight.Reserve) })},
		{"Reserve + Settle", spread(callers, func(c caller) call {
			return reserveAndSettle(c.client.Preflight.Reserve, c.client.Preflight.Settle)
		})},
		{"Session Reserve", spread(callers, func(c caller) call { return reserveOnly(unary(c.session.Reserve)) })},
		{"Session Reserve + Settle", spread(callers, func(c caller) call {
			return reserveAndSettle(unary(c.session.Reserve), unary(c.session.Settle))
		})},
	}
	var rows []benchRow
	for _, inFlight := range []int{1, 64} {
		measured, err := measureRounds(ctx, cmd.ErrOrStderr(), server, subjects, inFlight, f.duration/benchRounds)
		if err != nil {
			return err
		}
		rows = append(rows, measured...)
		if inFlight == 1 {
			leased, err := leaseRow(ctx, callers[0].client, measured[0], f.duration)
			if err != nil {
				return err
			}
			rows = append(rows, leased)
		}
	}
	return writeBench(cmd.OutOrStdout(), f.output, server.servers[0].startTime, f.replicas, rows)
}

// measureRounds lets the subjects take turns and gives the medians.
func measureRounds(ctx context.Context, log io.Writer, server measured, subjects []subject, inFlight int, each time.Duration) ([]benchRow, error) {
	rounds := make([][]benchRow, len(subjects))
	for _, s := range subjects { // connections, caches and the budgets' grants
		if _, err := measure(ctx, server, s, inFlight, each/5); err != nil {
			return nil, err
		}
	}
	for round := range benchRounds {
		fmt.Fprintf(log, "  %2d in flight, round %d of %d\n", inFlight, round+1, benchRounds)
		for i, s := range subjects {
			row, err := measure(ctx, server, s, inFlight, each)
			if err != nil {
				return nil, err
			}
			rounds[i] = append(rounds[i], row)
			rounds[i][round].RatioToEmpty = row.PerSecond / rounds[0][round].PerSecond
		}
	}
	rows := make([]benchRow, len(subjects))
	for i, s := range subjects {
		mid := func(of func(benchRow) float64) float64 {
			var v []float64
			for _, r := range rounds[i] {
				v = append(v, of(r))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		rows[i] = benchRow{
			Call: s.name, InFlight: inFlight,
			PerSecond:           mid(func(r benchRow) float64 { return r.PerSecond }),
			P50ms:               mid(func(r benchRow) float64 { return r.P50ms }),
			P99ms:               mid(func(r benchRow) float64 { return r.P99ms }),
			RatioToEmpty:        mid(func(r benchRow) float64 { return r.RatioToEmpty }),
			SettleP99ms:         mid(func(r benchRow) float64 { return r.SettleP99ms }),
			EtcdCommitsPer1000:  mid(func(r benchRow) float64 { return r.EtcdCommitsPer1000 }),
			EtcdCommitMeanMilli: mid(func(r benchRow) float64 { return r.EtcdCommitMeanMilli }),
		}
	}
	return rows, nil
}

// measure makes calls for a time. The first error ends it.
func measure(ctx context.Context, server measured, s subject, inFlight int, d time.Duration) (benchRow, error) {
	before, err := server.metrics(ctx)
	if err != nil {
		return benchRow{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu          sync.Mutex
		all, settle replay.Latencies
		workers     sync.WaitGroup
		number      atomic.Int64
	)
	start := time.Now()
	for range inFlight {
		workers.Go(func() {
			var calls, settles replay.Latencies
			for ctx.Err() == nil && time.Since(start) < d {
				began := time.Now()
				if err := s.call(ctx, number.Add(1), &settles); err != nil {
					cancel(fmt.Errorf("%s: %w", s.name, err))
					return
				}
				calls.Add(time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all.Merge(&calls)
			settle.Merge(&settles)
		})
	}
	workers.Wait()
	took := time.Since(start)
	if ctx.Err() != nil {
		return benchRow{}, context.Cause(ctx)
	}
	after, err := server.metrics(ctx)
	if err != nil {
		return benchRow{}, err
	}
	row := benchRow{
		PerSecond: float64(all.Count()) / took.Seconds(),
		P50ms:     inMillis(all.Percentile(500)), P99ms: inMillis(all.Percentile(990)), SettleP99ms: inMillis(settle.Percentile(990)),
	}
	commits := after[commitCount] - before[commitCount]
	row.EtcdCommitsPer1000 = commits / float64(max(1, all.Count())) * 1000
	if commits > 0 {
		row.EtcdCommitMeanMilli = (after[commitSum] - before[commitSum]) / commits * 1000
	}
	return row, nil
}

const (
	commitCount = "chartergate_etcd_commit_seconds_count"
	commitSum   = "chartergate_etcd_commit_seconds_sum"
)

func inMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

type (
	reserveFunc = func(context.Context, *pb.ReserveRequest, ...grpc.CallOption) (*pb.ReserveResponse, error)
	settleFunc  = func(context.Context, *pb.SettleRequest, ...grpc.CallOption) (*pb.SettleResponse, error)
)

// unary gives a session's method the form of a unary one.
func unary[Req, Resp any](call func(context.Context, Req) (Resp, error)) func(context.Context, Req, ...grpc.CallOption) (Resp, error) {
	return func(ctx context.Context, r Req, _ ...grpc.CallOption) (Resp, error) { return call(ctx, r) }
}

// reserveOnly leaves its holds to expire, after a second.
func reserveOnly(reserve reserveFunc) func(context.Context, int64, *replay.Latencies) error {
	return func(ctx context.Context, n int64, _ *replay.Latencies) error {
		_, err := benchReserve(ctx, reserve, benchCall("charter-0"), time.Second)
		return err
	}
}

func reserveAndSettle(reserve reserveFunc, settle settleFunc) func(context.Context, int64, *replay.Latencies) error {
	return func(ctx context.Context, n int64, times *replay.Latencies) error {
		hold, err := benchReserve(ctx, reserve, benchCall("charter-0"), time.Minute)
		if err != nil {
			return err
		}
		start := time.Now()
		_, err = settle(ctx, &pb.SettleRequest{
			Hold: hold, Usage: &pb.Usage{InputTokens: 900, CacheReadTokens: 120, OutputTokens: 129}, RequestId: requestID(),
		})
		times.Add(time.Since(start))
		return err
	}
}

func benchReserve(ctx context.Context, reserve reserveFunc, call *pb.Call, ttl time.Duration) (hold string, err error) {
	r, err := reserve(ctx, &pb.ReserveRequest{
		Call: call, Ttl: durationpb.New(ttl), RequestId: requestID(),
	})
	if err != nil {
		return "", err
	}
	if r.GetHold() == nil {
		return "", fmt.Errorf("the call was refused: %v", r.GetDecision().GetReasons())
	}
	return r.GetHold().GetToken(), nil
}

func benchCall(feature string) *pb.Call {
	return &pb.Call{
		Feature: feature, TaskClass: "chat", Complexity: 20, User: "u-1", Cohort: "pro", PromptPattern: "answer-v1",
		Estimate: &pb.Estimate{InputTokens: 1020, CachedInputTokens: 120, MaxOutputTokens: 400},
	}
}

var (
	benchRun    = strconv.FormatInt(time.Now().UnixNano(), 36)
	lastRequest atomic.Int64
)

func requestID() string { return benchRun + "-" + strconv.FormatInt(lastRequest.Add(1), 36) }

func writeBench(w io.Writer, output string, start time.Duration, replicas int, rows []benchRow) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(map[string]any{"replicas": replicas, "server_start_seconds": start.Seconds(), "calls": rows})
	}
	g := newGrid("CALL", ">IN FLIGHT", ">A SECOND", ">TO EMPTY", ">P50", ">P99", ">SETTLE P99", ">ETCD COMMITS/1,000", ">COMMIT MEAN")
	for _, r := range rows {
		p50, p99, settle, commit := millis(r.P50ms), millis(r.P99ms), "-", "-"
		if r.NanosPerCall > 0 {
			p50, p99 = fmt.Sprintf("%.0f ns", r.NanosPerCall), "-"
		}
		if r.SettleP99ms > 0 {
			settle = millis(r.SettleP99ms)
		}
		if r.EtcdCommitMeanMilli > 0 {
			commit = millis(r.EtcdCommitMeanMilli)
		}
		g.add(r.Call, strconv.Itoa(r.InFlight), thousands(int64(r.PerSecond)), fmt.Sprintf("%.2f", r.RatioToEmpty), p50,
			p99, settle, strconv.FormatFloat(r.EtcdCommitsPer1000, 'f', 1, 64), commit)
	}
	fmt.Fprintf(w, "\n%s, started in %.2f s. Medians of %d rounds; a pair counts as one call.\n\n", strings.ToUpper(serversText(replicas)[:1])+serversText(replicas)[1:], start.Seconds(), benchRounds)
	g.write(w, "  ")
	for _, r := range rows {
		if r.CheckAllocs != nil {
			fmt.Fprintf(w, "\nLeased calls are answered in the process: the mean is shown, and waiting for slices left out. A check allocates %d times.\n", *r.CheckAllocs)
		}
	}
	fmt.Fprint(w, "\nTime and allocations of the decision in the process:\n  go test -run '^$' -bench . -benchmem ./server/preflight\n")
	return nil
}

// emptyMethod does nothing: what gRPC itself costs.
const emptyMethod = "/chartergate.bench.Empty/Call"

// emptyServer is a child, and how to call it.
type emptyServer struct {
	*childServer
	subject subject
}

func startEmpty(ctx context.Context, dir string) (*emptyServer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	child, err := startChild(ctx, dir, addr, "", "bench", "--empty-server", addr)
	if err != nil {
		return nil, err
	}
	client, err := chartergate.Dial(addr)
	if err != nil {
		return nil, errors.Join(err, child.stop())
	}
	return &emptyServer{child, subject{"empty unary call", func(ctx context.Context, _ int64, _ *replay.Latencies) error {
		return client.Conn().Invoke(ctx, emptyMethod, &emptypb.Empty{}, new(emptypb.Empty))
	}}}, nil
}

func serveEmpty(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "chartergate.bench.Empty", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Call", Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(emptypb.Empty)
			return in, decode(in)
		}}},
	}, struct{}{})
	healthpb.RegisterHealthServer(s, health.NewServer())
	context.AfterFunc(ctx, s.GracefulStop)
	return s.Serve(l)
}
