package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	chartergate "github.com/chartergate/chartergate/clients/go"
	"github.com/chartergate/chartergate/examples"
	"github.com/chartergate/chartergate/manifest"
	pb "github.com/chartergate/chartergate/proto/gen/go/chartergate/v1"
	"github.com/chartergate/chartergate/replay"
)

func newDemoCommand() *cobra.Command {
	var seed uint64
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch a company's AI calls being gated, in ten seconds",
		Long: `Start a server in a temporary directory, apply the example company, and send made-up calls of its four features through
the gate until one budget is used up. Nothing is left behind.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop)
			return runDemo(ctx, newStory(cmd.OutOrStdout()), seed)
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 20261123, "seed of the made-up calls")
	return cmd
}

// demoFeature is a feature of the examples, the shape of its calls, and how many it makes in an ordinary hour.
type demoFeature struct {
	name, workload string
	calls          int
}

var demoFeatures = []demoFeature{
	{"support-copilot", "conversation", 2000},
	{"code-assistant", "code", 1000},
	{"contract-extraction", "extraction", 200},
	{"research-agent", "research", 400},
}

// What is sent fast is sent at a multiple of its own times, so that a person can follow.
const (
	busyFeature     = "support-copilot"
	busyConcurrency = 32
	busyCalls       = 4000   // that the busy feature's budget is left to pay, at the cost of the ordinary hour
	busyMost        = 30_000 // calls, whatever they cost
	busyDenials     = 200    // after which the point is made
	busySpeed       = 300

	// One run of this feature does not stop by itself. It has a ceiling for each run.
	loopFeature  = "research-agent"
	loopMost     = 600 // calls
	loopRefusals = 3   // after which the point is made
	loopSpeed    = 10
)

// demo is a running demo.
type demo struct {
	*story
	client *chartergate.Client
	seed   uint64

	mu      sync.Mutex
	results map[string][]*replay.Result // by feature
}

func runDemo(ctx context.Context, s *story, seed uint64) (err error) {
	dir, err := os.MkdirTemp("", "chartergate-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s.title("Chartergate: the gate every AI call passes before it spends")
	s.chapter("A server of its own")
	server, err := startServer(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	s.tell("One process with etcd inside, in %s: up in %.1f s, gRPC on %s, HTTP on %s.", dir, server.startTime.Seconds(), server.grpcAddr, server.httpAddr)
	client, err := chartergate.Dial(server.grpcAddr)
	if err != nil {
		return err
	}
	defer client.Close()
	d := &demo{story: s, client: client, seed: seed, results: map[string][]*replay.Result{}}
	watchCtx, stopWatch := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() { watched <- d.watch(watchCtx) }()
	defer func() {
		stopWatch()
		err = errors.Join(err, <-watched)
	}()
	for _, step := range []func(context.Context) error{d.apply, d.ordinaryHour, d.loop, d.busyDay, d.reckon} {
		err := step(ctx)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return err
		}
	}
	d.whatNext()
	return nil
}

func (d *demo) apply(ctx context.Context) error {
	d.chapter("The company's charters")
	resources, err := exampleResources()
	if err != nil {
		return err
	}
	if _, err := d.client.Manifests.Apply(ctx, &pb.ApplyRequest{Resources: resources}); err != nil {
		return fmt.Errorf("apply the examples: %w", err)
	}
	d.company(resources)
	return nil
}

// exampleResources are the manifests that the binary carries.
func exampleResources() ([]*pb.Resource, error) {
	files, err := fs.Glob(examples.FS, "acme/*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*pb.Resource
	for _, file := range files {
		data, err := fs.ReadFile(examples.FS, file)
		if err != nil {
			return nil, err
		}
		resources, err := manifest.Parse("examples/"+file, data)
		if err != nil {
			return nil, err
		}
		all = append(all, resources...)
	}
	return all, nil
}

// ordinaryHour sends the calls of all features at once.
func (d *demo) ordinaryHour(ctx context.Context) error {
	d.chapter("An ordinary hour")
	d.tell("The four features make calls whose sizes follow published traces (Azure 2023, Mooncake).")
	d.tell("Each call asks first; the policy picks the smallest tier that is good enough, the ledger holds the money.")
	var g errgroup.Group
	start := time.Now()
	for i, f := range demoFeatures {
		g.Go(func() error {
			return d.send(ctx, f.name, f.workload, d.seed+uint64(i), f.calls, replay.Options{Concurrency: 8}, nil)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.served(time.Since(start))
	return nil
}

// loop sends one run that goes round in circles until its own ceiling stops it.
func (d *demo) loop(ctx context.Context) error {
	d.chapter("An agent that goes round in circles")
	d.tell("One run of %s does not end. Each run has a ceiling of its own. Its calls come %d times as fast as in the trace.", loopFeature, loopSpeed)
	runCtx, enough := context.WithCancel(ctx)
	defer enough()
	refusals := 0
	d.startClock()
	err := d.send(runCtx, loopFeature, "loop", d.seed+50, loopMost, replay.Options{Speed: loopSpeed}, func(a *replay.Answer) {
		d.answered(a)
		if a.Settlement == nil && a.Err == nil {
			if refusals++; refusals == loopRefusals {
				enough()
			}
		}
	})
	if err != nil {
		return err
	}
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	d.refused(d.last(loopFeature))
	return nil
}

// watch tells alerts at the moment when they are recorded, until ctx ends.
func (d *demo) watch(ctx context.Context) error {
	stream, err := d.client.Budgets.WatchBudgetStatuses(ctx, &pb.WatchBudgetStatusesRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch the budgets: %w", err)
		}
		for _, s := range m.GetStatuses() {
			d.alerted(s.GetAlerts())
		}
	}
}

// catchUp tells the alerts that the watch, which sends at most four times a second, has not told yet.
func (d *demo) catchUp(ctx context.Context) error {
	r, err := d.client.Budgets.ListBudgetAlerts(ctx, &pb.ListBudgetAlertsRequest{PageSize: 1000})
	if err != nil {
		return err
	}
	d.alerted(r.GetAlerts())
	return nil
}

func (d *demo) last(feature string) *replay.Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.results[feature][len(d.results[feature])-1]
}

// send replays a workload through the gate.
func (d *demo) send(ctx context.Context, feature, workload string, seed uint64, calls int, o replay.Options, seen func(*replay.Answer)) error {
	rows, err := replay.Generate(workload, seed)
	if err != nil {
		return err
	}
	o.Feature, o.RunID = feature, fmt.Sprintf("%s-%d", feature, seed)
	r, err := replay.Run(ctx, o, d.client.Preflight, replay.Limit(rows, calls), seen)
	if err != nil {
		return err
	}
	if r.Errors > 0 {
		return fmt.Errorf("%s: %d of %d calls had no answer; the first: %s", feature, r.Errors, r.Requests, r.FirstError)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.results[feature] = append(d.results[feature], r)
	return nil
}

// busyDay sends calls of one feature until its budget, and what the charter allows beyond it, are used up.
func (d *demo) busyDay(ctx context.Context) error {
	d.chapter("A busy day for " + busyFeature)
	charter, err := d.client.Charters.GetCharter(ctx, &pb.GetCharterRequest{Name: "charters/" + busyFeature})
	if err != nil {
		return err
	}
	if err := d.tighten(ctx, charter); err != nil {
		return err
	}
	runCtx, enough := context.WithCancel(ctx)
	defer enough()
	d.tell("The calls come %d times as fast as in the trace.", busySpeed)
	d.startClock()
	denied := 0
	err = d.send(runCtx, busyFeature, "conversation", d.seed+100, busyMost, replay.Options{Speed: busySpeed, Concurrency: busyConcurrency}, func(a *replay.Answer) {
		d.answered(a)
		if a.Decision.GetEffect() == pb.Effect_EFFECT_DENY {
			if denied++; denied == busyDenials {
				enough()
			}
		}
	})
	if err != nil {
		return err
	}
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	d.refused(d.last(busyFeature))
	return nil
}

// tighten lowers the busy feature's limit and overflow allowance to what a few seconds of calls use up.
func (d *demo) tighten(ctx context.Context, charter *pb.Charter) error {
	budget, err := d.client.Budgets.GetBudget(ctx, &pb.GetBudgetRequest{Name: charter.GetBudget()})
	if err != nil {
		return err
	}
	hour := d.results[busyFeature][0]
	served := hour.Allowed + hour.Downgraded
	if served == 0 {
		return fmt.Errorf("no call of %s was admitted: %v", busyFeature, hour.RefusedByReason)
	}
	perCall := hour.SettledNanos / served
	limit := hour.SettledNanos + busyCalls*perCall
	if budget.GetLimitNanos() > limit {
		_, err := d.client.Budgets.UpdateBudget(ctx, &pb.UpdateBudgetRequest{
			Budget:     &pb.Budget{Name: budget.GetName(), LimitNanos: limit},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"limit_nanos"}},
		})
		if err != nil {
			return err
		}
		d.tell("%s is %s %s a %s: hours of calls. So that it is used up in seconds, the demo lowers it to %s first.",
			budget.GetName(), amount(budget.GetLimitNanos()), budget.GetCurrency(), periodName(budget.GetPeriod()), amount(limit))
	}
	overflow := limit / 50
	if charter.GetExhausted().GetOverflowAllowanceNanos() > overflow {
		_, err := d.client.Charters.UpdateCharter(ctx, &pb.UpdateCharterRequest{
			Charter:    &pb.Charter{Name: charter.GetName(), Exhausted: &pb.Exhausted{OverflowAllowanceNanos: overflow}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"exhausted.overflow_allowance_nanos"}},
		})
		if err != nil {
			return err
		}
		d.tell("And its overflow allowance from %s to %s.", amount(charter.GetExhausted().GetOverflowAllowanceNanos()), amount(overflow))
	}
	return nil
}

// reckon shows the money and checks that the clients and the ledger agree.
func (d *demo) reckon(ctx context.Context) error {
	d.chapter("Where the money went")
	budgets, err := pages(func(token string) (*pb.ListBudgetsResponse, error) {
		return d.client.Budgets.ListBudgets(ctx, &pb.ListBudgetsRequest{PageSize: pageSize, PageToken: token})
	}, (*pb.ListBudgetsResponse).GetBudgets)
	if err != nil {
		return err
	}
	all, err := pages(func(token string) (*pb.ListBudgetStatusesResponse, error) {
		return d.client.Budgets.ListBudgetStatuses(ctx, &pb.ListBudgetStatusesRequest{PageSize: pageSize, PageToken: token})
	}, (*pb.ListBudgetStatusesResponse).GetStatuses)
	if err != nil {
		return err
	}
	statuses := make(map[string]*pb.BudgetStatus, len(all))
	for _, s := range all {
		statuses[s.GetName()] = s
	}
	d.tree(budgets, statuses)
	d.costs()
	return d.agree(budgets, statuses)
}

// agree compares what the clients saw settled with the ledger: of the busy feature with its budget and its overflow
// allowance, which nobody else spends from; of all features with the root budgets, which every call is charged to.
func (d *demo) agree(budgets []*pb.Budget, statuses map[string]*pb.BudgetStatus) error {
	seen := map[string]int64{}
	var all int64
	for feature, results := range d.results {
		for _, r := range results {
			seen[feature] += r.SettledNanos
			all += r.SettledNanos
		}
	}
	leaf := "budgets/" + busyFeature
	ledger := statuses[leaf].GetSettledNanos() + statuses[leaf+"/overflow/"+busyFeature].GetSettledNanos()
	if seen[busyFeature] != ledger {
		return fmt.Errorf("the clients of %s saw %d nanos settled, the ledger says %d", busyFeature, seen[busyFeature], ledger)
	}
	var roots int64
	for _, b := range budgets {
		if b.GetParent() == "" {
			roots += statuses[b.GetName()].GetSettledNanos()
		}
	}
	if all != roots {
		return fmt.Errorf("the clients saw %d nanos settled, the ledger says %d", all, roots)
	}
	d.agreed(seen[busyFeature], all)
	return nil
}
